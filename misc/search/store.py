"""The files of an index, each written atomically.

`index.json` describes the index and names its generation g: `images-g.json` (paths, sizes and modification
times of the images, sorted by path), `features-g.npy` (N, E) fp16 in the same order, and for an approximate
index `approximate-g.faiss`. `parts/` holds what an update has encoded so far, as pairs of the same kind.
An update takes effect when `index.json` is replaced: a kill before that leaves the previous index and the
parts.
"""

import json
import re
import tokenize
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from misc.process.durable import replacing
from misc.search.walk import ImageFile
from model.protocol import JsonObject
from options import UserError

HEADER, FORMAT = "index.json", 1
HEADER_TYPES = dict.fromkeys(("image_root", "checkpoint", "identity", "kind"), str)
HEADER_TYPES |= {"options": dict, "embed_dim": int, "generation": int}
# What reading damaged files raises: JSON, numpy's headers (which are Python literals), FAISS.
READ_ERRORS = (OSError, ValueError, LookupError, TypeError, EOFError, AttributeError, RuntimeError)
READ_ERRORS += (MemoryError, SyntaxError, tokenize.TokenError)
PART = re.compile(r"images-(\d{1,9})\.json")
CHUNK = 65_536  # rows processed at once


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file completely or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        with replacing(path) as file:
            write(file)
    except OSError as error:
        raise UserError(
            f"INDEX: '{path}' cannot be written ({error.strerror}); fix that and run the same command again"
        ) from error


def damaged(folder: Path, error: Exception) -> UserError:
    """The error for an index whose files cannot be what was written."""
    reason = " ".join(str(error).split())[:150]
    return UserError(
        f"INDEX: '{folder}' is damaged ({type(error).__name__}: {reason}); delete it and index again"
    )


def write_header(folder: Path, header: JsonObject) -> None:
    """Write `index.json`."""
    text = json.dumps({"format": FORMAT, **header}, indent=1) + "\n"
    write_atomically(folder / HEADER, lambda file: file.write(text.encode()))


def read_header(folder: Path) -> JsonObject | None:
    """Read `index.json`; None if there is none.

    Raises:
        UserError: it is damaged.
    """
    try:
        header = json.loads((folder / HEADER).read_text(encoding="utf-8"))
        for key, kind in HEADER_TYPES.items():
            if not isinstance(header[key], kind):
                raise ValueError(f"'{key}' of {HEADER} is not of type {kind.__name__}")
        if header["format"] != FORMAT:
            raise ValueError(f"expected format {FORMAT}, found {header['format']!r}")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except READ_ERRORS as error:
        raise damaged(folder, error) from error
    return header


class Segment:
    """A pair of files with images and their features. The list of images is written last: if it exists, the
    features are complete.

    Args:
        folder: the folder of the files.
        name: what follows `images-` and `features-` in their names.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.features_file, self.images_file = folder / f"features-{name}.npy", folder / f"images-{name}.json"

    def write(self, images: Sequence[ImageFile], features: Callable[[IO[bytes]], object]) -> None:
        """Write both files; `features` writes the array to the file that it is given."""
        write_atomically(self.features_file, features)
        text = json.dumps([list(column) for column in zip(*images, strict=True)])
        write_atomically(self.images_file, lambda file: file.write(text.encode()))

    def images(self) -> list[ImageFile]:
        """The images, in the order of the features; raises one of `READ_ERRORS` if damaged."""
        columns = json.loads(self.images_file.read_bytes())
        images = [ImageFile(*image) for image in zip(*columns, strict=True)]
        for image in images:
            path = f"/{image.path}/"
            if not (type(image.path) is str and type(image.size) is int is type(image.mtime_ns)):
                raise TypeError(f"expected path, size and modification time, found {tuple(image)}")
            if "//" in path or "/../" in path or "\0" in path:
                raise ValueError(f"expected a path below the image root, found {image.path!r}")
        return images

    def features(self, count: int, width: int) -> np.ndarray:
        """(count, width) fp16, memory-mapped; raises one of `READ_ERRORS` if the file has another array."""
        rows = np.lib.format.open_memmap(self.features_file, mode="r")
        if rows.dtype != np.float16 or rows.shape != (count, width):
            raise ValueError(f"{self.features_file.name} contains {rows.dtype} {rows.shape}")
        return rows


class Parts:
    """What an update has encoded so far, in segments numbered in order."""

    def __init__(self, folder: Path, width: int) -> None:
        self.folder, self.width = folder / "parts", width

    def segments(self) -> list[tuple[Segment, list[ImageFile]]]:
        """The complete segments, each with its images."""
        found = []
        for number in self._numbers():
            segment = Segment(self.folder, str(number))
            try:
                images = segment.images()
                segment.features(len(images), self.width)
            except READ_ERRORS:  # the disk lost data after a crash: its images are encoded again
                continue
            found.append((segment, images))
        return found

    def append(self, images: Sequence[ImageFile], features: np.ndarray) -> None:
        """Write the (n, E) fp16 features of n images."""
        self.folder.mkdir(exist_ok=True)
        number = max(self._numbers(), default=0) + 1
        Segment(self.folder, str(number)).write(images, lambda file: np.save(file, features))

    def _numbers(self) -> list[int]:
        matches = (PART.fullmatch(file.name) for file in self.folder.glob("images-*.json"))
        return sorted(int(match[1]) for match in matches if match)


def remove_stale(folder: Path, generation: int) -> None:
    """Remove what the index of this generation does not need: earlier ones, parts, temporary files."""
    patterns = [f"{kind}-*" for kind in ("images", "features", "approximate")]
    for file in (file for pattern in patterns for file in folder.glob(pattern)):
        if file.name.split(".")[0].rpartition("-")[2] != str(generation) or file.suffix == ".tmp":
            file.unlink(missing_ok=True)
    for file in (folder / "parts").glob("*"):
        file.unlink(missing_ok=True)
    if (folder / "parts").exists():
        (folder / "parts").rmdir()


def write_gathered(
    sources: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], count: int, width: int, file: IO[bytes]
) -> None:
    """Write a (count, width) fp16 array as .npy, one chunk in memory at a time.

    Args:
        sources: (features, rows, targets) each: `features[rows]` become the rows `targets`, which ascend.
    """
    header = {"descr": "<f2", "fortran_order": False, "shape": (count, width)}
    np.lib.format.write_array_header_1_0(file, header)
    for start in range(0, count, CHUNK):
        stop = min(start + CHUNK, count)
        block = np.empty((stop - start, width), np.float16)
        for features, rows, targets in sources:
            first, last = np.searchsorted(targets, (start, stop))
            block[targets[first:last] - start] = features[rows[first:last]]
        file.write(block.tobytes())
