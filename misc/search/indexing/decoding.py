"""The pixels of image files, decoded by worker processes, and of the people in them."""

import os
from collections.abc import Iterator, Sequence
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

    Args:
        pin_memory: whether the pixels will be copied to a GPU.
        truncated: as `data.truncated`.
        people: None: each file is one entry.
    """
    workers = min(num_cores(), len(paths) // batch_size)
    settings = {"batch_size": batch_size, "num_workers": workers, "pin_memory": pin_memory}
    for batch in Loader(_Images(root, paths, processor, truncated, people), list, **settings):
        images = {read.index: read.pixels for read in batch if isinstance(read.pixels, Image.Image)}
        if images:
            assert people is not None
            boxes = people.boxes_in(list(images.values()), [paths[index] for index in images])
            found = dict(zip(images, boxes, strict=True))
            batch = [_with_people(read, found, people, processor) for read in batch]
        yield _collate(batch)


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


def _with_people(read: Read, found: dict[int, Boxes], people: People, processor: Processor) -> Read:
    """A file in whose image these people were found."""
    if read.index not in found:
        return read
    return _encoded(read.index, read.facts, read.pixels, found[read.index], people, processor)


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
