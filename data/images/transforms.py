"""The random views of an image that training sees (the paper's image pool; SimCLR's views).

A view is a pure function of a uint8 image and a `random.Random`: nothing here draws from a global generator.
Views stay uint8 (3, H, W): a batch of them is normalised at once, where the model is.
"""

import math
import random
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from data.images import pixel_ops
from data.images.pixel_ops import Channels

Operation = Callable[[Tensor, random.Random], Tensor]
View = Callable[[Tensor, tuple[int, int], random.Random], Tensor]
Range = tuple[float, float]


def view_of(*operations: Operation) -> View:
    """The view that is resized, then changed by each of `operations` in their order."""

    def view(pixels: Tensor, size: tuple[int, int], rng: random.Random) -> Tensor:
        pixels = resize(pixels, size)
        for operation in operations:
            pixels = operation(pixels, rng)
        return pixels

    return view


def train_view(pixels: Tensor, size: tuple[int, int], rng: random.Random) -> Tensor:
    """Resized, then two operations of the pool, with replacement: (3, any, any) uint8 -> (3, H, W) uint8."""
    return view_of(*rng.choices(POOL, k=2))(pixels, size, rng)


def simclr_view(pixels: Tensor, size: tuple[int, int], rng: random.Random) -> Tensor:
    """A strong view for SS (SimCLR, Chen et al. 2020): (3, any, any) uint8 -> (3, H, W) uint8."""
    pixels = random_crop(pixels, rng, scale=(0.2, 1.0), size=size)
    if rng.random() < 0.8:
        pixels = color_jitter(pixels, rng, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
    pixels = random_blur(random_grayscale(pixels, rng, p=0.2), rng)
    return random_flip(pixels, rng)


def color_jitter(
    pixels: Tensor,
    rng: random.Random,
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float = 0.0,
) -> Tensor:
    """Each factor drawn from 1 +- its strength (hue: shifted by up to that share of the circle)."""
    changes: list[Callable[[Channels], None]] = [
        partial(pixel_ops.stretch, pivot=0, factor=1 + rng.uniform(-brightness, brightness)),
        partial(_contrast, factor=1 + rng.uniform(-contrast, contrast)),
        partial(_saturate, factor=1 + rng.uniform(-saturation, saturation)),
    ]
    if hue:
        changes.append(partial(pixel_ops.turn_hue, share=rng.uniform(-hue, hue)))
    rng.shuffle(changes)
    channels = pixels.numpy().astype(np.int16, order="C")
    for change in changes:
        change(channels)
    return torch.from_numpy(channels.astype(np.uint8))


def _contrast(channels: Channels, factor: float) -> None:
    pixel_ops.stretch(channels, round(pixel_ops.luma(channels).mean()), factor)


def _saturate(channels: Channels, factor: float) -> None:
    pixel_ops.stretch(channels, pixel_ops.luma(channels), factor)


def random_rotation(pixels: Tensor, rng: random.Random, degrees: float) -> Tensor:
    """Turned by up to +- `degrees` about the centre; black outside, nearest pixel, as torchvision does."""
    angle = rng.uniform(-degrees, degrees)
    image = Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0))).rotate(angle)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)  # a third of the time of tensors


def random_crop(
    pixels: Tensor, rng: random.Random, scale: Range, size: tuple[int, int] | None = None
) -> Tensor:
    """A box of `scale` of the area, resized to `size` (default: the image's own), as RandomResizedCrop.

    The box has 3/4 to 4/3 times the aspect of `size`. For square sizes that is torchvision's rule; a tall
    view keeps tall boxes, where a fixed 3/4 to 4/3 would cut head and feet off a standing person.
    """
    height, width = pixels.shape[-2:]
    size = size or (height, width)
    aspect = size[1] / size[0]
    low, high = 0.75 * aspect, aspect / 0.75
    box = _random_box(height, width, scale, (low, high), rng)
    if box is None:  # the largest box in the middle whose aspect is allowed
        allowed = min(max(width / height, low), high)
        box_height = max(1, min(height, round(width / allowed)))
        box_width = max(1, min(width, round(height * allowed)))
        box = ((height - box_height) // 2, (width - box_width) // 2, box_height, box_width)
    top, left, box_height, box_width = box
    return resize(pixels[:, top : top + box_height, left : left + box_width], size)


def random_grayscale(pixels: Tensor, rng: random.Random, p: float) -> Tensor:
    """Gray, in three equal channels, with probability `p`."""
    if rng.random() >= p:
        return pixels
    gray = pixel_ops.luma(pixels.numpy().astype(np.int16, order="C")).astype(np.uint8)
    return torch.from_numpy(gray).repeat(3, 1, 1)


def random_flip(pixels: Tensor, rng: random.Random) -> Tensor:
    """Mirrored left to right half of the time."""
    return pixels.flip(-1) if rng.random() < 0.5 else pixels


def random_shift(pixels: Tensor, rng: random.Random, reach: int) -> Tensor:
    """A crop of the image's size from the image with `reach` black pixels on each side."""
    height, width = pixels.shape[-2:]
    top, left = rng.randint(0, 2 * reach), rng.randint(0, 2 * reach)
    return F.pad(pixels, (reach,) * 4)[:, top : top + height, left : left + width]


def random_erasing(
    pixels: Tensor, rng: random.Random, scale: Range, p: float = 0.5, fill: tuple[int, int, int] = (0, 0, 0)
) -> Tensor:
    """A box of `scale` of the area turned to one colour with probability `p` (Zhong et al. 2020)."""
    height, width = pixels.shape[-2:]
    box = _random_box(height, width, scale, (1 / 3.3, 1 / 0.3), rng) if rng.random() < p else None
    if box is None:
        return pixels
    top, left, box_height, box_width = box
    pixels = pixels.clone()
    pixels[:, top : top + box_height, left : left + box_width] = torch.tensor(fill, dtype=torch.uint8)[
        :, None, None
    ]
    return pixels


POOL: tuple[Operation, ...] = (
    partial(color_jitter, brightness=0.1, contrast=0.1, saturation=0.1),
    partial(random_rotation, degrees=15.0),
    partial(random_crop, scale=(0.9, 1.0)),
    partial(random_grayscale, p=0.1),
    random_flip,
    partial(random_erasing, scale=(0.10, 0.20)),
)


def _random_box(
    height: int, width: int, scale: Range, aspect: Range, rng: random.Random
) -> tuple[int, int, int, int] | None:
    """(top, left, height, width) of a box of random area, log-uniform aspect; None if it fits in no try."""
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        ratio = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
        box_height, box_width = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < box_height <= height and 0 < box_width <= width:
            top, left = rng.randint(0, height - box_height), rng.randint(0, width - box_width)
            return top, left, box_height, box_width
    return None


def resize(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, anti-aliased: (3, any, any) -> (3, *size); the image itself where it has that size."""
    if pixels.shape[-2:] == size:
        return pixels
    # Decoded pixels lie three numbers side by side, as the fast code wants them; [None] would hide that.
    batch = pixels.permute(1, 2, 0)[None].permute(0, 3, 1, 2)
    return F.interpolate(batch, size, mode="bilinear", antialias=True)[0]


def random_blur(pixels: Tensor, rng: random.Random) -> Tensor:
    """Gaussian blur of sigma 0.1 to 2 pixels, half of the time."""
    return blur(pixels, sigma=rng.uniform(0.1, 2.0)) if rng.random() < 0.5 else pixels


def blur(pixels: Tensor, sigma: float) -> Tensor:
    return torch.from_numpy(pixel_ops.gaussian_blur(pixels.numpy(), sigma))
