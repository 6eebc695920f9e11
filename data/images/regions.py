"""Regions of images. The path of one is that of the image, followed by LEFT,TOP,WIDTH,HEIGHT in pixels of the
upright image: `frames/a.jpg/10,20,60,150`. What reaches beyond the image is left out.
"""

import os
import re
from pathlib import Path

from data.types import Box

REGION = re.compile(r"(.+\.\w{2,5})/(-?\d+),(-?\d+),(\d+),(\d+)")


def region_path(image: str, box: Box) -> str:
    """The path of a region of an image; the box is rounded to whole pixels, at least one."""
    left, top = round(box[0]), round(box[1])
    width, height = (max(1, round(box[i] + box[i + 2]) - round(box[i])) for i in (0, 1))
    return f"{image}/{left},{top},{width},{height}"


def region_of(path: str | Path) -> tuple[str, tuple[int, int, int, int]] | None:
    """The path of the image, and (left, top, width, height); None: `path` names no region."""
    match = REGION.fullmatch(os.fspath(path).replace(os.sep, "/"))
    return (match[1], tuple(map(int, match.groups()[1:]))) if match else None


def whole_image(image: str) -> str:
    """The path without the region, where it names one."""
    region = region_of(image)
    return region[0] if region else image


def with_margin(image: str, margin: float) -> str:
    """The path of a region that is larger on each side by this share of its width or height; others as is."""
    region = region_of(image)
    if not region:
        return image
    left, top, width, height = region[1]
    across, down = round(width * margin), round(height * margin)
    return f"{region[0]}/{left - across},{top - down},{width + 2 * across},{height + 2 * down}"
