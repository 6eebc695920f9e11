"""The files of an index, each written atomically.

`index.json` describes the index and names its generation g: `images-g.json` (paths, sizes and modification
times of the images, sorted by path), `features-g.npy` (N, E) fp16 in the same order, and for an approximate
index `approximate-g.faiss`. `parts/` holds what an update has encoded so far, as pairs of the same kind.
An update takes effect when `index.json` is replaced: a kill before that leaves the previous index and the
parts.
"""

import json
import re
import shutil
import tokenize
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, get_origin

import numpy as np

from misc.process.durable import replacing
from misc.search.walk import ImageFile
from model.protocol import JsonObject
from options import UserError

HEADER, FORMAT = "index.json", 1
EXACT, APPROXIMATE = "exact", "approximate"
# What reading damaged files raises: JSON, numpy's headers (which are Python literals), FAISS.
READ_ERRORS = (OSError, ValueError, LookupError, TypeError, EOFError, AttributeError, RuntimeError)
READ_ERRORS += (MemoryError, SyntaxError, tokenize.TokenError)
PART = re.compile(r"images-(\d{1,9})\.json")
CHUNK = 65_536  # rows processed at once
Gathered = tuple[Callable[[], np.ndarray], np.ndarray, np.ndarray]


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file completely or not at all; raises UserError if it cannot be written."""
    try:
        with replacing(path) as file:
            write(file)
    except OSError as error:
        raise UserError(
            f"INDEX: '{path}' cannot be written ({error.strerror}); fix that and run the same command again"
        ) from error


@contextmanager
def reporting_damage(folder: Path) -> Iterator[None]:
    """Raise UserError where the block finds that the files of an index cannot be what was written."""
    try:
        yield
    except READ_ERRORS as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:150]}"
        raise UserError(f"INDEX: '{folder}' is damaged ({reason}); delete it and index again") from error


@dataclass(frozen=True)
class Header:
    """The content of `index.json`.

    Attributes:
        image_root: the folder of the images, absolute.
        checkpoint: the weights file of the encoder that made the features, absolute.
        identity: `Encoder.identity` of that encoder.
        options: its options, as `to_dict` returns them.
        embed_dim: E, the width of the features.
        generation: 0 until the first update has finished.
        kind: `EXACT` or `APPROXIMATE`.
    """

    image_root: str
    checkpoint: str
    identity: str
    options: JsonObject
    embed_dim: int
    generation: int = 0
    kind: str = EXACT


def write_header(folder: Path, header: Header) -> None:
    """Write `index.json`."""
    text = json.dumps({"format": FORMAT, **vars(header)}, indent=1) + "\n"
    write_atomically(folder / HEADER, lambda file: file.write(text.encode()))


def read_header(folder: Path) -> Header | None:
    """Read `index.json`; None if there is none; raises UserError if it is damaged."""
    with reporting_damage(folder):
        if not (folder / HEADER).exists():
            return None
        content = json.loads((folder / HEADER).read_text(encoding="utf-8"))
        header = Header(**{field.name: content[field.name] for field in fields(Header)})
        for field in fields(Header):
            if not isinstance(getattr(header, field.name), get_origin(field.type) or field.type):
                raise ValueError(f"'{field.name}' of {HEADER} is not of type {field.type}")
        if content["format"] != FORMAT:
            raise ValueError(f"expected format {FORMAT}, found {content['format']!r}")
    return header


class Segment:
    """The files of one number in a folder. The list of images is written after their features: if it exists,
    the features are complete.
    """

    def __init__(self, folder: Path, number: int) -> None:
        self.images_file = folder / f"images-{number}.json"
        self.features_file = folder / f"features-{number}.npy"
        self.approximate_file = folder / f"approximate-{number}.faiss"

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

    def complete_images(self, width: int) -> list[ImageFile]:
        """As `images`, where the features, of this width, are those of as many images."""
        images = self.images()
        self.features(len(images), width)
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

    def segments(self) -> list[tuple[list[ImageFile], Segment]]:
        """The complete segments, each with its images."""
        found = []
        for segment in (Segment(self.folder, number) for number in self._numbers()):
            # Where the disk lost data after a crash, the images are encoded again.
            with suppress(*READ_ERRORS):
                found.append((segment.complete_images(self.width), segment))
        return found

    def append(self, images: Sequence[ImageFile], features: np.ndarray) -> None:
        """Write the (n, E) fp16 features of n images."""
        self.folder.mkdir(exist_ok=True)
        segment = Segment(self.folder, max(self._numbers(), default=0) + 1)
        segment.write(images, lambda file: np.save(file, features))

    def _numbers(self) -> list[int]:
        matches = (PART.fullmatch(file.name) for file in self.folder.glob("images-*.json"))
        return sorted(int(match[1]) for match in matches if match)


def remove_stale(folder: Path, generation: int) -> None:
    """Remove what the index of this generation does not need: earlier ones, parts, temporary files."""
    patterns = [f"{kind}-*" for kind in ("images", "features", "approximate")]
    for file in (file for pattern in patterns for file in folder.glob(pattern)):
        if file.name.split(".")[0].rpartition("-")[2] != str(generation) or file.suffix == ".tmp":
            file.unlink(missing_ok=True)
    shutil.rmtree(folder / "parts", ignore_errors=True)


def write_gathered(sources: Sequence[Gathered], count: int, width: int, file: IO[bytes]) -> None:
    """Write a (count, width) fp16 array as .npy, one chunk in memory at a time. Of each source (features,
    rows, targets), `features()[rows]` become the rows `targets`, which ascend. Each is opened for a chunk
    only: all parts of a long update would be too many open files.
    """
    header = {"descr": "<f2", "fortran_order": False, "shape": (count, width)}
    np.lib.format.write_array_header_1_0(file, header)
    for start in range(0, count, CHUNK):
        stop = min(start + CHUNK, count)
        block = np.empty((stop - start, width), np.float16)
        for features, rows, targets in sources:
            first, last = np.searchsorted(targets, (start, stop))
            if first < last:
                block[targets[first:last] - start] = features()[rows[first:last]]
        file.write(block.tobytes())
