"""Boxes around people, in pixels of an upright image: which of a detector's are kept."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from options import UserError

Boxes = npt.NDArray[np.float64]  # (n, 5): left, top, width, height, score


@dataclass(frozen=True)
class Limits:
    """Which boxes are kept.

    Attributes:
        min_score: of the detector; None: its own default.
        min_height: in pixels, of the part within the image.
        max_overlap: largest intersection over union with a box of a higher score.
        min_inside: share of the box that is within the image.
    """

    min_score: float | None = None
    min_height: float = 32
    max_overlap: float = 0.5
    min_inside: float = 0.5


UNSCORED = math.inf  # the score of a box that the user gives without one: no limit leaves it out
ALL = Limits(min_height=1, max_overlap=1, min_inside=0)  # of the user's own boxes, unless the user says less


def check_limits(min_score: float | None, min_height: float | None, max_overlap: float | None) -> None:
    """Raise UserError for the flag that has no such limit; None: it was not given."""
    for flag, value in (("--min-score", min_score), ("--min-height", min_height)):
        if value is not None and not math.isfinite(value):
            raise UserError(f"{flag}: expected a number, found {value}")
    if max_overlap is not None and not 0 <= max_overlap <= 1:
        raise UserError(f"--max-overlap: expected 0 to 1, found {max_overlap}")


def kept(boxes: Boxes, size: tuple[int, int], limits: Limits, min_score: float) -> Boxes:
    """The boxes within the limits, cut to the image, the highest scores first.

    A box that overlaps a kept one is taken for the same person (greedy non-maximum suppression).

    Args:
        size: width and height of the image.
        min_score: the detector's default, for limits without one.
    """
    least = min_score if limits.min_score is None else limits.min_score
    areas = boxes[:, 2] * boxes[:, 3]
    inside = np.clip(boxes[:, :2], 0, size), np.clip(boxes[:, :2] + boxes[:, 2:4], 0, size)
    cut = np.hstack([inside[0], inside[1] - inside[0], boxes[:, 4:]])
    fits = (boxes[:, 4] >= least) & (cut[:, 3] >= limits.min_height) & (cut[:, 2] >= 1)
    fits &= cut[:, 2] * cut[:, 3] >= limits.min_inside * areas
    cut = cut[fits]
    cut = cut[np.lexsort((*cut.T[:4], -cut[:, 4]))]  # equal scores: an order that does not depend on theirs
    chosen: list[int] = []
    for number, overlaps in enumerate(iou(cut, cut)):
        if (overlaps[chosen] <= limits.max_overlap).all():
            chosen.append(number)
    return cut[chosen]


def without_parts(boxes: Boxes, share: float) -> Boxes:
    """The boxes, best first, but those of which at least this share lies within one with a higher score."""
    boxes = boxes[np.argsort(-boxes[:, 4], kind="stable")]
    return boxes[np.tril(_shares_within(boxes), -1).max(axis=1, initial=0) < share]


def free_shares(boxes: Boxes) -> npt.NDArray[np.float64]:
    """(n,) the share of each box that no box nearer to the camera covers: one whose lower edge is below. What
    several cover counts as often.
    """
    ends = boxes[:, 1] + boxes[:, 3]
    return np.maximum(1 - np.sum(_shares_within(boxes) * (ends[:, None] < ends), axis=1), 0)


def _shares_within(boxes: Boxes) -> npt.NDArray[np.float64]:
    """(n, n) the share of each box that lies within each other one."""
    return _common(boxes, boxes) / (boxes[:, 2] * boxes[:, 3])[:, None]


def iou(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(n, m) intersection over union of n and of m boxes (left, top, width, height, ...)."""
    common = _common(first, second)
    areas = [boxes[:, 2] * boxes[:, 3] for boxes in (first, second)]
    return common / np.maximum(areas[0][:, None] + areas[1] - common, np.finfo(float).tiny)


def _common(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(n, m) areas that n and m boxes have in common."""
    starts = np.maximum(first[:, None, :2], second[None, :, :2])
    ends = np.minimum(first[:, None, :2] + first[:, None, 2:4], second[None, :, :2] + second[None, :, 2:4])
    return np.prod(np.maximum(ends - starts, 0), axis=2)


def as_boxes(rows: Sequence[Sequence[float]]) -> Boxes:
    """(n, 5), also of no rows."""
    return np.array(rows, np.float64).reshape(-1, 5)
