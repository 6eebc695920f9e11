"""An index on disk, in files that are each written whole or not at all.

`index.json` describes the index and names its generation g: `images-g.json` (paths, sizes and times of change
of the images, sorted by path), `features-g.npy` (N, D) fp16 in the same order, and for an approximate index
`approximate-g.faiss`. `parts/` holds what an update has encoded so far, as pairs of the same kind. Replacing
`index.json` is what makes an update count: a kill before it leaves the old index and the parts.
"""

import json
import re
import tokenize
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from misc.process.durable import replacing
from misc.search.walk import Found
from options import UserError

HEAD, FORMAT = "index.json", 1
HEAD_TYPES = dict.fromkeys(("image_root", "checkpoint", "identity", "kind"), str)
HEAD_TYPES |= {"options": dict, "embed_dim": int, "generation": int}
# What reading damaged files raises: JSON, numpy's headers (which are Python's literals), FAISS.
BROKEN = (OSError, ValueError, LookupError, TypeError, EOFError, AttributeError, RuntimeError, MemoryError)
BROKEN += (SyntaxError, tokenize.TokenError)
PART = re.compile(r"images-(\d{1,9})\.json")
CHUNK = 65_536  # rows moved at once


def write_whole(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Write a file whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    try:
        with replacing(path) as file:
            write(file)
    except OSError as error:
        raise UserError(
            f"INDEX: '{path}' cannot be written ({error.strerror}); mend that, the same command goes on"
        ) from error


def damaged(folder: Path, error: Exception) -> UserError:
    """What to say of an index whose files cannot be what was written."""
    reason = " ".join(str(error).split())[:150]
    return UserError(
        f"INDEX: '{folder}' is damaged ({type(error).__name__}: {reason}); delete it and index anew"
    )


def write_head(folder: Path, head: dict[str, Any]) -> None:
    """Write `index.json`."""
    text = json.dumps({"format": FORMAT, **head}, indent=1) + "\n"
    write_whole(folder / HEAD, lambda file: file.write(text.encode()))


def read_head(folder: Path) -> dict[str, Any] | None:
    """What `index.json` says; None where there is none.

    Raises:
        UserError: it is damaged.
    """
    try:
        head = json.loads((folder / HEAD).read_text(encoding="utf-8"))
        for key, kind in HEAD_TYPES.items():
            if not isinstance(head[key], kind):
                raise ValueError(f"'{key}' of {HEAD} is no {kind.__name__}")
        if head["format"] != FORMAT:
            raise ValueError(f"format {head['format']!r} is not {FORMAT}")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except BROKEN as error:
        raise damaged(folder, error) from error
    return head


class Segment:
    """Images with their features, as a pair of files; the list of images is written last, and so vouches.

    Args:
        folder: where the pair is; `name` is what follows `images-` and `features-`.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.features_file, self.images_file = folder / f"features-{name}.npy", folder / f"images-{name}.json"

    def write(self, images: Sequence[Found], features: Callable[[IO[bytes]], Any]) -> None:
        """Write both files; `features` writes an array to the one it is given."""
        write_whole(self.features_file, features)
        text = json.dumps([list(column) for column in zip(*images, strict=True)])
        write_whole(self.images_file, lambda file: file.write(text.encode()))

    def images(self) -> list[Found]:
        """The images, in the order of the features; raises one of BROKEN where damaged."""
        columns = json.loads(self.images_file.read_bytes())
        images = [Found(*image) for image in zip(*columns, strict=True)]
        for image in images:
            path = f"/{image.path}/"
            if not (type(image.path) is str and type(image.size) is int is type(image.time)):
                raise TypeError(f"{image} is no path, size and time")
            if "//" in path or "/../" in path or "\0" in path:
                raise ValueError(f"{image.path!r} is no path below the image root")
        return images

    def features(self, count: int, width: int) -> np.ndarray:
        """(count, width) fp16, read from the file as it is used; raises one of BROKEN where it is another."""
        rows = np.lib.format.open_memmap(self.features_file, mode="r")
        if rows.dtype != np.float16 or rows.shape != (count, width):
            raise ValueError(f"{self.features_file.name} holds {rows.dtype} {rows.shape}")
        return rows


class Parts:
    """What an update has encoded so far, in segments numbered as they came."""

    def __init__(self, folder: Path, width: int) -> None:
        self.folder, self.width = folder / "parts", width

    def segments(self) -> list[tuple[Segment, list[Found]]]:
        """Those that are whole, each with its images."""
        found = []
        for number in self._numbers():
            segment = Segment(self.folder, str(number))
            try:
                images = segment.images()
                segment.features(len(images), self.width)
            except BROKEN:  # left by a disk that lied; its images are encoded anew
                continue
            found.append((segment, images))
        return found

    def append(self, images: Sequence[Found], features: np.ndarray) -> None:
        """Keep the (n, D) fp16 features of n images."""
        self.folder.mkdir(exist_ok=True)
        number = max(self._numbers(), default=0) + 1
        Segment(self.folder, str(number)).write(images, lambda file: np.save(file, features))

    def _numbers(self) -> list[int]:
        found = (PART.fullmatch(file.name) for file in self.folder.glob("images-*.json"))
        return sorted(int(name[1]) for name in found if name)


def clean(folder: Path, generation: int) -> None:
    """Remove what the index of this generation does not need: earlier ones, parts, unfinished files."""
    names = [f"{kind}-*" for kind in ("images", "features", "approximate")]
    for file in (file for name in names for file in folder.glob(name)):
        if file.name.split(".")[0].rpartition("-")[2] != str(generation) or file.suffix == ".tmp":
            file.unlink(missing_ok=True)
    for file in (folder / "parts").glob("*"):
        file.unlink(missing_ok=True)
    if (folder / "parts").exists():
        (folder / "parts").rmdir()


def gather(
    sources: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], count: int, width: int, file: IO[bytes]
) -> None:
    """Write a (count, width) fp16 array as .npy: of each (features, rows, places), rows go to places.

    Places of one source ascend. Memory holds a chunk at a time.
    """
    head = {"descr": "<f2", "fortran_order": False, "shape": (count, width)}
    np.lib.format.write_array_header_1_0(file, head)
    for start in range(0, count, CHUNK):
        stop = min(start + CHUNK, count)
        block = np.empty((stop - start, width), np.float16)
        for features, rows, places in sources:
            first, last = np.searchsorted(places, (start, stop))
            block[places[first:last] - start] = features[rows[first:last]]
        file.write(block.tobytes())
