"""MixGen (Hao et al., 2023): new image-caption pairs, each joined from two pairs of a batch."""

import random
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from data.datasets import Sample
from data.images.transforms import resize


def mixgen(samples: list[Sample], rng: random.Random, kind: str, p: float, ratio: float) -> list[Sample]:
    """With probability `p`, the first rows of the batch mixed with the rows after them; else `samples`.

    num = max(1, round(ratio * B)) rows are mixed, at most B // 2 (of one sample, none): row i < num becomes
    the mix of the rows i and i + num, and keeps the person of row i. The samples given are not changed.

    Args:
        kind: "ori" averages the pixels, "cat" puts the images side by side; both join the captions.
    """
    num = min(max(1, round(ratio * len(samples))), len(samples) // 2)
    if rng.random() >= p:
        return samples
    mixed = [_mix(samples[row], samples[row + num], MIXES[kind]) for row in range(num)]
    return [*mixed, *samples[num:]]


def _mix(a: Sample, b: Sample, mix: Callable[[Tensor, Tensor], Tensor]) -> Sample:
    """The mix of two samples; where images keep their own sizes, of `a`'s size."""

    def joined(first: str | None, other: str | None) -> str | None:
        return None if first is None else f"{first} {other}"

    return replace(
        a,
        images={
            view: mix(pixels, resize(b.images[view], pixels.shape[-2:])) for view, pixels in a.images.items()
        },
        caption=f"{a.caption} {b.caption}",
        second_caption=joined(a.second_caption, b.second_caption),
        rewritten=joined(a.rewritten, b.rewritten),
    )


def _average(a: Tensor, b: Tensor) -> Tensor:
    return ((a.int() + b.int() + 1) // 2).to(torch.uint8)


def _side_by_side(a: Tensor, b: Tensor) -> Tensor:
    height, width = a.shape[-2:]
    left = width // 2
    return torch.cat([resize(a, (height, left)), resize(b, (height, width - left))], dim=-1)


MIXES = {"ori": _average, "cat": _side_by_side}
