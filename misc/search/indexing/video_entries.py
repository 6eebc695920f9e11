"""From videos to entries of an index of people, one video after the other."""

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data.images.regions import Place
from misc.detection.boxes import Boxes, as_boxes
from misc.detection.video import BadVideoError, Frame, lacking
from misc.process.durable import leftovers
from misc.search.encoder import Encoder
from misc.search.indexing.encoding import put_file
from misc.search.indexing.people import People, known_score
from misc.search.indexing.videos import VideoPeople, people_of_video
from misc.search.indexing.walk import Content, ImageFile, content_of, state_of
from misc.search.storage.database import Entry
from misc.search.storage.sightings import Sighting
from misc.search.storage.store import Store

logger = logging.getLogger(__name__)

STATE = "video.npz"  # in the folder of the index: what has been done of the video that is being encoded
TIME = "%Y-%m-%d %H:%M:%S"


def encode_videos(
    store: Store,
    encoder: Encoder,
    root: Path,
    new: Sequence[ImageFile],
    replaced: Mapping[str, Sequence[Entry]],
    skipped: dict[str, str],
    people: People,
) -> list[str]:
    """Encode the people of videos, a generation after each video; an interrupted one continues with the next
    update. Returns the paths of those that could be read.

    Args:
        replaced: the entries so far of files that the index has; they keep their ids.
        skipped: {path: reason} of the files that cannot be read are added.
    """
    if reason := lacking():
        skipped.update(dict.fromkeys((file.path for file in new), reason))
        return []
    encoded, state = [], store.folder / STATE
    settings = {"total": sum(file.size for file in new), "unit": "B", "unit_scale": True}
    hide = not new or not sys.stderr.isatty()
    with tqdm(desc="videos", disable=hide, **settings) as bar:
        for number, file in enumerate(new):
            begin = bar.n
            bar.set_postfix_str(f"{number + 1} of {len(new)}", refresh=False)
            boxes = people.boxes_digest(file.path)
            boxes_of = people.given.in_video(file.path) if people.given else {}
            given = partial(_boxes_of, boxes_of) if people.given else None
            try:
                content = content_of(root / file.path)
                report = partial(_advance, bar, begin, file.size)
                digest = content.digest.hex() + boxes
                found = people_of_video(root / file.path, digest, encoder, people, state, report, given)
                if state_of(os.stat(root / file.path)) != content[:2]:
                    raise OSError("it was changed while it was read")
            except BadVideoError as error:
                skipped[file.path] = error.reason
            except OSError as error:
                skipped[file.path] = error.strerror or str(error)
            else:
                entries, features = _entries(file.path, content, found, people.whole, boxes)
                slots = store.append(features)
                placed = (entry._replace(slot=slot) for entry, slot in zip(entries, slots, strict=True))
                put_file(store, replaced.get(file.path, ()), list(placed))
                store.commit()
                encoded.append(file.path)
                if boxes_of and not found.tracks:
                    logger.warning(
                        f"--boxes: '{file.path}' has boxes in {len(boxes_of)} frames, but within the limits "
                        f"none in a frame that is looked at, each {people.every:g} seconds; see --every"
                    )
            _advance(bar, begin, file.size, 1.0)
    for unused in (state, *leftovers(state)):
        unused.unlink(missing_ok=True)
    return encoded


def _advance(bar: tqdm, begin: int, size: int, share: float) -> None:
    bar.update(begin + round(size * share) - bar.n)


def _boxes_of(
    given: Mapping[int, tuple[Boxes, list[int] | None]], frame: Frame
) -> tuple[Boxes, list[int] | None]:
    return given.get(frame.number, (as_boxes([]), None))


def _entries(
    file: str, content: Content, found: VideoPeople, whole: bool, boxes: str
) -> tuple[list[Entry], np.ndarray]:
    """The entries of a video, without ids and slots, and their (n, E) features."""
    tracks = list({(track.time, track.box): track for track in found.tracks}.values())
    num_entries = len(tracks) + (whole or not tracks)
    entries, features = [], []
    for track in tracks:
        path, taken = Place(file, track.time, track.box).path, _later(found.taken, track.time)
        crops = tuple(Place(file, *crop).path for crop in track.crops)
        span = (round(track.first, 3), round(track.last, 3))
        sighting = Sighting(num_entries, known_score(track.score), *span, track.seen, crops, boxes)
        entries.append(Entry(0, 0, path, *content, *track.box[2:], taken, None, sighting.text))
        features.append(track.feature)
    if len(entries) < num_entries:
        path, size = Place(file, 0.0).path, (found.width, found.height)
        sighting = Sighting(num_entries, boxes=boxes)
        entries.append(Entry(0, 0, path, *content, *size, found.taken, None, sighting.text))
        features.append(found.whole)
    return entries, np.stack(features)


def _later(taken: str | None, seconds: float) -> str | None:
    """The local time so many seconds after another."""
    return taken and (datetime.strptime(taken, TIME) + timedelta(seconds=seconds)).strftime(TIME)
