"""Boxes of the same person in the frames of a video, linked to tracks."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from misc.detection.boxes import Boxes, free_shares

Features = npt.NDArray[np.float32]  # (n, E), normalised
IMPOSSIBLE = 1e6  # a cost


@dataclass(frozen=True)
class Motion:
    """How far people may move between two frames; lengths are in heights of the person.

    Attributes:
        max_gap: seconds that a person may be hidden.
        reach, speed: a person is looked for within reach + speed x seconds of where the motion so far leads.
        max_growth: largest ratio of the heights.
        appearance: weight of 1 minus the cosine of the features, beside the distance as a share of the reach,
            times the share of the box that nobody nearer covers.
        cut: most of the cost of growth, and of that of appearance, where the edge of the frame cuts the
            person in one of the two frames; the heights may have any ratio then.
    """

    max_gap: float = 2.0
    reach: float = 0.3
    speed: float = 0.8
    max_growth: float = 1.5
    appearance: float = 2.5
    cut: float = 1.0

    @staticmethod
    def at(every: float) -> "Motion":
        """For frames that are so many seconds apart: a person may be missing in one of them."""
        return Motion(max_gap=max(Motion.max_gap, 2.5 * every))


@dataclass
class _Track:
    number: int
    time: float
    box: npt.NDArray[np.float64]  # left, top, width, height
    is_cut: np.bool_  # by an edge of the frame
    velocity: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(2))
    feature: Features | None = None


class Tracker:
    """Links boxes from frame to frame: each frame's boxes are assigned to tracks such that the total cost is
    least (the Hungarian algorithm), where the cost is the distance from where the track would be at constant
    velocity, and the difference of appearance if there are features; as in SORT and DeepSORT (Wojke et al.,
    ICIP 2017), without their filters. A box that no track reaches begins a new one.
    """

    def __init__(self, motion: Motion = Motion()) -> None:
        self.motion, self._tracks, self._num_tracks = motion, list[_Track](), 0

    def update(
        self,
        time: float,
        boxes: Boxes,
        features: Features | None = None,
        size: tuple[float, float] = (math.inf, math.inf),
    ) -> list[int]:
        """The number of the track of each box, from 0.

        Args:
            time: of the frame in seconds, later than that of the frame before.
            features: of what the boxes show.
            size: width and height of the frame, whose edges cut people who come and go.
        """
        self._tracks = [track for track in self._tracks if time - track.time <= self.motion.max_gap]
        are_cut, free = touch_edge(boxes, size), free_shares(boxes)
        costs = np.full((len(self._tracks), len(boxes)), IMPOSSIBLE)
        for row, track in enumerate(self._tracks):
            costs[row] = self._costs(track, time, boxes[:, :4], are_cut, free, features)
        found: dict[int, _Track] = {}
        for row, column in zip(*linear_sum_assignment(costs), strict=True):
            if costs[row, column] < IMPOSSIBLE:
                found[column] = self._tracks[row]
        return [
            self._put(found.get(n), time, box[:4], are_cut[n], None if features is None else features[n])
            for n, box in enumerate(boxes)
        ]

    def state(self) -> dict[str, npt.NDArray[np.float64] | Features]:
        """What `restore` takes, for a tracker whose boxes all have features, or none has."""
        tracks, looks = self._tracks, [track.feature for track in self._tracks if track.feature is not None]
        rows = [[t.number, t.time, *t.box, t.is_cut, *t.velocity] for t in tracks]
        return {
            "num_tracks": np.array(float(self._num_tracks)),
            "motions": np.array(rows, np.float64).reshape(-1, 9),
            "looks": np.array(looks, np.float32).reshape(len(looks), -1 if looks else 0),
        }

    def restore(self, state: Mapping[str, npt.NDArray[np.float64] | Features]) -> None:
        """Continue where the tracker was whose `state` this is; an error changes nothing."""
        looks, num_tracks = state["looks"], int(state["num_tracks"])
        self._tracks = [
            _Track(int(row[0]), row[1], row[2:6], row[6] > 0, row[7:9], looks[n] if len(looks) else None)
            for n, row in enumerate(state["motions"])
        ]
        self._num_tracks = num_tracks

    def _costs(
        self,
        track: _Track,
        time: float,
        boxes: npt.NDArray[np.float64],
        are_cut: npt.NDArray[np.bool_],
        free: npt.NDArray[np.float64],
        features: Features | None,
    ) -> npt.NDArray[np.float64]:
        motion, seconds, height = self.motion, time - track.time, track.box[3]
        expected = track.box[:2] + track.velocity * seconds
        offsets = np.abs(boxes[:, :2] + boxes[:, 2:] / 2 - expected - track.box[2:] / 2)
        gaps = np.maximum(offsets - (boxes[:, 2:] + track.box[2:]) / 2, 0)
        growth = np.maximum(boxes[:, 3] / height, height / boxes[:, 3])
        # Of people who are cut it is not known how high they are, and where the middle is.
        either = are_cut | track.is_cut
        most = np.where(either, motion.cut, math.inf)
        others = np.minimum(growth - 1, most)
        if features is not None and track.feature is not None:
            others += np.minimum(motion.appearance * free * (1 - features @ track.feature), most)
        heights = np.where(either, np.maximum(boxes[:, 3], height), height)
        reach = (motion.reach + motion.speed * seconds) * heights
        costs = np.linalg.norm(np.where(either[:, None], gaps, offsets), axis=1) / reach
        impossible = (costs > 1) | (~either & (growth > motion.max_growth))
        return np.where(impossible, IMPOSSIBLE, costs + others)

    def _put(
        self,
        track: _Track | None,
        time: float,
        box: npt.NDArray[np.float64],
        is_cut: np.bool_,
        feature: Features | None,
    ) -> int:
        if track is None:
            track = _Track(self._num_tracks, time, box, is_cut, feature=feature)
            self._num_tracks += 1
            self._tracks.append(track)
            return track.number
        moved = box[:2] + box[2:] / 2 - track.box[:2] - track.box[2:] / 2
        latest, is_second = moved / (time - track.time), not track.velocity.any()
        track.velocity = latest if is_second else 0.5 * track.velocity + 0.5 * latest
        if feature is not None and track.feature is not None and not is_cut:
            mean = feature if track.is_cut else 0.8 * track.feature + 0.2 * feature
            track.feature = mean / np.linalg.norm(mean)
        track.time, track.box, track.is_cut = time, box, is_cut
        return track.number


def touch_edge(boxes: Boxes, size: tuple[float, float]) -> npt.NDArray[np.bool_]:
    """(n,) whether boxes reach an edge of their frame, whose width and height `size` is."""
    ends = boxes[:, :2] + boxes[:, 2:4]
    return (boxes[:, :2] < 1).any(axis=1) | (ends > np.array(size) - 1).any(axis=1)
