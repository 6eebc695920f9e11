"""Which tokens MLM hides, and what it puts in their place."""

import itertools
import random

import torch
from torch import Tensor

from text_utils.masking import mask_tokens
from text_utils.tokenizer import CLIPTokenizer

MASK, START, END, VOCABULARY = 7, 8, 9, 10
LENGTH = 70


def mask(ids: Tensor, real: Tensor, seed: int, vocabulary: int = VOCABULARY) -> tuple[Tensor, Tensor]:
    return mask_tokens(ids, real, random.Random(seed), MASK, (START, END, MASK), vocabulary)


def rows(number: int) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Captions of 70 tokens (1 to 6), and padding: their ids, attention mask, masked ids and labels."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for seed in range(number):
        words = torch.randint(1, 7, (LENGTH,), generator=generator)
        ids = torch.cat(
            [torch.tensor([START]), words, torch.tensor([END]), torch.zeros(5, dtype=torch.int64)]
        )
        real = (ids > 0).long()
        made.append((ids, real, *mask(ids, real, seed)))
    return made


def close(count: int, trials: int, share: float) -> bool:
    """Whether a count is within four standard deviations of what is expected."""
    return abs(count - trials * share) <= 4 * (trials * share * (1 - share)) ** 0.5


def test_fifteen_percent_are_masked_and_of_these_eight_in_ten_hidden_and_one_replaced() -> None:
    ids, _, masked, labels = (torch.stack(parts) for parts in zip(*rows(500), strict=True))
    chosen = labels != -100
    num_chosen = int(chosen.sum())
    assert close(num_chosen, 500 * LENGTH, 0.15)
    assert close(int((masked[chosen] == MASK).sum()), num_chosen, 0.8)
    # One in ten becomes any of the seven plain tokens, 0 to 6, itself among them.
    assert close(int((masked[chosen] == ids[chosen]).sum()), num_chosen, 0.1 + 0.1 / 7)
    replaced = masked[chosen & (masked != MASK) & (masked != ids)]
    assert close(len(replaced), num_chosen, 0.1 * 6 / 7)
    assert set(replaced.tolist()) == set(range(7))


def test_labels_are_the_tokens_that_were_masked_and_all_others_stay() -> None:
    for ids, _, masked, labels in rows(50):
        chosen = labels != -100
        assert torch.equal(labels[chosen], ids[chosen])
        assert torch.equal(masked[~chosen], ids[~chosen])
        assert labels.dtype == masked.dtype == torch.int64


def test_start_end_and_padding_are_never_masked_and_never_put_in_place() -> None:
    for ids, real, masked, labels in rows(300):
        special = (ids == START) | (ids == END) | (real == 0)
        assert (labels[special] == -100).all()
        assert torch.equal(masked[special], ids[special])
        assert not ((masked == START) & (ids != START)).any()
        assert not ((masked == END) & (ids != END)).any()


def test_masking_depends_on_its_generator_and_not_on_the_padding() -> None:
    ids = torch.tensor([START, *range(1, 7), *range(1, 7), END])
    ones = torch.ones_like(ids)
    before = ids.clone()
    differ = 0
    for seed in range(20):
        masked, labels = mask(ids, ones, seed)
        padded, padded_labels = mask(
            torch.cat([ids, torch.zeros(9, dtype=torch.int64)]),
            torch.cat([ones, torch.zeros(9, dtype=torch.int64)]),
            seed,
        )
        assert torch.equal(padded[: len(ids)], masked)
        assert torch.equal(padded_labels[: len(ids)], labels)
        differ += not torch.equal(labels, mask(ids, ones, seed + 100)[1])
    assert differ > 10
    assert torch.equal(ids, before)


def test_any_caption_keeps_its_start_and_end() -> None:
    tokenizer = CLIPTokenizer()
    captions = ("", "man", "穿黑色外套的男人", "a man 😀", "word " * 500)
    for caption, seed in itertools.product(captions, range(20)):
        tokens = tokenizer([caption])
        masked, labels = mask_tokens(
            tokens["input_ids"][0],
            tokens["attention_mask"][0],
            random.Random(seed),
            tokenizer.mask_token_id,
            tokenizer.special_ids,
            tokenizer.vocab_size,
        )
        assert (masked[0], masked[-1]) == (tokenizer.sot_token_id, tokenizer.eot_token_id)
        assert not set(masked[1:-1].tolist()) & {tokenizer.sot_token_id, tokenizer.eot_token_id}
        assert (labels[0], labels[-1]) == (-100, -100)
        assert masked.max() < tokenizer.vocab_size


def masked_as_irra(words: list[int], seed: int, length: int = 77) -> tuple[list[int], list[int]]:
    """A caption of CLIP's ids, padded, masked as `experiment.mlm_variant=irra` says: its ids and labels."""
    ids = torch.tensor([49406, *words, 49407])
    padding = (0, length - len(ids))
    masked, labels = mask_tokens(
        torch.nn.functional.pad(ids, padding),
        torch.nn.functional.pad(torch.ones_like(ids), padding),
        random.Random(seed),
        mask_id=49405,
        special_ids=(*CLIPTokenizer.special_ids, 0),
        vocab_size=49408,
        at_least_one=True,
    )
    return masked.tolist(), labels.tolist()


def test_where_no_token_is_chosen_the_first_word_becomes_the_mask() -> None:
    """By hand: of one word, 85 % are not chosen; these and 80 % of the others become the mask."""
    number = {"mask": 0, "other": 0}
    for seed in range(1000):
        masked, labels = masked_as_irra([320], seed)
        assert labels == [-100, 320, *[-100] * 75]
        assert masked[0] == 49406
        assert masked[2:] == [49407, *[0] * 74]
        number["mask" if masked[1] == 49405 else "other"] += 1
    assert close(number["other"], 1000, 0.15 * 0.2)
    for seed in range(300):
        masked, labels = masked_as_irra([0, 0, 320, 533], seed)  # "!" is id 0
        assert masked[:3] == [49406, 0, 0]
        assert {place for place, label in enumerate(labels) if label != -100} in ({3}, {4}, {3, 4})


def test_irras_random_tokens_are_neither_special_nor_zero() -> None:
    replaced = {
        token
        for seed in range(400)
        for token in masked_as_irra([7] * 75, seed)[0][1:76]
        if token not in (7, 49405)
    }
    assert len(replaced) > 350
    assert 1 <= min(replaced) < 500
    assert 48_900 < max(replaced) < 49_405


def test_a_caption_without_words_has_nothing_to_mask() -> None:
    for words in ([], [0, 0], [49405]):
        masked, labels = masked_as_irra(words, seed=0)
        assert masked == [49406, *words, 49407, *[0] * (75 - len(words))]
        assert labels == [-100] * 77
