"""From files to entries of an index: decoded, encoded, and written a part at a time."""

import logging
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor
from tqdm import tqdm

from data.images.decode import MAX_PIXELS
from data.images.regions import Place
from misc.search.encoder import Encoder
from misc.search.indexing.decoding import decode
from misc.search.indexing.people import Found, People
from misc.search.indexing.walk import Facts, ImageFile
from misc.search.storage.database import Entry
from misc.search.storage.milvus_store import MilvusStore
from misc.search.storage.sightings import Sighting
from misc.search.storage.store import Store

logger = logging.getLogger(__name__)

SECONDS_PER_PART = 20.0
PHOTOS_AT_ONCE = 8  # in which people are looked for

Photo = tuple[ImageFile, Facts, list[Found]]


def encode_images(
    store: Store | MilvusStore,
    encoder: Encoder,
    root: Path,
    new: Sequence[ImageFile],
    replaced: Mapping[str, Sequence[Entry]],
    skipped: dict[str, str],
    people: People | None = None,
) -> dict[str, bool]:
    """Encode images, a generation every `SECONDS_PER_PART`; on an interrupt, what has been encoded becomes
    one, too. Returns {path: whether it was decoded at reduced size} of those that could be read.

    Args:
        replaced: the entries so far of files that the index has; they keep their ids.
        skipped: {path: reason} of the files that cannot be read are added.
    """
    encoded: dict[str, bool] = {}
    photos: list[Photo] = []
    blocks: list[np.ndarray] = []

    def end_part() -> None:
        part, features = photos.copy(), np.concatenate(blocks)
        photos.clear()  # now: an interrupt must not write them twice
        blocks.clear()
        slots = iter(store.append(features))
        for file, facts, found in part:
            put_file(store, replaced.get(file.path, ()), _entries(file, facts, found, slots, people))
        store.commit()
        encoded.update((file.path, facts.width * facts.height > MAX_PIXELS) for file, facts, _ in part)

    started = time.monotonic()
    hide = not new or not sys.stderr.isatty()
    with tqdm(total=len(new), desc="encoding", unit="image", disable=hide) as bar:
        try:
            for batch, features in _encoded(encoder, root, new, skipped, people):
                blocks.append(features)  # first: an interrupt must not leave photos without
                photos += batch
                bar.update(len(batch))
                if time.monotonic() - started > SECONDS_PER_PART:
                    end_part()
                    started = time.monotonic()
        finally:
            if photos:
                end_part()
    return encoded


def _entries(
    file: ImageFile, facts: Facts, found: Sequence[Found], slots: Iterator[int], people: People | None
) -> list[Entry]:
    """The entries of a photo, without ids."""
    boxes = people.boxes_digest(file.path) if people else ""
    entries = []
    for box, score in found:
        size = (facts.width, facts.height) if box is None else box[2:]
        path = Place(file.path, None, box).path
        sighting = Sighting(len(found), score, boxes=boxes).text if people else None
        entries.append(Entry(0, next(slots), path, *facts.content, *size, facts.taken, None, sighting))
    return entries


def put_file(store: Store | MilvusStore, replaced: Sequence[Entry], entries: Sequence[Entry]) -> None:
    """Add all entries of a file, with new ids, except where it had an entry of the same path before."""
    ids = {entry.path: entry.id for entry in replaced}
    for entry in entries:
        number = ids.pop(entry.path, None)
        store.put([entry._replace(id=store.new_id() if number is None else number)])
    store.remove(ids.values())


def _encoded(
    encoder: Encoder, root: Path, new: Sequence[ImageFile], skipped: dict[str, str], people: People | None
) -> Iterator[tuple[list[Photo], np.ndarray]]:
    """Batches of images with the (n, E) fp16 features of their entries; those that cannot be read are added
    to `skipped`.
    """
    pending: deque[tuple[list[Photo], int]] = deque()  # and in how many parts their features come

    def pixels() -> Iterator[Tensor]:
        """The pixels of each batch, whose images are appended to `pending`."""
        paths = [image.path for image in new]
        at_once = PHOTOS_AT_ONCE if people else encoder.batch_size
        settings = (at_once, encoder.on_gpu, encoder.options.data.truncated, people)
        for batch in decode(root, paths, encoder.processor, *settings):
            skipped.update({new[index].path: reason for index, reason in batch.problems.items()})
            if batch.indices:
                files = (new[index] for index in batch.indices)
                starts = range(0, len(batch.pixels), encoder.batch_size)
                parts = [batch.pixels[start : start + encoder.batch_size] for start in starts]
                pending.append((list(zip(files, batch.facts, batch.entries, strict=True)), len(parts)))
                yield from parts

    features: list[np.ndarray] = []
    for part in encoder.encode_batches(pixels()):
        features.append(part.half().numpy())
        if len(features) == pending[0][1]:
            yield pending.popleft()[0], np.concatenate(features)
            features.clear()
