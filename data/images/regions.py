"""Regions of images, and moments of videos, as paths.

The path of a region is that of its image, followed by LEFT,TOP,WIDTH,HEIGHT in pixels of the upright image:
`frames/a.jpg/10,20,60,150`. What reaches beyond the image is left out. A frame of a video is named by its
time, in seconds since the first one: `walk.mp4/12.500s`, and a region of it `walk.mp4/12.500s/10,20,60,150`.
"""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from data.types import Box  # which imports torch: a third of a gigabyte that a large index may need

Region = tuple[int, int, int, int]  # left, top, width and height in pixels
PLACE = re.compile(r"(.+?\.\w{2,5})(?:/(\d+\.\d{3})s)?(?:/(-?\d+),(-?\d+),(\d+),(\d+))?", re.DOTALL)


class Place(NamedTuple):
    """What a path names: a file, of a video the time of a frame in seconds, and a region; None: all of it."""

    file: str
    time: float | None = None
    box: Region | None = None

    @property
    def path(self) -> str:
        """The path that names it."""
        parts = [self.file] if self.time is None else [self.file, f"{self.time:.3f}s"]
        return "/".join([*parts, ",".join(map(str, self.box))] if self.box else parts)


def place_of(path: str | Path) -> Place:
    """What a path names."""
    text = os.fspath(path).replace(os.sep, "/")
    match = PLACE.fullmatch(text)
    if match is None:
        return Place(text)
    file, time, *box = match.groups()
    return Place(file, time and float(time), tuple(map(int, box)) if box[0] else None)


def within(corners: tuple[int, int, int, int], size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """(left, top, right, bottom) cut to an image of this width and height; None: nothing of it is within."""
    left, top, right, bottom = corners
    left, top, right, bottom = max(0, left), max(0, top), min(right, size[0]), min(bottom, size[1])
    return (left, top, right, bottom) if left < right and top < bottom else None


def rounded(box: "Box") -> Region:
    """The box in whole pixels, at least one in each direction."""
    left, top = round(box[0]), round(box[1])
    width, height = (max(1, round(box[i] + box[i + 2]) - round(box[i])) for i in (0, 1))
    return left, top, width, height


def region_path(image: str, box: "Box") -> str:
    """The path of a region of an image; the box is rounded to whole pixels, at least one."""
    return Place(image, None, rounded(box)).path


def region_of(path: str | Path) -> tuple[str, Region] | None:
    """The path of the image, and (left, top, width, height); None: `path` names no region of an image."""
    file, time, box = place_of(path)
    return (file, box) if box and time is None else None


def whole_image(image: str) -> str:
    """The path without the region, where it names one."""
    region = region_of(image)
    return region[0] if region else image


def with_margin(image: str, margin: float) -> str:
    """The path of a region that is larger on each side by this share of its width or height; others as is."""
    place = place_of(image)
    return place._replace(box=widened(place.box, margin)).path if place.box else image


def widened(box: Region, margin: float) -> Region:
    """The region, larger on each side by this share of its width or height."""
    left, top, width, height = box
    across, down = round(width * margin), round(height * margin)
    return left - across, top - down, width + 2 * across, height + 2 * down
