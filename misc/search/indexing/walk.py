"""The image and video files below a folder, and their content."""

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from PIL import ExifTags, Image

from data.images.decode import image_suffixes
from misc.search.indexing.exclusion import REASONS, VIDEOS, Exclusion

MAX_INTEGER = 2**63 - 1  # of SQLite
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
    root: Path,
    index: Path | None,
    problems: dict[str, str],
    exclusion: Exclusion = NO_PATTERNS,
    with_videos: bool = False,
) -> Iterator[ImageFile]:
    """Yield the images below `root`, and the videos if they are wanted, in no particular order, without what
    `exclusion` leaves out, and without the folder `index`. Links are followed; a folder that is reached
    twice, for instance by a loop of links, is listed once. {path relative to the root: reason} of the images,
    videos and folders that are left out, or cannot be accessed, is added to `problems`, with a separator
    behind the path of a folder.
    """
    suffixes = image_suffixes() | (VIDEOS if with_videos else set())
    seen, folders = {_id_of(index)} if index else set(), [""]
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
                is_wanted = is_folder or suffix in suffixes
                if reason := exclusion.reason(path) or (None if is_wanted else REASONS.get(suffix)):
                    problems[os.path.join(path, "") if is_folder else path] = reason
                elif is_folder:
                    folders.append(path)
                else:
                    yield ImageFile(path, *state_of(entry.stat()))
            except OSError as error:  # a dangling link, or a file that was deleted in the meantime
                problems[path] = f"cannot be accessed ({error.strerror})"


def _id_of(folder: Path) -> tuple[int, int]:
    result = folder.stat()
    return result.st_dev, result.st_ino


def content_of(path: Path) -> Content:
    """Read a file; raises OSError if it cannot be read, or is changed meanwhile."""
    return read_file(path, 0)[0]


def read_file(path: Path, max_held: int) -> tuple[Content, bytes | None]:
    """What `content_of` returns, and the bytes of a file that has at most so many."""
    if not stat.S_ISREG(os.stat(path).st_mode):  # to open a pipe is to wait for whoever writes into it
        raise OSError("it is no regular file")
    digest, content = hashlib.blake2b(digest_size=16), None
    with open(path, "rb", buffering=0) as file:
        state = state_of(os.fstat(file.fileno()))
        if state[0] <= max_held:
            content = file.read()
            digest.update(content)
        while block := file.read(1 << 20):
            digest.update(block)
        if state_of(os.fstat(file.fileno())) != state:
            raise OSError("it was changed while it was read")
    return Content(*state, digest.digest()), content


def state_of(result: os.stat_result) -> tuple[int, int]:
    """Size and modification time, as `Content` has them."""
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
