"""The tracks of the people of a video while it is read: features and good crops, also in a file."""

import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data.images.regions import Region, rounded
from misc.detection.boxes import Boxes, free_shares
from misc.detection.tracks import Features, Motion, Tracker, touch_edge
from misc.process.durable import replacing
from misc.search.storage.database import READ_ERRORS
from model.protocol import JsonObject

Feature = npt.NDArray[np.float16]
MAX_CROPS = 4  # of a track, the best one included
CANDIDATES = 3 * MAX_CROPS  # so many have MAX_CROPS among them that are no neighbours


class Track(NamedTuple):
    """A person who is followed through a video.

    Attributes:
        time, box, score: of the best crop: seconds since the first frame, the box as detected, and its score.
        first, last: when the person is seen first and last, in seconds.
        seen: number of sampled frames in which the person was found.
        crops: (time, box) of other good crops, best first.
        feature: (E,) normalised mean of those of all crops, weighted by `quality_of`.
    """

    time: float
    box: Region
    score: float
    first: float
    last: float
    seen: int
    crops: tuple[tuple[float, Region], ...]
    feature: Feature


class Crop(NamedTuple):
    """A crop of a track: its time, the number of the sampled frame, the box, its score, and its quality."""

    time: float
    sample: int
    box: Region
    score: float
    quality: float


class Done(NamedTuple):
    """The part of a video that was read last: times of its first and last sampled frame, digest of all."""

    first: float
    last: float
    digest: str


@dataclass
class _Person:
    first: float
    last: float
    seen: int
    total: npt.NDArray[np.float64]  # the weighted sum of the features, in the order of the frames
    crops: list[Crop] = field(default_factory=list)  # the best CANDIDATES, best first

    def add(self, crop: Crop, feature: Features) -> None:
        self.last, self.seen = crop.time, self.seen + 1
        self.total += crop.quality * feature.astype(np.float64)
        self.crops = sorted([*self.crops, crop], key=lambda each: (-each.quality, each.sample))[:CANDIDATES]

    def track(self) -> Track:
        best, *others = self.crops
        chosen = [best]
        for is_neighbour in (False, True):  # neighbours only where there are no others
            for crop in others:
                near = any(abs(crop.sample - each.sample) < 2 for each in chosen)
                if crop not in chosen and near == is_neighbour and len(chosen) < MAX_CROPS:
                    chosen.append(crop)
        feature = (self.total / np.linalg.norm(self.total)).astype(np.float16)
        more = tuple((crop.time, crop.box) for crop in sorted(chosen[1:], key=others.index))
        return Track(best.time, best.box, best.score, self.first, self.last, self.seen, more, feature)


class Tracks:
    """The tracks of a video, up to the frame that was added last.

    Args:
        every: seconds between two sampled frames.

    Attributes:
        size: width and height of the first sampled frame; None: there was none.
        whole: (E,) its feature.
        done: the last part that was added.
    """

    def __init__(self, every: float) -> None:
        self.size: tuple[int, int] | None = None
        self.whole: Feature | None = None
        self.done: Done | None = None
        self._tracker = Tracker(Motion.at(every))
        self._people: dict[int, _Person] = {}
        self._num_samples = 0

    def add(
        self,
        time: float,
        size: tuple[int, int],
        boxes: Boxes,
        features: Features,
        numbers: Sequence[int] | None = None,
    ) -> None:
        """Add the people (n, 5) of a sampled frame, with their features (n, E); of the user's tracks
        `numbers`, where there are.
        """
        if numbers is None:
            numbers = self._tracker.update(time, boxes, features, size)
        qualities = quality_of(boxes, size)
        for number, box, quality, feature in zip(numbers, boxes, qualities, features, strict=True):
            if number not in self._people:
                self._people[number] = _Person(time, time, 0, np.zeros(len(feature)))
            crop = Crop(time, self._num_samples, rounded(tuple(box[:4])), float(box[4]), float(quality))
            self._people[number].add(crop, feature)
        self._num_samples += 1

    def tracks(self, least_alone: float = -math.inf) -> list[Track]:
        """The tracks, in the order in which they begin; without those of a single frame, if others were
        sampled, of a score below `least_alone`.
        """
        tracks = [person.track() for person in self._people.values()]
        return [
            each for each in tracks if each.seen > 1 or self._num_samples < 2 or each.score >= least_alone
        ]

    def save(self, path: Path, settings: str) -> None:
        """Write all of this to a file, completely or not at all; `settings`: what it depends on."""
        people = self._people.values()
        crops = [
            [n, crop.time, crop.sample, *crop.box, crop.score, crop.quality]
            for n, person in enumerate(people)
            for crop in person.crops
        ]
        about = {"settings": settings, "size": self.size, "done": self.done, "samples": self._num_samples}
        arrays = {
            "about": np.array(json.dumps(about)),
            "whole": self.whole,
            "numbers": np.array(list(self._people), np.int64),
            "spans": np.array([[person.first, person.last, person.seen] for person in people]),
            "totals": np.array([person.total for person in people]),
            "crops": np.array(crops),
        }
        with replacing(path) as file:
            np.savez(file, **arrays, **self._tracker.state())

    def load(self, path: Path, settings: str) -> None:
        """Continue from the state in a file; one of other settings, or damaged, is ignored."""
        with suppress(*READ_ERRORS, zipfile.BadZipFile):
            with np.load(path, allow_pickle=False) as file:
                state = {name: file[name] for name in file.files}
            about = json.loads(str(state["about"]))
            if about["settings"] == settings:
                self._restore(about, state)

    def _restore(self, about: JsonObject, state: Mapping[str, npt.NDArray[np.float64]]) -> None:
        """Changes nothing where it raises one of `READ_ERRORS`."""
        people = [
            _Person(first, last, int(seen), total)
            for (first, last, seen), total in zip(state["spans"].tolist(), state["totals"], strict=True)
        ]
        for n, time, sample, *box, score, quality in state["crops"].tolist():
            people[int(n)].crops.append(Crop(time, int(sample), tuple(map(int, box)), score, quality))
        by_number = dict(zip(state["numbers"].tolist(), people, strict=True))
        size, done, whole = tuple(about["size"]), Done(*about["done"]), state["whole"]
        num_samples = about["samples"]
        self._tracker.restore(state)
        self.size, self.done, self.whole = size, done, whole
        self._people, self._num_samples = by_number, num_samples


def quality_of(boxes: Boxes, size: tuple[int, int]) -> npt.NDArray[np.float64]:
    """(n,) how much is seen of each person of a frame, above 0.

    The height, times the square of the share of the box that no box nearer to the camera covers, whose lower
    edge is below; a tenth of that where the box touches the edge of the frame.
    """
    free = np.maximum(free_shares(boxes), 0.1)
    return boxes[:, 3] * free**2 * np.where(touch_edge(boxes, size), 0.1, 1.0)
