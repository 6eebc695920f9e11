"""The pixels of image files, decoded by worker processes, and of the people in them."""

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from data.images.decode import BadImageError, load_image
from data.sampler import Loader
from misc.detection.boxes import Boxes
from misc.process.workers import num_cores
from misc.search.indexing.people import WHOLE, Found, People
from misc.search.indexing.walk import Facts, read_file, state_of, taken_time
from misc.search.views import full_size
from model.protocol import Processor

MAX_HELD = 2**26  # bytes of a file that is read once, for its digest and its pixels


class Decoded(NamedTuple):
    """A batch of files.

    Attributes:
        indices, facts: of those that were read.
        entries: what each of them has: itself as a whole, or its people.
        pixels: (n, 3, H, W) of all these entries.
        problems: {index: reason} of the others.
    """

    indices: list[int]
    facts: list[Facts]
    entries: list[list[Found]]
    pixels: Tensor
    problems: dict[int, str]

    def of(self, files: slice) -> "Decoded":
        """Some of the files that were read."""
        counts = [len(entries) for entries in self.entries]
        start, stop, _ = files.indices(len(counts))
        rows = slice(sum(counts[:start]), sum(counts[:stop]))
        return Decoded(self.indices[files], self.facts[files], self.entries[files], self.pixels[rows], {})

    def followed_by(self, other: "Decoded") -> "Decoded":
        """Both batches as one."""
        pixels = torch.cat([part for part in (self.pixels, other.pixels) if len(part)] or [self.pixels])
        lists = (mine + theirs for mine, theirs in zip(self[:3], other[:3], strict=True))
        return Decoded(*lists, pixels, self.problems | other.problems)


class Read(NamedTuple):
    """A file: its facts and its entries with their pixels (n, 3, H, W); or its pixels alone, if a detector on
    the device of the encoder is to look for people; or the reason why it cannot be read.
    """

    index: int
    facts: Facts | None = None
    entries: list[Found] | None = None
    pixels: Tensor | Image.Image | None = None
    problem: str = ""


def decode(
    root: Path,
    paths: Sequence[str],
    processor: Processor,
    batch_size: int,
    pin_memory: bool,
    truncated: str = "error",
    people: People | None = None,
) -> Iterator[Decoded]:
    """Decode files in batches, prefetched by one worker per core, which also look for people on CPU cores.

    Each batch has `batch_size` files that were read, the last one what is left: so which files are encoded
    together, and with that the last bit of their features, depends neither on files that cannot be read nor
    on where an earlier run was interrupted, which always is between two batches.

    Args:
        pin_memory: whether the pixels will be copied to a GPU.
        truncated: as `data.truncated`.
        people: None: each file is one entry.
    """
    kept: Decoded | None = None
    for batch in _decoded(root, paths, processor, batch_size, pin_memory, truncated, people):
        kept = kept.followed_by(batch) if kept else batch
        if len(kept.indices) > batch_size:
            yield kept.of(slice(batch_size))._replace(problems=kept.problems)
            kept = kept.of(slice(batch_size, None))
        elif len(kept.indices) == batch_size:
            yield kept
            kept = None
    if kept:
        yield kept


def _decoded(
    root: Path,
    paths: Sequence[str],
    processor: Processor,
    batch_size: int,
    pin_memory: bool,
    truncated: str,
    people: People | None,
) -> Iterator[Decoded]:
    """`decode`, but the files of a batch that could not be read may count."""
    workers = min(num_cores(), len(paths) // batch_size)
    settings = {"batch_size": batch_size, "num_workers": workers, "pin_memory": pin_memory}
    images = _Images(root, paths, processor, truncated, people)
    if people is None or people.detects_in_workers:
        yield from Loader(images, _collate, **settings)
        return
    for batch in _of_one_size(Loader(images, list, **settings), batch_size):
        read = [each for each in batch if not each.problem]
        boxes = people.boxes_in([each.pixels for each in read], [paths[each.index] for each in read])
        found = [
            _encoded(each.index, each.facts, each.pixels, boxes_of_it, people, processor)
            for each, boxes_of_it in zip(read, boxes, strict=True)
        ]
        yield _collate([*found, *(each for each in batch if each.problem)])


def _of_one_size(batches: Iterable[Sequence[Read]], size: int) -> Iterator[list[Read]]:
    """Batches of as many files that were read, and any number of others."""
    batch, missing = [], size
    for each in chain.from_iterable(batches):
        batch.append(each)
        missing -= not each.problem
        if not missing:
            yield batch
            batch, missing = [], size
    if batch:
        yield batch


class _Images(Dataset[Read]):
    def __init__(
        self, root: Path, paths: Sequence[str], processor: Processor, truncated: str, people: People | None
    ) -> None:
        self.root, self.paths, self.processor, self.truncated = root, paths, processor, truncated
        self.people = people

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Read:
        path = self.root / self.paths[index]
        try:
            read, content = read_file(path, MAX_HELD)
            image = load_image(path, self.truncated, large=True, content=content)
            if content is None and state_of(os.stat(path)) != read[:2]:
                raise OSError("it was changed while it was read")
            facts = Facts(read, *full_size(image), taken_time(image))
            if self.people and not self.people.detects_in_workers:
                return Read(index, facts, None, image)
            boxes = self.people.boxes_in([image], [self.paths[index]])[0] if self.people else None
            return _encoded(index, facts, image, boxes, self.people, self.processor)
        except BadImageError as error:
            return Read(index, problem=error.reason)
        except OSError as error:
            return Read(index, problem=error.strerror or str(error))
        except Exception as error:  # whatever a decoder raises, one file must not end the update
            return Read(index, problem=f"{type(error).__name__}: {' '.join(str(error).split())}")


def _encoded(
    index: int,
    facts: Facts,
    image: Image.Image,
    boxes: Boxes | None,
    people: People | None,
    processor: Processor,
) -> Read:
    if people is None:
        return Read(index, facts, WHOLE, processor(images=[image], return_tensors="pt")["pixel_values"])
    entries = people.entries_of(boxes)
    crops = people.crops(image, entries)
    return Read(index, facts, entries, processor(images=crops, return_tensors="pt")["pixel_values"])


def _collate(batch: Sequence[Read]) -> Decoded:
    read = [each for each in batch if not each.problem]
    pixels = torch.cat([each.pixels for each in read]) if read else torch.zeros(0, 3, 1, 1)
    indices, facts, entries = (
        [getattr(each, name) for each in read] for name in ("index", "facts", "entries")
    )
    return Decoded(
        indices, facts, entries, pixels, {each.index: each.problem for each in batch if each.problem}
    )
