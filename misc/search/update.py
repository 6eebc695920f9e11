"""Creating and updating an index: only images that are new or changed are encoded."""

import logging
import os
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor
from tqdm import tqdm

from misc.process.durable import make_folder
from misc.search import store
from misc.search.encoder import Encoder
from misc.search.engines import build_approximate
from misc.search.index import check_identity
from misc.search.store import APPROXIMATE, EXACT, Header, Parts, Segment
from misc.search.walk import ImageFile, decode, find_images
from options import UserError, to_dict

logger = logging.getLogger(__name__)

MAX_EXACT = 1_000_000  # images
SECONDS_PER_PART = 20.0
SKIPPED = "skipped.txt"

Source = tuple[list[ImageFile], Segment]


@dataclass(frozen=True)
class Update:
    """The outcome of an update: numbers of images, and {path: reason} of those that cannot be read."""

    total: int
    encoded: int
    removed: int
    kind: str
    skipped: dict[str, str]


def update_index(encoder: Encoder, image_root: Path, folder: Path, approximate: bool | None = None) -> Update:
    """Make `folder` an index of the images below `image_root`, encoding only those that are new or changed by
    path, size and modification time; an approximate index if `approximate` (None: above `MAX_EXACT` images).
    Interrupted at any moment, it leaves the previous index as it was, and resumes when called again.

    Raises:
        UserError: there are no images, the index is damaged or of another model, the folder is not writable.
    """
    if not image_root.is_dir():
        raise UserError(f"IMAGE_ROOT: '{image_root}' is not a folder; name the folder of the images")
    header = _open_or_create(encoder, image_root, folder)
    generation = header.generation
    skipped: dict[str, str] = {}
    found = _find(image_root, folder, skipped)
    sources = _sources(folder, header)
    previous = sources[0][0] if generation else []
    known = {image for images, _ in sources for image in images}
    new = [image for image in found if image not in known]
    if new:
        _encode(encoder, image_root, Parts(folder, encoder.embed_dim), new, skipped)
        sources = _sources(folder, header)
        known = {image for images, _ in sources for image in images}
    lines = "".join(f"{path}\t{reason}\n" for path, reason in sorted(skipped.items()))
    text = lines.encode("utf-8", "surrogateescape")
    store.write_atomically(folder / SKIPPED, lambda file: file.write(text))
    indexed = [image for image in found if image in known]
    if not indexed:
        raise UserError(f"IMAGE_ROOT: none of {len(found)} images can be read; see '{folder / SKIPPED}'")
    kind = APPROXIMATE if (len(indexed) > MAX_EXACT if approximate is None else approximate) else EXACT
    if indexed != previous or kind != header.kind:
        generation += 1
        _write_segment(Segment(folder, generation), indexed, sources, encoder.embed_dim, kind)
    store.write_header(folder, replace(_header(encoder, image_root), generation=generation, kind=kind))
    store.remove_stale(folder, generation)
    removed = len({image.path for image in previous} - {image.path for image in indexed})
    return Update(len(indexed), len(known & set(new)), removed, kind, skipped)


def _find(image_root: Path, folder: Path, skipped: dict[str, str]) -> list[ImageFile]:
    """The images of the root, sorted; raises UserError if there is none."""
    walk, hide = find_images(image_root, folder, skipped), not sys.stderr.isatty()
    found = sorted(tqdm(walk, desc="scanning", unit="image", leave=False, disable=hide))
    if not found:
        raise UserError(f"IMAGE_ROOT: no image below '{image_root}'; the index is unchanged")
    return found


def _header(encoder: Encoder, image_root: Path) -> Header:
    places = os.path.abspath(image_root), os.path.abspath(encoder.checkpoint)
    return Header(*places, encoder.identity, to_dict(encoder.options), encoder.embed_dim)


def _open_or_create(encoder: Encoder, image_root: Path, folder: Path) -> Header:
    """The content of `index.json`, which is created if the folder is empty."""
    make_folder(folder, "INDEX")
    header = store.read_header(folder)
    if header is None:
        if any(folder.iterdir()):
            raise UserError(f"INDEX: '{folder}' contains files but no index; name a new or an empty folder")
        header = _header(encoder, image_root)
        store.write_header(folder, header)
    check_identity(folder, header, encoder)
    return header


def _sources(folder: Path, header: Header) -> list[Source]:
    """All segments with features, the previous index, if any, first; raises UserError if it is damaged."""
    parts = Parts(folder, header.embed_dim).segments()
    if header.generation == 0:
        return parts
    segment = Segment(folder, header.generation)
    with store.reporting_damage(folder):
        return [(segment.complete_images(header.embed_dim), segment), *parts]


def _encode(
    encoder: Encoder, root: Path, parts: Parts, new: Sequence[ImageFile], skipped: dict[str, str]
) -> None:
    """Encode images into parts; on an interrupt, what has been encoded is still written."""
    images: list[ImageFile] = []
    blocks: list[np.ndarray] = []
    started = time.monotonic()
    with tqdm(total=len(new), desc="encoding", unit="image", disable=not sys.stderr.isatty()) as bar:
        try:
            for batch, features in _encoded(encoder, root, new, skipped):
                images += batch
                blocks.append(features)
                bar.update(len(batch))
                if time.monotonic() - started > SECONDS_PER_PART:
                    parts.append(images, np.concatenate(blocks))
                    images, blocks, started = [], [], time.monotonic()
        finally:
            if images:
                parts.append(images, np.concatenate(blocks))


def _encoded(
    encoder: Encoder, root: Path, new: Sequence[ImageFile], skipped: dict[str, str]
) -> Iterator[tuple[list[ImageFile], np.ndarray]]:
    """Batches of images with their (n, E) fp16 features; those that cannot be read are added to `skipped`."""
    pending: deque[list[int]] = deque()

    def pixels() -> Iterator[Tensor]:
        """The pixels of each batch; the indices of its images are appended to `pending`."""
        paths = [image.path for image in new]
        settings = (encoder.batch_size, encoder.on_gpu, encoder.options.data.truncated)
        for batch in decode(root, paths, encoder.processor, *settings):
            skipped.update({new[index].path: reason for index, reason in batch.problems.items()})
            if batch.indices:
                pending.append(batch.indices)
                yield batch.pixels

    for features in encoder.encode_batches(pixels()):
        yield [new[index] for index in pending.popleft()], features.half().numpy()


def _write_segment(
    segment: Segment, indexed: Sequence[ImageFile], sources: Sequence[Source], width: int, kind: str
) -> None:
    """Write the features of `indexed`, taken from the sources, and the approximate index if it is one."""
    target_of, gathered = {image: target for target, image in enumerate(indexed)}, []
    for images, source in sources:
        pairs = sorted((target_of.pop(image), row) for row, image in enumerate(images) if image in target_of)
        if pairs:
            targets, rows = np.array(pairs, np.int64).T
            gathered.append((partial(source.features, len(images), width), rows, targets))
    segment.write(indexed, lambda file: store.write_gathered(gathered, len(indexed), width, file))
    if kind == APPROXIMATE:
        logger.info("building the approximate index")
        build_approximate(segment.features(len(indexed), width), segment.approximate_file)
