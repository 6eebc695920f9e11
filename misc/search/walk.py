"""Which images lie below a folder, and their pixels, made by worker processes."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from data.decode import NOT_DECODED, load_image
from data.sampler import Loader
from misc.process.workers import num_cores
from options import UserError


class Found(NamedTuple):
    """An image file: its path relative to the root, bytes, and time of change in nanoseconds."""

    path: str
    size: int
    time: int


def image_suffixes() -> set[str]:
    """The suffixes, in lower case, of all formats that Pillow decodes."""
    known = Image.registered_extensions()
    return {suffix for suffix, name in known.items() if name in Image.OPEN and name not in NOT_DECODED}


def find_images(root: Path, leave_out: Path, problems: dict[str, str]) -> Iterator[Found]:
    """The images below `root`, hidden files and folders left alone, in no particular order.

    Links are followed; a folder that is reached twice, as by a loop of links, is listed once.

    Args:
        leave_out: a folder that is passed by.
        problems: {path relative to the root: reason} of what cannot be looked into is added here.
    """
    suffixes, seen, folders = image_suffixes(), {_id_of(leave_out)}, [""]
    while folders:
        folder = folders.pop()
        try:
            identity = _id_of(root / folder)
            if identity in seen:
                continue
            seen.add(identity)
            with os.scandir(root / folder) as entries:
                visible = [entry for entry in entries if not entry.name.startswith(".")]
        except OSError as error:
            problems[folder or "."] = f"cannot be looked into ({error.strerror})"
            continue
        for entry in visible:
            path = os.path.join(folder, entry.name)
            try:
                if entry.is_dir():
                    folders.append(path)
                elif Path(path).suffix.lower() in suffixes:
                    stat = entry.stat()
                    yield Found(path, stat.st_size, stat.st_mtime_ns)
            except OSError as error:  # a link to nothing, or a file that has just gone
                problems[path] = f"cannot be looked at ({error.strerror})"


def _id_of(folder: Path) -> tuple[int, int]:
    stat = folder.stat()
    return stat.st_dev, stat.st_ino


class Decoded(NamedTuple):
    """A batch: the numbers of the files that could be read, their pixels, the reasons of the others."""

    rows: list[int]
    pixels: Tensor
    problems: dict[int, str]


def decode(root: Path, paths: Sequence[str], processor: Any, batch_size: int, pin_memory: bool) -> Loader:
    """Yields a `Decoded` for every `batch_size` files, made on all cores while earlier ones are encoded.

    Args:
        pin_memory: whether the pixels go to a GPU.
    """
    workers = min(num_cores(), len(paths) // batch_size)
    settings = {"batch_size": batch_size, "num_workers": workers, "pin_memory": pin_memory}
    return Loader(_Images(root, paths, processor), _collate, **settings)


class _Images(Dataset[tuple[int, Tensor | str]]):
    """(number, pixels (3, H, W)) of each file, or (number, reason) of one that cannot be read."""

    def __init__(self, root: Path, paths: Sequence[str], processor: Any) -> None:
        self.root, self.paths, self.processor = root, paths, processor

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[int, Tensor | str]:
        try:
            image = load_image(self.root / self.paths[index])
            return index, self.processor(images=[image], return_tensors="pt")["pixel_values"][0]
        except UserError as error:
            return index, " ".join(str(error.__cause__ or error).split())
        except Exception as error:  # one file in a million must not end the work, whatever its decoder raises
            return index, f"{type(error).__name__}: {' '.join(str(error).split())}"


def _collate(samples: list[tuple[int, Tensor | str]]) -> Decoded:
    good = {index: pixels for index, pixels in samples if isinstance(pixels, Tensor)}
    problems = {index: reason for index, reason in samples if isinstance(reason, str)}
    pixels = torch.stack(list(good.values())) if good else torch.zeros(0, 3, 1, 1)
    return Decoded(list(good), pixels, problems)
