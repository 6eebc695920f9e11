"""Keeping an index up with its folder: only what is new or changed is encoded."""

import logging
import os
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from tqdm import tqdm

from misc.process.durable import make_folder
from misc.search import store
from misc.search.encoder import Encoder
from misc.search.engines import build_approximate
from misc.search.index import APPROXIMATE, EXACT, approximate_file, check_identity
from misc.search.store import Parts, Segment
from misc.search.walk import Found, decode, find_images
from options import UserError, to_dict

LOGGER = logging.getLogger(__name__)
EXACT_UP_TO = 1_000_000  # images
SECONDS_PER_PART = 20.0
SKIPPED = "skipped.txt"


@dataclass(frozen=True)
class Update:
    """What an update found: numbers of images, and {path: reason} of those that cannot be read."""

    total: int
    encoded: int
    removed: int
    kind: str
    skipped: dict[str, str]


def update_index(encoder: Encoder, image_root: Path, folder: Path, approximate: bool | None = None) -> Update:
    """Make `folder` an index of the images below `image_root`, encoding only what is new or changed by path,
    size and time. Stopped at any moment, it leaves the index as it was, and goes on when called again.

    Args:
        approximate: None: above `EXACT_UP_TO` images.

    Raises:
        UserError: no images there; an index of another model, or damaged; a place that cannot be written to.
    """
    if not image_root.is_dir():
        raise UserError(f"IMAGE_ROOT: '{image_root}' is no folder; name the folder of the images")
    head = _open_or_begin(encoder, image_root, folder)
    skipped: dict[str, str] = {}
    walk = find_images(image_root, folder, skipped)
    visible = sys.stderr.isatty()
    found = sorted(tqdm(walk, desc="looking", unit="image", leave=False, disable=not visible))
    if not found:
        raise UserError(f"IMAGE_ROOT: no image below '{image_root}'; the index stays as it is")
    generation = head["generation"]
    sources = _sources(folder, head)
    known = {image for images, _ in sources for image in images}
    todo = [image for image in found if image not in known]
    if todo:
        _encode(encoder, image_root, Parts(folder, encoder.embed_dim), todo, skipped)
        sources = _sources(folder, head)
    there = {image for images, _ in sources for image in images}
    kept = [image for image in found if image in there]
    lines = "".join(f"{path}\t{reason}\n" for path, reason in sorted(skipped.items()))
    store.write_whole(folder / SKIPPED, lambda file: file.write(lines.encode("utf-8", "surrogateescape")))
    if not kept:
        raise UserError(f"IMAGE_ROOT: none of {len(found)} images can be read; see '{folder / SKIPPED}'")
    kind = APPROXIMATE if (len(kept) > EXACT_UP_TO if approximate is None else approximate) else EXACT
    before = sources[0][0] if generation else []
    if kept != before or kind != head["kind"]:
        generation += 1
        _write_generation(folder, generation, kept, sources, encoder.embed_dim, kind)
    store.write_head(folder, {**_describe(encoder, image_root), "generation": generation, "kind": kind})
    store.clean(folder, generation)
    removed = len({image.path for image in before} - {image.path for image in kept})
    return Update(len(kept), len(there & set(todo)), removed, kind, skipped)


def _describe(encoder: Encoder, image_root: Path) -> dict[str, Any]:
    return {
        "image_root": os.path.abspath(image_root),
        "checkpoint": os.path.abspath(encoder.checkpoint),
        "identity": encoder.identity,
        "options": to_dict(encoder.options),
        "embed_dim": encoder.embed_dim,
    }


def _open_or_begin(encoder: Encoder, image_root: Path, folder: Path) -> dict[str, Any]:
    """What `index.json` says, written first where there is none."""
    make_folder(folder, "INDEX")
    head = store.read_head(folder)
    if head is None:
        if any(folder.iterdir()):
            raise UserError(f"INDEX: '{folder}' holds files and no index; name a new or an empty folder")
        store.write_head(folder, {**_describe(encoder, image_root), "generation": 0, "kind": EXACT})
        return _open_or_begin(encoder, image_root, folder)
    check_identity(folder, head["identity"], head["checkpoint"], encoder)
    return head


def _sources(folder: Path, head: dict[str, Any]) -> list[tuple[list[Found], Segment]]:
    """The segments that features can come from, the index itself first; raises UserError where damaged."""
    parts = [(images, segment) for segment, images in Parts(folder, head["embed_dim"]).segments()]
    if head["generation"] == 0:
        return parts
    segment = Segment(folder, str(head["generation"]))
    try:
        images = segment.images()
        segment.features(len(images), head["embed_dim"])
    except store.BROKEN as error:
        raise store.damaged(folder, error) from error
    return [(images, segment), *parts]


def _encode(
    encoder: Encoder, root: Path, parts: Parts, todo: Sequence[Found], skipped: dict[str, str]
) -> None:
    """Encode images into parts; what a stop catches on its way to the disk is written still."""
    images: list[Found] = []
    blocks: list[np.ndarray] = []
    started = time.monotonic()
    with tqdm(total=len(todo), desc="encoding", unit="image", disable=not sys.stderr.isatty()) as bar:
        try:
            for batch, features in _encoded(encoder, root, todo, skipped):
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
    encoder: Encoder, root: Path, todo: Sequence[Found], skipped: dict[str, str]
) -> Iterator[tuple[list[Found], np.ndarray]]:
    """Images, a batch at a time, with their (n, D) fp16 features; those that cannot be read are skipped."""
    under_way: deque[list[int]] = deque()

    def pixels() -> Iterator[Tensor]:
        """The pixels of each batch; its rows join `under_way`, what it skipped joins `skipped`."""
        paths = [image.path for image in todo]
        for batch in decode(root, paths, encoder.processor, encoder.batch_size, encoder.on_gpu):
            skipped.update({todo[index].path: reason for index, reason in batch.problems.items()})
            if batch.rows:
                under_way.append(batch.rows)
                yield batch.pixels

    for features in encoder.encode_batches(pixels()):
        yield [todo[index] for index in under_way.popleft()], features.half().numpy()


def _write_generation(
    folder: Path,
    generation: int,
    kept: Sequence[Found],
    sources: Sequence[tuple[list[Found], Segment]],
    width: int,
    kind: str,
) -> None:
    """Put the features of `kept` together from the sources, and the approximate index where it is one."""
    places, moves = {image: place for place, image in enumerate(kept)}, []
    for images, segment in sources:
        pairs = sorted((places.pop(image), row) for row, image in enumerate(images) if image in places)
        targets, rows = (
            (np.array(column, np.int64) for column in zip(*pairs, strict=True)) if pairs else ((), ())
        )
        if len(targets):
            moves.append((segment.features(len(images), width), rows, targets))
    segment = Segment(folder, str(generation))
    segment.write(kept, lambda file: store.gather(moves, len(kept), width, file))
    if kind == APPROXIMATE:
        LOGGER.info("building the approximate index")
        file = approximate_file(folder, generation)
        build_approximate(segment.features(len(kept), width), file)
