"""Integer colour and blur against exact arithmetic on the same pixels."""

import colorsys
import math

import numpy as np
import pytest

from data.images import pixel_ops
from data.images.pixel_ops import Channels

PURE = [
    (0, 0, 0),
    (255, 255, 255),
    (255, 0, 0),
    (0, 255, 0),
    (0, 0, 255),
    (255, 255, 0),
    (0, 255, 255),
    (9, 9, 9),
]


def colours(number: int = 4000) -> Channels:
    """Random colours and the corners of the cube, (3, number, 1)."""
    drawn = np.random.default_rng(0).integers(0, 256, (number - len(PURE), 3))
    return np.concatenate([drawn, PURE]).T[:, :, None].astype(np.int16)


def exact_luma(channels: np.ndarray) -> np.ndarray:
    return np.tensordot([0.299, 0.587, 0.114], channels, axes=1)


def test_luma_is_that_of_bt_601_to_a_level() -> None:
    channels = colours()
    gray = pixel_ops.luma(channels)
    assert gray.dtype == np.int16
    assert np.abs(gray - exact_luma(channels)).max() <= 1
    assert pixel_ops.luma(np.full((3, 1, 1), 255, np.int16)) == 255


@pytest.mark.parametrize("factor", [0.55, 0.6, 0.9, 0.97, 1.0, 1.003, 1.1, 1.4, 1.45])
@pytest.mark.parametrize("kind", ["brightness", "contrast", "saturation"])
def test_a_stretch_is_exact_to_a_level_and_clipped(kind: str, factor: float) -> None:
    channels = colours()
    gray = pixel_ops.luma(channels)
    pivot = {"brightness": 0, "contrast": round(gray.mean()), "saturation": gray}[kind]
    exact = np.clip(pivot + factor * (channels.astype(float) - pivot), 0, 255)
    pixel_ops.stretch(channels, pivot, factor)
    assert np.abs(channels - exact).max() <= 1.01
    assert np.abs((channels - exact).mean()) < 0.3, "rounded to the nearest level, not cut off"


@pytest.mark.parametrize("share", [-0.14, -0.1, -0.03, 0.0, 0.01, 0.05, 0.1, 0.14])
def test_a_turn_of_the_hue_is_that_of_hsv_to_a_level_and_a_half(share: float) -> None:
    channels = colours()
    before = channels.copy()
    pixel_ops.turn_hue(channels, share)
    for turned, colour in zip(channels[:, :, 0].T, before[:, :, 0].T, strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*(int(level) / 255 for level in colour))
        expected = 255 * np.array(colorsys.hsv_to_rgb((hue + share) % 1, saturation, value))
        assert np.abs(turned - expected).max() <= 1.5, (colour, turned, expected)
    assert np.array_equal(channels.max(0), before.max(0)), "the value stays"
    assert np.array_equal(channels.min(0), before.min(0)), "and so does the saturation"


def exact_blur(channels: np.ndarray, sigma: float) -> np.ndarray:
    reach = math.ceil(3 * sigma)
    bell = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    bell /= bell.sum()
    padded = np.pad(channels.astype(float), [(0, 0), (reach, reach), (reach, reach)], mode="edge")
    for axis in (1, 2):
        padded = np.apply_along_axis(np.convolve, axis, padded, bell, mode="valid")
    return padded


@pytest.mark.parametrize("sigma", [0.1, 0.3, 0.5, 0.8, 1.0, 1.7, 2.0])
@pytest.mark.parametrize("size", [(40, 30), (1, 1), (1, 20), (20, 1), (3, 5)])
def test_a_blur_is_the_gaussian_to_a_level_or_two(sigma: float, size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (3, *size), dtype=np.uint8)
    noise[:, : size[0] // 2] = np.where(noise[:, : size[0] // 2] > 127, 255, 0)
    blurred = pixel_ops.gaussian_blur(noise, sigma)
    assert (blurred.dtype, blurred.shape) == (np.uint8, noise.shape)
    assert np.abs(blurred - exact_blur(noise, sigma)).max() <= 2


def test_a_flat_image_stays_as_it_is_when_blurred() -> None:
    for level in (0, 1, 127, 254, 255):
        flat = np.full((3, 9, 8), level, np.uint8)
        for sigma in (0.1, 0.4, 1.3, 2.0):
            assert np.array_equal(pixel_ops.gaussian_blur(flat, sigma), flat)
