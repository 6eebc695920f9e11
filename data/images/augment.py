"""The image augmentations of `experiment.image_aug`: for each name, how a view is made of an image.

All but SimCLR's begin with the resize to the model's input. Beside the paper's pool they are those that the
paper compares: single operations at the pool's strengths, a stack of all, torchvision's automatic policies;
and the one of IRRA and RDE.
"""

import random
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torchvision.transforms import v2

from data.images.transforms import (
    POOL,
    View,
    color_jitter,
    random_blur,
    random_erasing,
    random_flip,
    random_shift,
    resize,
    simclr_view,
    train_view,
    view_of,
)

Policy = Callable[[Tensor], Tensor]

OF_POOL = ("color_jitter", "rotation", "crop", "grayscale", "flip", "erasing")  # the names of `POOL`
# CLIP's mean, written into an image that CLIP's statistics have normalised: the colour mean (1 + std).
IRRA_FILL = (156, 147, 133)


def random_vertical_flip(pixels: Tensor, rng: random.Random) -> Tensor:
    """Turned upside down half of the time."""
    return pixels.flip(-2) if rng.random() < 0.5 else pixels


def policy_view(pixels: Tensor, size: tuple[int, int], rng: random.Random, policy: Policy) -> Tensor:
    """Resized, then changed by a `policy` that draws from torch's global generator: seeded from `rng` here.

    The generator's state is put back afterwards: dropout in this process draws what it would have drawn.
    """
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would also seed the GPUs' generators, which the fork does not restore.
        torch.default_generator.manual_seed(rng.getrandbits(63))
        return policy(resize(pixels, size))


IMAGE_VIEWS: dict[str, View] = {
    "pool": train_view,
    "none": view_of(),
    **{name: view_of(operation) for name, operation in zip(OF_POOL, POOL, strict=True)},
    "blur": view_of(random_blur),
    "hue": view_of(partial(color_jitter, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.1)),
    "vertical_flip": view_of(random_vertical_flip),
    "stack": view_of(*POOL),
    "autoaugment": partial(policy_view, policy=v2.AutoAugment()),
    "randaugment": partial(policy_view, policy=v2.RandAugment(num_ops=2, magnitude=9)),
    "trivialaugment": partial(policy_view, policy=v2.TrivialAugmentWide()),
    "augmix": partial(policy_view, policy=v2.AugMix()),
    "simclr": simclr_view,
    "irra": view_of(
        random_flip,
        partial(random_shift, reach=10),
        partial(random_erasing, scale=(0.02, 0.4), fill=IRRA_FILL),
    ),
}
