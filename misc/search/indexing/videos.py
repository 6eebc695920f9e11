"""The people of a video, as tracks: decoded, detected and cropped by threads, ahead of the encoder.

What has been done of a video is kept in a file, from which the next run continues.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from data.images.regions import rounded
from misc.detection.boxes import Boxes, kept
from misc.detection.tracks import Features
from misc.detection.video import Frame, facts_of, sampled_frames
from misc.process.workers import num_cores
from misc.search.encoder import Encoder
from misc.search.indexing.people import People
from misc.search.indexing.tracks import Done, Feature, Track, Tracks
from misc.search.storage.database import reporting_writes
from misc.search.views import crop_of
from model.protocol import Processor

logger = logging.getLogger(__name__)

T = TypeVar("T")
BoxesOf = Callable[[Frame], tuple[Boxes, list[int] | None]]
PART = 8  # sampled frames, whose people are encoded together, wherever a run began
ALONE = 1.5  # times `Detector.min_score`: the least score of a person whom a detector finds in one frame only
SECONDS_PER_STATE = 20.0


class VideoPeople(NamedTuple):
    """What was found in a video.

    Attributes:
        width, height: of the first sampled frame, in pixels, upright.
        taken: as `Facts.taken` of the video.
        duration: in seconds; of a video that does not tell, up to the last sampled frame.
        tracks: in the order in which they begin.
        whole: (E,) feature of the first sampled frame.
    """

    width: int
    height: int
    taken: str | None
    duration: float
    tracks: list[Track]
    whole: Feature


class Seen(NamedTuple):
    """The people in a sampled frame.

    Attributes:
        size: width and height of the frame.
        boxes: (n, 5).
        numbers: of the user's tracks, if there are.
        pixels: n of (3, H, W), for the encoder.
        whole: those of the whole frame, of the first one.
    """

    time: float
    size: tuple[int, int]
    boxes: Boxes
    numbers: list[int] | None
    pixels: list[Tensor]
    whole: list[Tensor]


class Part(NamedTuple):
    """The people in `PART` sampled frames; fewer at the end."""

    seen: list[Seen]
    done: Done
    is_sure: bool  # as `Frame.is_sure` of the last one


def people_of_video(
    path: Path,
    digest: str,
    encoder: Encoder,
    people: People,
    state: Path,
    report: Callable[[float], None],
    given: BoxesOf | None = None,
) -> VideoPeople:
    """The people of a video, found in a frame every `people.every` seconds.

    A run that ends early leaves the file `state`, from which the next one continues, to the same result bit
    for bit. A file of another video or other settings, or a damaged one, is ignored. The caller removes it.

    Args:
        digest: what tells the video, and the user's boxes for it, from others.
        report: called with the share of the video that is done, where its duration is known.
        given: the user's boxes in a frame, and the numbers of their tracks if there are; None: a detector
            finds people.

    Raises:
        BadVideoError: no frame can be decoded.
        UserError: the state cannot be written.
    """
    facts, settings = facts_of(path), _settings(encoder, people, digest)
    tracks, saved, is_sure = Tracks(people.every), time.monotonic(), True
    tracks.load(state, settings)
    groups = _ahead(_groups(path, people.every, tracks.done))
    with ThreadPoolExecutor(num_cores()) as pool:
        for part in _ahead(_part(group, encoder, people, given, pool) for group in groups):
            _add(part, encoder, tracks)
            is_sure = part.is_sure
            if facts.duration:
                report(min(1.0, part.done.last / facts.duration))
            if time.monotonic() - saved >= SECONDS_PER_STATE:
                with reporting_writes(state.parent):
                    tracks.save(state, settings)
                saved = time.monotonic()
    if given and not is_sure:
        logger.warning(
            f"--boxes: the frames of '{path}' are not evenly spaced: boxes are assigned to them by their "
            "times and the average rate, and may be those of other frames"
        )
    duration = facts.duration or tracks.done.last
    found = tracks.tracks(-np.inf if given else ALONE * people.detector.min_score)
    return VideoPeople(*tracks.size, facts.taken, duration, found, tracks.whole)


def _add(part: Part, encoder: Encoder, tracks: Tracks) -> None:
    """Encode the people of a part, and link them to tracks."""
    if tracks.done is None:
        tracks.size = part.seen[0].size
        tracks.whole = _encode(encoder, part.seen[0].whole)[0].astype(np.float16)
    features = _encode(encoder, [pixels for seen in part.seen for pixels in seen.pixels])
    ends = np.cumsum([len(seen.boxes) for seen in part.seen])
    for seen, looks in zip(part.seen, np.split(features, ends[:-1]), strict=True):
        tracks.add(seen.time, seen.size, seen.boxes, looks, seen.numbers)
    tracks.done = part.done


def _settings(encoder: Encoder, people: People, digest: str) -> str:
    """What the result depends on."""
    model = [encoder.identity, encoder.batch_size, str(encoder.device), str(encoder.precision)]
    return json.dumps([digest, model, people.settings])


def _groups(path: Path, every: float, done: Done | None) -> Iterator[list[Frame]]:
    """The sampled frames in groups of `PART`, those after `done`."""
    if done is not None:
        groups = _grouped(sampled_frames(path, every, done.first))
        if _digest(next(groups, [])) == done.digest:
            yield from groups
            return
    for group in _grouped(sampled_frames(path, every)):  # a damaged part may look otherwise after a seek
        if done is None or group[0].time > done.last:
            yield group


def _grouped(frames: Iterator[Frame]) -> Iterator[list[Frame]]:
    while group := list(islice(frames, PART)):
        yield group


def _digest(frames: Sequence[Frame]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for frame in frames:
        digest.update(f"{frame.time!r} {frame.image.size}".encode())
        digest.update(frame.image.tobytes())
    return digest.hexdigest()


def _part(
    group: list[Frame], encoder: Encoder, people: People, given: BoxesOf | None, pool: ThreadPoolExecutor
) -> Part:
    """The people in a group of frames, by all cores."""
    if given:
        found = [_given(frame, people, given) for frame in group]
    else:
        detector, images = people.detector, [frame.image for frame in group]
        if detector.takes_device:
            detected = detector.detect(images)
        else:
            detected = [boxes for (boxes,) in pool.map(lambda image: detector.detect([image]), images)]
        found = [
            (kept(boxes, image.size, people.limits, detector.min_score), None)
            for boxes, image in zip(detected, images, strict=True)
        ]
    seen = list(pool.map(partial(_seen, encoder.processor, people.margin), group, found))
    return Part(seen, Done(group[0].time, group[-1].time, _digest(group)), group[-1].is_sure)


def _given(frame: Frame, people: People, given: BoxesOf) -> tuple[Boxes, list[int] | None]:
    boxes, numbers = given(frame)
    if numbers is None:
        return kept(boxes, frame.image.size, people.limits, -np.inf), None
    rows = kept(np.column_stack([boxes, numbers]), frame.image.size, people.limits, -np.inf)
    return rows[:, :5], rows[:, 5].astype(int).tolist()


def _seen(processor: Processor, margin: float, frame: Frame, found: tuple[Boxes, list[int] | None]) -> Seen:
    """What the encoder sees of a frame."""
    image, (boxes, numbers) = frame.image, found
    crops = [crop_of(image, rounded(tuple(box[:4])), margin) for box in boxes]
    whole = [image] if frame.time == 0 else []
    pixels = [processor(images=[each], return_tensors="pt")["pixel_values"][0] for each in crops + whole]
    return Seen(frame.time, image.size, boxes, numbers, pixels[: len(crops)], pixels[len(crops) :])


def _encode(encoder: Encoder, pixels: Sequence[Tensor]) -> Features:
    """(N, E) features of N images."""
    starts = range(0, len(pixels), encoder.batch_size)
    batches = (torch.stack(pixels[start : start + encoder.batch_size]) for start in starts)
    return torch.cat([torch.zeros(0, encoder.embed_dim), *encoder.encode_batches(batches)]).numpy()


def _ahead(items: Iterable[T]) -> Iterator[T]:
    """The items, made by a thread, which makes the next one meanwhile."""
    iterator, thread = iter(items), ThreadPoolExecutor(1)
    try:
        following = thread.submit(next, iterator, None)
        while (item := following.result()) is not None:
            following = thread.submit(next, iterator, None)
            yield item
    finally:
        thread.shutdown(cancel_futures=True)
