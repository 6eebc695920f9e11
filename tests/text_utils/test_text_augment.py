"""Augmentation of captions."""

import itertools
import pickle
import random
import re
from collections import Counter

import numpy as np
import pytest

from options import TEXT_AUGMENTATIONS
from text_utils.augment import (
    OPERATIONS,
    TextAugmentation,
    augment_tokens,
    back_translate,
    random_deletion,
    random_insertion,
    random_swap,
    synonym_replacement,
)
from text_utils.captions import clean_caption
from text_utils.tokenizer import CLIPTokenizer

CAPTION = "the man has short hair, and he wears a red jacket with blue jeans"  # 14 words
SYNONYMS = {"man": ("adult male", "gentleman"), "hair": ("fuzz",), "jacket": ("coat",), "jeans": ("denim",)}
HARD_CAPTIONS = [
    "man",
    "a man walks",
    "穿黑色外套的男人背着红色背包",
    "a man 😀 with 🎒",
    " ".join(f"word{n}" for n in range(500)),
]


def test_the_back_translation_is_taken_with_its_probability() -> None:
    rng = random.Random(0)
    taken = sum(back_translate("a", "b", 0.1, rng) == "b" for _ in range(10_000))
    assert taken == pytest.approx(1000, abs=4 * 30)  # four standard deviations


def test_a_missing_back_translation_is_never_taken() -> None:
    for missing in (None, "", "  \n"):
        assert back_translate("a man", missing, 1.0, random.Random(0)) == "a man"


def test_each_word_is_deleted_with_its_probability() -> None:
    caption = " ".join(map(str, range(100)))
    rng = random.Random(0)
    kept = [word for _ in range(100) for word in random_deletion(caption, 0.05, rng).split()]
    assert len(kept) == pytest.approx(9500, abs=4 * 22)
    assert set(kept) == set(caption.split())


def test_deletion_keeps_the_order_of_the_words() -> None:
    caption = " ".join(f"{n:03}" for n in range(100))
    left = random_deletion(caption, 0.5, random.Random(1)).split()
    assert left == sorted(left)
    assert 20 < len(left) < 80


def test_some_word_always_stays_and_not_always_the_same() -> None:
    rng = random.Random(0)
    assert {random_deletion("red blue green", 1.0, rng) for _ in range(100)} == {"red", "blue", "green"}


def test_any_caption_comes_out_as_text_of_its_own_words() -> None:
    for caption, p, seed in itertools.product(HARD_CAPTIONS, (0.0, 0.05, 0.9, 1.0), range(20)):
        kept = random_deletion(clean_caption(caption), p, random.Random(seed))
        assert isinstance(kept, str)
        assert kept
        assert set(kept.split()) <= set(re.split(r"\s+", caption))


def test_there_is_an_operation_for_each_value_of_the_option() -> None:
    assert set(OPERATIONS) == set(TEXT_AUGMENTATIONS)


def draws(operation: str, caption: str = CAPTION, alpha: float = 0.1, number: int = 200) -> list[str]:
    return [OPERATIONS[operation](caption, alpha, SYNONYMS, random.Random(seed)) for seed in range(number)]


@pytest.mark.parametrize(("alpha", "num"), [(0.01, 1), (0.15, 2), (0.9, 4)])
def test_synonyms_take_the_place_of_as_many_words_as_alpha_says(alpha: float, num: int) -> None:
    """max(1, int(14 alpha)) of the four words that have synonyms; a comma beside a word stays."""
    words = CAPTION.split()
    replaced = Counter()
    for seed in range(300):
        drawn = synonym_replacement(CAPTION, alpha, SYNONYMS, random.Random(seed)).replace(
            "adult male", "adult_male"
        )
        changes = [(a, b) for a, b in zip(words, drawn.split(), strict=True) if a != b]
        assert len(changes) == num
        replaced.update(changes)
    assert set(replaced) == {
        ("man", "adult_male"),
        ("man", "gentleman"),
        ("hair,", "fuzz,"),
        ("jacket", "coat"),
        ("jeans", "denim"),
    }


@pytest.mark.parametrize(("alpha", "num"), [(0.01, 1), (0.14, 1), (0.22, 3), (0.5, 7)])
def test_insertion_adds_as_many_synonyms_as_alpha_says_anywhere(alpha: float, num: int) -> None:
    places, inserted = Counter(), Counter()
    for seed in range(400):
        words = (
            random_insertion(CAPTION, alpha, SYNONYMS, random.Random(seed))
            .replace("adult male", "adult_male")
            .split()
        )
        new = [place for place, word in enumerate(words) if word not in CAPTION.split()]
        assert len(new) == num
        assert [word for word in words if word in CAPTION.split()] == CAPTION.split()
        places.update(new)
        inserted.update(words[place] for place in new)
    assert set(inserted) == {"adult_male", "gentleman", "fuzz", "coat", "denim"}
    assert {0, 14} <= set(places), "the first place and the last"


def test_swap_exchanges_two_words_that_many_times() -> None:
    words = CAPTION.split()
    for seed in range(200):
        once = random_swap(CAPTION, 0.01, random.Random(seed)).split()
        assert sorted(once) == sorted(words)
        different = [place for place, (a, b) in enumerate(zip(words, once, strict=True)) if a != b]
        assert len(different) == 2
        assert once[different[0]] == words[different[1]]
        thrice = random_swap(CAPTION, 0.22, random.Random(seed)).split()
        assert sorted(thrice) == sorted(words)
        assert sum(a != b for a, b in zip(words, thrice, strict=True)) <= 6


def test_eda_draws_each_of_the_four_operations_as_often() -> None:
    counts = Counter()
    for drawn in draws("eda", alpha=0.15, number=2000):
        words = drawn.replace("adult male", "adult_male").split()
        kept = sorted(set(CAPTION.split()) & set(words))
        if len(words) > 14:
            counts["insertion"] += 1
        elif len(kept) == 14 and drawn != CAPTION:
            counts["swap"] += 1
        elif len(words) == 14 and drawn != CAPTION:
            counts["synonym"] += 1
        else:
            counts["deletion"] += 1  # or a swap back, one of 91 that undoes itself: 5 of these 2000
    assert all(
        counts[name] == pytest.approx(500, abs=4 * 19.4 + 6) for name in ("insertion", "swap", "synonym")
    )
    assert counts["deletion"] == pytest.approx(500, abs=4 * 19.4 + 6)


def test_an_alpha_of_zero_changes_nothing() -> None:
    for operation in TEXT_AUGMENTATIONS:
        assert set(draws(operation, alpha=0.0)) == {CAPTION}


@pytest.mark.parametrize("operation", sorted(set(TEXT_AUGMENTATIONS) - {"none", "tokens"}))
def test_an_operation_changes_captions_by_its_generator_alone(operation: str) -> None:
    state = random.getstate()
    assert draws(operation, alpha=0.15) == draws(operation, alpha=0.15)
    assert len(set(draws(operation, alpha=0.15))) > 8
    assert random.getstate() == state


@pytest.mark.parametrize("operation", TEXT_AUGMENTATIONS)
def test_any_caption_comes_out_as_text_or_as_it_was(operation: str) -> None:
    captions = [*HARD_CAPTIONS, "hair", "...", "?,?", ""]
    for caption, back, alpha in itertools.product(captions, (None, "", "  ", "the man"), (0.05, 0.9)):
        augment = TextAugmentation(operation, alpha, back_translation_p=0.5, synonyms=SYNONYMS)
        for seed in range(10):
            drawn = augment(caption, back, "en", random.Random(seed))
            assert drawn or not clean_caption(caption)
            assert drawn == clean_caption(drawn), "clean, with single spaces"


def test_captions_are_cleaned_by_the_cleaning_that_was_chosen() -> None:
    augment = TextAugmentation(clean=str.upper)
    assert augment("a man.", None, "en", random.Random(0)) == "A MAN."


@pytest.mark.parametrize("operation", ["synonym", "insertion"])
def test_captions_in_other_languages_get_no_english_synonyms(operation: str) -> None:
    augment = TextAugmentation(operation, 0.5, synonyms=SYNONYMS)
    for seed in range(20):
        assert augment(CAPTION, None, "fr", random.Random(seed)) == CAPTION
        assert augment(CAPTION, None, "en", random.Random(seed)) != CAPTION


def test_eda_still_swaps_and_deletes_words_of_other_languages() -> None:
    augment = TextAugmentation("eda", 0.3, synonyms=SYNONYMS)
    drawn = {augment(CAPTION, None, "fr", random.Random(seed)) for seed in range(100)}
    assert {len(caption.split()) < 14 for caption in drawn} == {True, False}
    assert set(" ".join(drawn).split()) == set(CAPTION.split())


def test_a_text_augmentation_travels_to_workers() -> None:
    augment = TextAugmentation("eda", 0.3, 0.5, SYNONYMS)
    there = pickle.loads(pickle.dumps(augment))
    for seed in range(20):
        assert augment(CAPTION, "x", "en", random.Random(seed)) == there(
            CAPTION, "x", "en", random.Random(seed)
        )


MASK, START, END, PADDING = 49405, 49406, 49407, 0


def changed_tokens(words: list[int], seed: int, share: float = 0.2) -> list[int]:
    """The words of a caption after the augmentation of its tokens, without start and end."""
    special = (*CLIPTokenizer.special_ids, PADDING)
    ids = augment_tokens([START, *words, END], random.Random(seed), share, MASK, special, 49408)
    assert (ids[0], ids[-1]) == (START, END)
    return ids[1:-1]


def test_a_fifth_of_the_tokens_is_changed_sixty_twenty_twenty() -> None:
    """Words in rising order, far apart: a word at its place stays, what is no word is a random id."""
    words, trials = list(range(1000, 8000, 100)), 70 * 300
    counts = Counter()
    for seed in range(300):
        for token in changed_tokens(words, seed):
            counts["mask" if token == MASK else "stays" if token in words else "random"] += 1
            assert 1 <= token <= MASK
    counts["removed"] = trials - counts.total()
    for kind, share in {"mask": 0.12, "random": 0.04, "removed": 0.04, "stays": 0.8}.items():
        # Of 49,404 random ids 70 are words: less than one of these draws.
        assert counts[kind] == pytest.approx(trials * share, abs=4 * (trials * share * (1 - share)) ** 0.5)


def test_what_follows_a_removed_token_moves_up() -> None:
    class Scripted(random.Random):
        """Yields the numbers of a list, and 99 as an id."""

        draws = iter((0.9, *(0.1, 0.85), *(0.1, 0.5), *(0.1, 0.7), 0.2))

        def random(self) -> float:
            return next(self.draws)

        def randrange(self, *_: int) -> int:
            return 99

    changed = augment_tokens([START, 10, 11, 12, 13, 14, END], Scripted(), 0.2, MASK, (START, END), 49408)
    assert changed == [START, 10, MASK, 99, 14, END]  # 11 removed, 12 masked, 13 at random


def test_random_tokens_are_drawn_from_all_ordinary_ids() -> None:
    drawn = [t for seed in range(40) for t in changed_tokens([7] * 500, seed, 0.99) if t not in (7, MASK)]
    counts, _ = np.histogram(drawn, bins=8, range=(1, 49405))
    assert min(drawn) >= 1
    assert max(drawn) < MASK
    expected = len(drawn) / 8
    assert ((counts - expected) ** 2 / expected).sum() < 30  # chi squared of 7 degrees, p < 0.0001


def test_the_last_token_of_a_caption_is_not_removed() -> None:
    kinds = Counter(tuple(changed_tokens([500], seed, 0.999)) for seed in range(400))
    assert () not in kinds
    assert kinds[(500,)] == pytest.approx(80, abs=4 * 8)  # would have been removed
    assert kinds[(MASK,)] == pytest.approx(240, abs=4 * 10)
    pairs = Counter(tuple(changed_tokens([500, 501], seed, 0.999)) for seed in range(3000))
    assert () not in pairs
    assert pairs[(501,)] == pytest.approx(3000 * 0.2**2, abs=4 * 11)  # both would go: the second one stays
    assert changed_tokens([], 0, 0.999) == []


def test_special_tokens_and_padding_ids_are_not_changed() -> None:
    for seed in range(200):
        kept = changed_tokens([PADDING, MASK] * 5, seed, 0.999)
        assert kept == [PADDING, MASK] * 5
