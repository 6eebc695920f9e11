"""What `data.check` finds in the image files themselves."""

import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from PIL import Image

from data.decode import load_image, orientation
from misc.process.workers import in_processes
from options import UserError

EMPTY = "images of 0 bytes"
UNREADABLE = "images that cannot be decoded"
MODE = "images that are not 8-bit RGB (they are converted)"
TURNED = "images turned by their EXIF tag (they are set upright)"
EXTREME = "images of extreme size"
ODDITIES = {EMPTY: True, UNREADABLE: True, MODE: False, TURNED: False, EXTREME: False}  # is it unusable

SHORTEST, LONGEST, STEEPEST = 16, 4096, 8.0  # pixels of a side, and times that one side is the other
CHUNK = 64
SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}

Oddity = tuple[str, str, str]  # image, one of the kinds above, what was found


def find_oddities(
    images: list[str], root: Path, workers: int, advance: Callable[[int], object]
) -> list[Oddity]:
    """All that is odd about `images`, existing files below `root`, each decoded as training would decode it.

    A small set stays in this process. `advance` is called with the number of images just seen.
    """
    chunks = [images[start : start + CHUNK] for start in range(0, len(images), CHUNK)]
    examined = in_processes(partial(_examine_all, root), chunks, min(workers, len(chunks) // 4))
    found = []
    for chunk, oddities in zip(chunks, examined, strict=True):
        found += oddities
        advance(len(chunk))
    return found


def unnamed_images(images: Iterable[str], root: Path) -> list[str]:
    """Image files below `root` that are none of `images`, sorted."""
    there = {
        Path(folder, name).relative_to(root).as_posix()
        for folder, _, names in os.walk(root)
        for name in names
        if Path(name).suffix.lower() in SUFFIXES
    }
    return sorted(there - set(images))


def _examine_all(root: Path, images: list[str]) -> list[Oddity]:
    return [oddity for image in images for oddity in _examine(root, image)]


def _examine(root: Path, image: str) -> list[Oddity]:
    path = root / image
    if path.is_file() and path.stat().st_size == 0:
        return [(image, EMPTY, "download it again")]
    try:
        load_image(path)
    except UserError as error:
        return [(image, UNREADABLE, " ".join(str(error.__cause__).split()))]
    with Image.open(path) as file:
        mode, (width, height), turned = file.mode, file.size, orientation(file)
    odd = []
    if mode != "RGB":
        odd.append((image, MODE, f"mode {mode}"))
    if turned != 1:
        odd.append((image, TURNED, f"orientation {turned}"))
    shortest, longest = sorted((width, height))
    if shortest < SHORTEST or longest > LONGEST or longest > STEEPEST * shortest:
        odd.append((image, EXTREME, f"{width} x {height} pixels"))
    return odd
