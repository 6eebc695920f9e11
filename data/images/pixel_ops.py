"""Colour and blur of an image in 16-bit integers: sixteen of them go into a vector instruction.

Channels lie one after another, (3, H, W). Each operation rounds its factor, then its result to the nearest
level, where torchvision and Pillow cut off: it is within a level (of 255; hue within one and a half, a blur
within two) of exact arithmetic on the same pixels.
"""

import math

import numpy as np
import numpy.typing as npt

Channels = npt.NDArray[np.int16]  # (3, H, W), or (H, W) where there is one; 0 to 255

BITS = 8  # behind the binary point: 8 before it and a sign leave no more of 16
LUMA = (77, 150, 29)  # 0.299, 0.587 and 0.114 (ITU-R BT.601), of 1 << BITS


def stretch(channels: Channels, pivot: Channels | int, factor: float) -> None:
    """pivot + factor * (channels - pivot), clipped to 0..255, in place; `factor` between 0.5 and 1.5.

    From 0 that is brightness, from the mean luma contrast, from each pixel's own luma saturation.
    """
    gain = round((factor - 1) * (1 << BITS))
    assert abs(gain) < 1 << BITS - 1, "a difference times the gain must fit 16 bits"
    change = channels * gain
    change -= pivot * gain  # the two may wrap around, their difference does not
    channels += _rounded(change, BITS)
    if gain > 0:  # else it only comes nearer to the pivot
        np.clip(channels, 0, 255, out=channels)


def luma(channels: Channels) -> Channels:
    """The gray of each pixel: (3, H, W) -> (H, W)."""
    red, green, blue = channels.view(np.uint16)  # white is 255 << BITS: it needs the bit of the sign
    gray = red * LUMA[0]
    gray += green * LUMA[1]
    gray += blue * LUMA[2]
    return _rounded(gray, BITS).view(np.int16)


def turn_hue(channels: Channels, share: float) -> None:
    """HSV's hue turned by `share` of the circle, a seventh at most, in place; value and saturation stay.

    Hue is a fraction with the pixel's chroma below the line. Times chroma it is whole: `place`, which runs
    from red at 0 over green at 2 chroma and blue at 4 chroma to red again at 6 chroma.
    """
    bits = BITS - 1
    turn = round(6 * share * (1 << bits))
    assert abs(turn) < 1 << bits, "a chroma times the turn must fit 16 bits"
    red, green, blue = channels
    top = np.maximum(np.maximum(red, green), blue)
    low = np.minimum(np.minimum(red, green), blue)
    chroma = top - low
    twice, four_times = 2 * chroma, 4 * chroma
    is_red, is_green = top == red, top == green
    is_green &= ~is_red
    place = (green - blue) * is_red  # products with truth values take half of the time of np.where
    place += (blue - red + twice) * is_green
    place += (red - green + four_times) * ~(is_red | is_green)
    place += _rounded(chroma * turn, bits)
    place += (place < 0) * (twice + four_times)
    slopes = (
        np.abs(place - (twice + chroma)) - chroma,
        twice - np.abs(place - twice),
        twice - np.abs(place - four_times),
    )
    nothing = np.zeros_like(chroma)  # np.maximum takes seven times as long with a number
    for channel, slope in zip(channels, slopes, strict=True):
        np.add(low, np.minimum(np.maximum(slope, nothing), chroma), out=channel)


def gaussian_blur(channels: npt.NDArray[np.uint8], sigma: float) -> npt.NDArray[np.uint8]:
    """Blurred by a Gaussian of `sigma` pixels, cut off at 3 sigma; the edge pixels are repeated outside."""
    weights = _bell(sigma)
    for axis in (1, 2):
        channels = _weighted_sum(channels, weights, axis)
    return channels.astype(np.uint8)


def _bell(sigma: float) -> list[int]:
    """Weights of a pixel and its neighbours on either side, in 1 << BITS, which they sum up to.

    The sums of the tails are rounded, not each weight: a step from black to white is blurred to half a level.
    """
    distances = np.arange(1, math.ceil(3 * sigma) + 1)
    half = np.exp(-0.5 * (distances / sigma) ** 2)
    tails = np.cumsum(half[::-1])[::-1] / (1 + 2 * half.sum())
    rounded = np.append(np.round(tails * (1 << BITS)), 0).astype(int)
    return [(1 << BITS) - 2 * int(rounded[0]), *(int(weight) for weight in -np.diff(rounded) if weight)]


def _weighted_sum(channels: npt.NDArray, weights: list[int], axis: int) -> npt.NDArray[np.uint16]:
    """Each pixel with its neighbours along `axis`."""
    reach, lines = len(weights) - 1, channels.swapaxes(0, axis)
    shape = [side + 2 * reach * (each == axis) for each, side in enumerate(channels.shape)]
    padded, end = np.empty(shape, np.uint16).swapaxes(0, axis), reach + len(lines)
    padded[:reach], padded[reach:end], padded[end:] = lines[:1], lines, lines[-1:]
    total = padded[reach:end] * weights[0]
    pair = np.empty_like(total)
    for distance in range(1, reach + 1):
        np.add(padded[reach - distance : end - distance], padded[reach + distance : end + distance], out=pair)
        pair *= weights[distance]
        total += pair
    return _rounded(total, BITS).swapaxes(0, axis)


def _rounded(values: npt.NDArray, bits: int) -> npt.NDArray:
    """values / 2**bits to the nearest integer, in place."""
    values += 1 << bits - 1
    values >>= bits
    return values
