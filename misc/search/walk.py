"""The image files below a folder, and their pixels, decoded by worker processes."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from data.images.decode import BadImageError, image_suffixes, is_hidden, load_image
from data.sampler import Loader
from misc.process.workers import num_cores
from model.protocol import Processor


class ImageFile(NamedTuple):
    """An image file: path relative to the root, size in bytes, modification time in nanoseconds."""

    path: str
    size: int
    mtime_ns: int


def find_images(root: Path, exclude: Path, problems: dict[str, str]) -> Iterator[ImageFile]:
    """Yield the images below `root` in no particular order, without hidden files and folders, and without
    the folder `exclude`. Links are followed; a folder that is reached twice, for instance by a loop of links,
    is listed once. {path relative to the root: reason} of what cannot be read is added to `problems`.
    """
    suffixes, seen, folders = image_suffixes(), {_id_of(exclude)}, [""]
    while folders:
        folder = folders.pop()
        try:
            identity = _id_of(root / folder)
            if identity in seen:
                continue
            seen.add(identity)
            with os.scandir(root / folder) as entries:
                visible = [entry for entry in entries if not is_hidden(entry.name)]
        except OSError as error:
            problems[folder or "."] = f"cannot be listed ({error.strerror})"
            continue
        for entry in visible:
            path = os.path.join(folder, entry.name)
            try:
                if entry.is_dir():
                    folders.append(path)
                elif Path(path).suffix.lower() in suffixes:
                    stat = entry.stat()
                    yield ImageFile(path, stat.st_size, stat.st_mtime_ns)
            except OSError as error:  # a dangling link, or a file that was deleted in the meantime
                problems[path] = f"cannot be accessed ({error.strerror})"


def _id_of(folder: Path) -> tuple[int, int]:
    stat = folder.stat()
    return stat.st_dev, stat.st_ino


class Decoded(NamedTuple):
    """A batch of files: indices and pixels (B, 3, H, W) of those that were read, reasons of the others."""

    indices: list[int]
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


class _Images(Dataset[tuple[int, Tensor | str]]):
    """(index, pixels (3, H, W)) of each file, or (index, reason) of one that cannot be read."""

    def __init__(self, root: Path, paths: Sequence[str], processor: Processor, truncated: str) -> None:
        self.root, self.paths, self.processor, self.truncated = root, paths, processor, truncated

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[int, Tensor | str]:
        try:
            image = load_image(self.root / self.paths[index], self.truncated)
            return index, self.processor(images=[image], return_tensors="pt")["pixel_values"][0]
        except BadImageError as error:
            return index, error.reason
        except Exception as error:  # whatever a decoder raises, one file must not end the update
            return index, f"{type(error).__name__}: {' '.join(str(error).split())}"


def _collate(samples: list[tuple[int, Tensor | str]]) -> Decoded:
    pixels = {index: value for index, value in samples if isinstance(value, Tensor)}
    problems = {index: value for index, value in samples if isinstance(value, str)}
    stacked = torch.stack(list(pixels.values())) if pixels else torch.zeros(0, 3, 1, 1)
    return Decoded(list(pixels), stacked, problems)
