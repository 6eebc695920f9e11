"""The image files below a folder, and their pixels, decoded by worker processes."""

import hashlib
import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import ExifTags, Image
from torch import Tensor
from torch.utils.data import Dataset

from data.images.decode import SIZE_IN_FILE, BadImageError, image_suffixes, load_image
from data.sampler import Loader
from misc.process.workers import num_cores
from misc.search.indexing.exclusion import REASONS, Exclusion
from model.protocol import Processor

MAX_INTEGER = 2**63 - 1  # of SQLite
MAX_HELD = 2**26  # bytes of a file that is read once, for its digest and its pixels
NO_PATTERNS = Exclusion()


class ImageFile(NamedTuple):
    """An image file: path relative to the root, size in bytes, modification time in nanoseconds."""

    path: str
    size: int
    mtime_ns: int


class Content(NamedTuple):
    """The content of a file: size in bytes and modification time as it was read, and BLAKE2b, 16 bytes."""

    size: int
    mtime_ns: int
    digest: bytes


class Facts(NamedTuple):
    """What was learned of an image as it was decoded: its file, size in pixels, and time as `taken_time`."""

    content: Content
    width: int
    height: int
    taken: str | None


def find_images(
    root: Path, index: Path | None, problems: dict[str, str], exclusion: Exclusion = NO_PATTERNS
) -> Iterator[ImageFile]:
    """Yield the images below `root` in no particular order, without what `exclusion` leaves out, and without
    the folder `index`. Links are followed; a folder that is reached twice, for instance by a loop of links,
    is listed once. {path relative to the root: reason} of the images, videos and folders that are left out,
    or cannot be accessed, is added to `problems`, with a separator behind the path of a folder.
    """
    suffixes, seen, folders = image_suffixes(), {_id_of(index)} if index else set(), [""]
    while folders:
        folder = folders.pop()
        try:
            identity = _id_of(root / folder)
            if identity in seen:
                continue
            seen.add(identity)
            with os.scandir(root / folder) as entries:
                listed = [(entry, os.path.join(folder, entry.name)) for entry in entries]
        except OSError as error:
            problems[os.path.join(folder or ".", "")] = f"cannot be listed ({error.strerror})"
            continue
        for entry, path in listed:
            try:
                is_folder, suffix = entry.is_dir(), os.path.splitext(path)[1].lower()
                if not is_folder and suffix not in suffixes and suffix not in REASONS:
                    continue
                if reason := exclusion.reason(path) or (None if is_folder else REASONS.get(suffix)):
                    problems[os.path.join(path, "") if is_folder else path] = reason
                elif is_folder:
                    folders.append(path)
                else:
                    yield ImageFile(path, *_state(entry.stat()))
            except OSError as error:  # a dangling link, or a file that was deleted in the meantime
                problems[path] = f"cannot be accessed ({error.strerror})"


def _id_of(folder: Path) -> tuple[int, int]:
    result = folder.stat()
    return result.st_dev, result.st_ino


def content_of(path: Path) -> Content:
    """Read a file; raises OSError if it cannot be read, or is changed meanwhile."""
    return _read(path, 0)[0]


def _read(path: Path, max_held: int) -> tuple[Content, bytes | None]:
    """What `content_of` returns, and the bytes of a file that has at most so many."""
    if not stat.S_ISREG(os.stat(path).st_mode):  # to open a pipe is to wait for whoever writes into it
        raise OSError("it is no regular file")
    digest, content = hashlib.blake2b(digest_size=16), None
    with open(path, "rb", buffering=0) as file:
        state = _state(os.fstat(file.fileno()))
        if state[0] <= max_held:
            content = file.read()
            digest.update(content)
        while block := file.read(1 << 20):
            digest.update(block)
        if _state(os.fstat(file.fileno())) != state:
            raise OSError("it was changed while it was read")
    return Content(*state, digest.digest()), content


def _state(result: os.stat_result) -> tuple[int, int]:
    return result.st_size, min(result.st_mtime_ns, MAX_INTEGER)


def taken_time(image: Image.Image) -> str | None:
    """When a photo was taken, in local time, by its EXIF block, as "2024-05-06 07:08:09"; None: unknown."""
    if "exif" not in image.info:
        return None
    try:
        exif = image.getexif()
        text = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.DateTimeOriginal)
        text = str(text or exif.get(ExifTags.Base.DateTime))
    except Exception:  # a damaged EXIF block says nothing of the pixels
        return None
    found = re.match(r"(\d{4}):(\d\d):(\d\d) (\d\d:\d\d:\d\d)", text, re.ASCII)
    return "{}-{}-{} {}".format(*found.groups()) if found else None


class Decoded(NamedTuple):
    """A batch of files: indices, facts and pixels (B, 3, H, W) of those that were read, reasons of the
    others.
    """

    indices: list[int]
    facts: list[Facts]
    pixels: Tensor
    problems: dict[int, str]


def decode(
    root: Path,
    paths: Sequence[str],
    processor: Processor,
    batch_size: int,
    pin_memory: bool,
    truncated: str = "error",
) -> Loader:
    """Iterate over the files in batches, as `Decoded`, prefetched by one worker per core; `pin_memory`:
    whether the pixels will be copied to a GPU; `truncated`: as `data.truncated`.
    """
    workers = min(num_cores(), len(paths) // batch_size)
    settings = {"batch_size": batch_size, "num_workers": workers, "pin_memory": pin_memory}
    return Loader(_Images(root, paths, processor, truncated), _collate, **settings)


class _Images(Dataset[tuple[int, Facts | str, Tensor | None]]):
    """(index, facts, pixels (3, H, W)) of each file, or (index, reason, None) of one that cannot be read."""

    def __init__(self, root: Path, paths: Sequence[str], processor: Processor, truncated: str) -> None:
        self.root, self.paths, self.processor, self.truncated = root, paths, processor, truncated

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[int, Facts | str, Tensor | None]:
        path = self.root / self.paths[index]
        try:
            read, content = _read(path, MAX_HELD)
            image = load_image(path, self.truncated, large=True, content=content)
            if content is None and _state(os.stat(path)) != read[:2]:
                raise OSError("it was changed while it was read")
            facts = Facts(read, *image.info.get(SIZE_IN_FILE, image.size), taken_time(image))
            return index, facts, self.processor(images=[image], return_tensors="pt")["pixel_values"][0]
        except BadImageError as error:
            return index, error.reason, None
        except OSError as error:
            return index, error.strerror or str(error), None
        except Exception as error:  # whatever a decoder raises, one file must not end the update
            return index, f"{type(error).__name__}: {' '.join(str(error).split())}", None


def _collate(samples: list[tuple[int, Facts | str, Tensor | None]]) -> Decoded:
    problems = {index: reason for index, reason, pixels in samples if pixels is None}
    read = [sample for sample in samples if sample[2] is not None]
    pixels = torch.stack([sample[2] for sample in read]) if read else torch.zeros(0, 3, 1, 1)
    return Decoded([sample[0] for sample in read], [sample[1] for sample in read], pixels, problems)
