"""Cleaning and augmentation of captions."""

import random
import re

import pytest

from text_utils.augment import back_translate, random_deletion
from text_utils.captions import clean_caption

HARD_CAPTIONS = [
    "man",
    "a man walks",
    "穿黑色外套的男人背着红色背包",
    "a man 😀 with 🎒",
    " ".join(f"word{n}" for n in range(500)),
]


def test_marks_become_spaces_and_runs_of_space_collapse() -> None:
    text = '  A "Young" man;(tall)\n wears: #1 T-shirt,  blue~jeans*and... shoes! '
    assert clean_caption(text) == "a young man tall wears 1 t-shirt, blue jeans and shoes"


def test_each_of_the_ten_marks_is_a_space_and_no_other_mark_is() -> None:
    assert clean_caption("a".join('.!"()*#:;~')) == "a a a a a a a a a"
    kept = "a,b-c/d'e?f&g%h"
    assert clean_caption(kept) == kept


def test_a_caption_is_cut_at_77_words() -> None:
    words = [f"w{n}" for n in range(80)]
    assert clean_caption(" ".join(words)) == " ".join(words[:77])
    assert clean_caption("one two three", max_words=2) == "one two"


def test_a_language_without_spaces_is_not_cut_by_words() -> None:
    text = "穿黑色外套的男人" * 50
    assert clean_caption(text) == text


def test_the_back_translation_is_taken_with_its_probability() -> None:
    rng = random.Random(0)
    taken = sum(back_translate("a", "b", 0.1, rng) == "b" for _ in range(10_000))
    assert taken == pytest.approx(1000, abs=4 * 30)  # four standard deviations


@pytest.mark.parametrize("missing", [None, "", "  \n"])
def test_a_missing_back_translation_is_never_taken(missing: str | None) -> None:
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


@pytest.mark.parametrize("caption", HARD_CAPTIONS)
@pytest.mark.parametrize("p", [0.0, 0.05, 0.9, 1.0])
def test_any_caption_comes_out_as_text_of_its_own_words(caption: str, p: float) -> None:
    for seed in range(20):
        left = random_deletion(clean_caption(caption), p, random.Random(seed))
        assert isinstance(left, str)
        assert left
        assert set(left.split()) <= set(re.split(r"\s+", caption))


def test_one_word_is_left_alone() -> None:
    assert random_deletion("穿黑色外套的男人", 1.0, random.Random(0)) == "穿黑色外套的男人"
