"""What `data.check` finds in the image files themselves."""

import hashlib
import os
import random
from collections import defaultdict
from collections.abc import Callable, Container, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from data.images.decode import (
    BadImageError,
    image_content,
    image_suffixes,
    is_hidden,
    load_image,
    open_image,
    orientation,
)
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
DIGEST = 16  # bytes

Oddity = tuple[str, str, str]  # image, one of the kinds above, what was found


def find_oddities(
    images: Sequence[str],
    root: Path,
    workers: int,
    advance: Callable[[int], object],
    truncated: str = "error",
) -> tuple[list[Oddity], bytes]:
    """All that is odd about `images`, existing files below `root`, each decoded as training would decode it;
    and a digest of each file, `DIGEST` bytes one after another, zeros for those that cannot be used.

    A small set stays in this process. `advance` is called with the number of images just seen. `truncated`:
    as `data.truncated`.
    """
    chunks = [images[start : start + CHUNK] for start in range(0, len(images), CHUNK)]
    examined = in_processes(partial(_examine_all, root, truncated), chunks, min(workers, len(chunks) // 4))
    found, digests = [], bytearray()
    for chunk, (oddities, of_chunk) in zip(chunks, examined, strict=True):
        found += oddities
        digests += of_chunk
        advance(len(chunk))
    return found, bytes(digests)


def drawn(images: Sequence[str], number: int | None) -> Sequence[str]:
    """About `number` of the images, at random, always the same ones; None: all.

    They are drawn in runs of neighbours, which a file of images holds together: it reads many rows at once.
    """
    if number is None or number >= len(images):
        return images
    starts = random.Random(0).sample(range(0, len(images), CHUNK), -(-number // CHUNK))
    return [image for start in sorted(starts) for image in images[start : start + CHUNK]][:number]


def equal_files(images: Sequence[str], digests: bytes) -> list[list[str]]:
    """The groups of `images` whose files have equal bytes, sorted, by the digests of `find_oddities`."""
    each = np.frombuffer(digests, f"S{DIGEST}")
    _, numbers, counts = np.unique(each, return_inverse=True, return_counts=True)
    groups: dict[int, list[str]] = defaultdict(list)
    for row in np.flatnonzero((counts[numbers] > 1) & (each != b"")).tolist():
        groups[int(numbers[row])].append(images[row])
    return sorted(map(sorted, groups.values()))


def unnamed_images(images: Container[str], root: Path) -> list[str]:
    """Image files below `root` that are none of `images`, sorted; without hidden files and folders."""
    suffixes = image_suffixes()
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not is_hidden(name)]
        place = Path(folder).relative_to(root)
        for name in names:
            if os.path.splitext(name)[1].lower() in suffixes and not is_hidden(name):
                image = (place / name).as_posix()
                found += [] if image in images else [image]
    return sorted(found)


def _examine_all(root: Path, truncated: str, images: Sequence[str]) -> tuple[list[Oddity], bytes]:
    oddities, digests = [], []
    for image in images:
        odd = _examine(root, image, truncated)
        is_usable = not any(ODDITIES[kind] for _, kind, _ in odd)
        digests.append(_digest(root / image) if is_usable else bytes(DIGEST))
        oddities += odd
    return oddities, b"".join(digests)


def _digest(path: Path) -> bytes:
    return hashlib.sha256(image_content(path)).digest()[:DIGEST]


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
