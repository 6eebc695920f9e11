"""MixGen by hand: which pairs are mixed, how, and that the given ones stay as they are."""

import copy
import random

import pytest
import torch
from torch import Tensor

from data.datasets import Sample
from data.mixgen import mixgen


def gray(value: int, height: int = 4, width: int = 5) -> Tensor:
    return torch.full((3, height, width), value, dtype=torch.uint8)


def a_batch(size: int, second: bool = False) -> list[Sample]:
    """Row i is gray 20 i (simclr1: 20 i + 1) and described as "caption i"."""
    return [
        Sample(
            {"view1": gray(20 * i), "simclr1": gray(20 * i + 1)},
            f"caption {i}",
            person_id=i,
            index=100 + i,
            second_caption=f"second {i}" if second else None,
            seed=i,
        )
        for i in range(size)
    ]


def mix(samples: list[Sample], kind: str = "ori", p: float = 1.0, ratio: float = 0.3) -> list[Sample]:
    return mixgen(samples, random.Random(0), kind, p, ratio)


def grays(samples: list[Sample], view: str = "view1") -> list[set[int]]:
    return [set(sample.images[view].flatten().tolist()) for sample in samples]


def test_the_first_rows_are_averaged_with_the_rows_after_them() -> None:
    mixed = mix(a_batch(7, second=True))  # 0.3 * 7 = 2.1: rows 0 and 1, with rows 2 and 3
    assert grays(mixed) == [{20}, {40}, {40}, {60}, {80}, {100}, {120}]
    assert grays(mixed, "simclr1") == [{21}, {41}, {41}, {61}, {81}, {101}, {121}]
    captions = ["caption 0 caption 2", "caption 1 caption 3", *(f"caption {i}" for i in range(2, 7))]
    assert [sample.caption for sample in mixed] == captions
    assert [s.second_caption for s in mixed] == [text.replace("caption", "second") for text in captions]
    assert [sample.person_id for sample in mixed] == list(range(7))
    assert [sample.index for sample in mixed] == list(range(100, 107))
    assert all(sample.images["view1"].dtype == torch.uint8 for sample in mixed)


def test_halves_are_rounded_up_and_bright_pixels_do_not_overflow() -> None:
    a, b = a_batch(2)
    a.images["view1"], b.images["view1"] = gray(255), gray(254)
    assert grays(mix([a, b])) == [{255}, {254}]
    a.images["view1"], b.images["view1"] = gray(255), gray(255)
    assert grays(mix([a, b])) == [{255}, {255}]
    a.images["view1"], b.images["view1"] = gray(3), gray(6)
    assert grays(mix([a, b])) == [{5}, {6}]


def test_cat_puts_the_images_side_by_side_at_half_their_width() -> None:
    samples = a_batch(2)
    samples[0].images["view1"] = torch.arange(0, 240, 40, dtype=torch.uint8).expand(3, 4, 6)
    samples[1].images["view1"] = gray(7, 4, 6)
    samples[0].images["simclr1"], samples[1].images["simclr1"] = gray(1, 3, 5), gray(9, 3, 5)
    mixed = mix(samples, "cat")
    even = mixed[0].images["view1"]
    assert even.shape == (3, 4, 6)
    left = even[0, 0, :3].tolist()
    assert left[1] == 100  # the middle of 0, 40 ... 200
    assert left[0] + left[2] == 200
    assert 0 < left[0] < 60, "resized, not cut"
    assert even[..., 3:].unique().tolist() == [7]
    odd = mixed[0].images["simclr1"]
    assert odd[0].tolist() == [[1, 1, 9, 9, 9]] * 3
    assert mixed[0].caption == "caption 0 caption 1"
    assert mixed[0].person_id == 0
    assert torch.equal(mixed[1].images["view1"], samples[1].images["view1"])


@pytest.mark.parametrize("kind", ["ori", "cat"])
def test_the_samples_given_do_not_change(kind: str) -> None:
    samples = a_batch(6, second=True)
    before = copy.deepcopy(samples)
    assert mix(samples, kind) is not samples
    for sample, was in zip(samples, before, strict=True):
        assert all(torch.equal(sample.images[view], was.images[view]) for view in was.images)
        assert (sample.caption, sample.second_caption) == (was.caption, was.second_caption)


@pytest.mark.parametrize(
    ("size", "ratio", "num"),
    [(1, 0.5, 0), (2, 0.1, 1), (3, 0.5, 1), (10, 0.1, 1), (12, 0.25, 3), (8, 0.5, 4)],
)
def test_a_share_of_the_batch_is_mixed_at_least_one_and_at_most_half(
    size: int, ratio: float, num: int
) -> None:
    captions = [sample.caption for sample in mix(a_batch(size), ratio=ratio)]
    expected = [f"caption {i} caption {i + num}" for i in range(num)]
    assert captions == expected + [f"caption {i}" for i in range(num, size)]


def test_a_batch_is_mixed_with_its_probability() -> None:
    rng, samples = random.Random(0), a_batch(4)
    mixed = sum(mixgen(samples, rng, "ori", 0.1, 0.1)[0].caption != "caption 0" for _ in range(2000))
    assert mixed == pytest.approx(200, abs=4 * 13.4)
    assert mix(samples, p=0.0) is samples


def test_captions_alone_can_be_mixed() -> None:
    samples = [Sample({}, text, 0, 0) for text in ("a man", "a woman")]
    assert [(s.images, s.caption) for s in mix(samples)] == [({}, "a man a woman"), ({}, "a woman")]
