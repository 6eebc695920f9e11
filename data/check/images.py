"""What `data.check` finds in the image files themselves."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from data.images.decode import BadImageError, image_suffixes, is_hidden, load_image, open_image, orientation
from misc.process.workers import in_processes

EMPTY = "images of 0 bytes"
UNREADABLE = "images that cannot be decoded"
CUT_SHORT = "images that are cut short (what is there is used)"
MODE = "images that are not 8-bit RGB (they are converted)"
TURNED = "images turned by their EXIF tag (they are set upright)"
EXTREME = "images of extreme size"
ODDITIES = {
    EMPTY: True,
    UNREADABLE: True,
    CUT_SHORT: False,
    MODE: False,
    TURNED: False,
    EXTREME: False,
}  # is it unusable

SHORTEST, LONGEST, STEEPEST = 16, 4096, 8.0  # pixels of a side, and times that one side is the other
CHUNK = 64

Oddity = tuple[str, str, str]  # image, one of the kinds above, what was found


def find_oddities(
    images: list[str],
    root: Path,
    workers: int,
    advance: Callable[[int], object],
    truncated: str = "error",
) -> list[Oddity]:
    """All that is odd about `images`, existing files below `root`, each decoded as training would decode it.

    A small set stays in this process. `advance` is called with the number of images just seen. `truncated`:
    as `data.truncated`.
    """
    chunks = [images[start : start + CHUNK] for start in range(0, len(images), CHUNK)]
    examined = in_processes(partial(_examine_all, root, truncated), chunks, min(workers, len(chunks) // 4))
    found = []
    for chunk, oddities in zip(chunks, examined, strict=True):
        found += oddities
        advance(len(chunk))
    return found


def equal_files(images: Iterable[str], root: Path, advance: Callable[[int], object]) -> list[list[str]]:
    """The groups of `images`, existing files below `root`, of equal bytes, sorted; empty files are none.

    Only those that are as large as another one are read. `advance` is called as `find_oddities` calls it.
    """
    of_size: dict[int, list[str]] = defaultdict(list)
    for image in images:
        of_size[(root / image).stat().st_size].append(image)
    groups: dict[bytes, list[str]] = defaultdict(list)
    for size, as_large in of_size.items():
        for image in as_large:
            if size and len(as_large) > 1:
                groups[hashlib.sha256((root / image).read_bytes()).digest()].append(image)
            advance(1)
    return sorted(sorted(group) for group in groups.values() if len(group) > 1)


def unnamed_images(images: Iterable[str], root: Path) -> list[str]:
    """Image files below `root` that are none of `images`, sorted; without hidden files and folders."""
    suffixes = image_suffixes()
    there = set()
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not is_hidden(name)]
        files = [Path(folder, name) for name in names if not is_hidden(name)]
        there |= {file.relative_to(root).as_posix() for file in files if file.suffix.lower() in suffixes}
    return sorted(there - set(images))


def _examine_all(root: Path, truncated: str, images: list[str]) -> list[Oddity]:
    return [oddity for image in images for oddity in _examine(root, image, truncated)]


def _examine(root: Path, image: str, truncated: str) -> list[Oddity]:
    path = root / image
    if path.is_file() and path.stat().st_size == 0:
        return [(image, EMPTY, "download it again")]
    odd = []
    try:
        load_image(path)
    except BadImageError as error:
        try:
            load_image(path, truncated)
        except BadImageError:
            return [(image, UNREADABLE, error.reason)]
        odd.append((image, CUT_SHORT, error.reason.partition(";")[0]))
    with open_image(path) as file:
        mode, (width, height), turned = file.mode, file.size, orientation(file)
    if mode != "RGB":
        odd.append((image, MODE, f"mode {mode}"))
    if turned != 1:
        odd.append((image, TURNED, f"orientation {turned}"))
    shortest, longest = sorted((width, height))
    if shortest < SHORTEST or longest > LONGEST or longest > STEEPEST * shortest:
        odd.append((image, EXTREME, f"{width} x {height} pixels"))
    return odd
