"""The people in the photos of an index: which boxes are entries, and their pixels."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from PIL import Image

from data.images.regions import Region, rounded
from misc.detection.boxes import UNSCORED, Boxes, Limits, kept
from misc.detection.detectors import Detector
from misc.search.indexing.boxes import GivenBoxes
from misc.search.views import crop_of, full_size, scale_of

MARGIN, EVERY = 0.0, 1.0


class Found(NamedTuple):
    """A person in a photo, with the score where there is one; or the whole photo, without both."""

    box: Region | None = None
    score: float | None = None


WHOLE = [Found()]


@dataclass(frozen=True)
class People:
    """How the people of an index are found.

    Attributes:
        detector: None: only the boxes of the user are used.
        given: the boxes of the user; None: a detector finds them.
        limits: which boxes are kept.
        margin: around a box, the share of its width and height on each side that is encoded, too.
        whole: whether whole photos are entries beside the people in them.
        every: seconds between two frames of a video.
    """

    detector: Detector | None
    given: GivenBoxes | None
    limits: Limits
    margin: float = MARGIN
    whole: bool = False
    every: float = EVERY

    @cached_property
    def settings(self) -> dict[str, object]:
        """What the entries of an index depend on, besides the files and the boxes of the user."""
        detector = self.detector.identity if self.detector else ""
        others = {"margin": self.margin, "whole": self.whole, "every": self.every}
        return {"detector": detector, **asdict(self.limits), **others}

    def boxes_digest(self, file: str) -> str:
        """What tells the user's boxes of a file from others; "": a detector finds people."""
        return self.given.digest(file) if self.given else ""

    @property
    def detects_in_workers(self) -> bool:
        """Whether the processes that decode look for people, too."""
        return self.detector is None or not self.detector.takes_device

    def boxes_in(self, images: Sequence[Image.Image], paths: Sequence[str]) -> list[Boxes]:
        """The boxes that are kept of each photo, in pixels of its file, best first.

        Args:
            paths: of the files, relative to the image root.
        """
        if self.detector is None:
            assert self.given is not None
            found = [self.given.in_photo(path) for path in paths]
            least = -np.inf
        else:
            found = [
                _enlarged(boxes, image)
                for boxes, image in zip(self.detector.detect(images) if images else [], images, strict=True)
            ]
            least = self.detector.min_score
        sizes = [full_size(image) for image in images]
        return [kept(boxes, size, self.limits, least) for boxes, size in zip(found, sizes, strict=True)]

    def entries_of(self, boxes: Boxes) -> list[Found]:
        """The entries of a photo with these people: each of them, and the whole one where that is wanted, or
        there is nobody.
        """
        scores: dict[Region, float] = {}
        for *box, score in boxes.tolist():
            scores.setdefault(rounded(tuple(box)), score)
        people = [Found(box, known_score(score)) for box, score in scores.items()]
        return people + WHOLE if self.whole or not people else people

    def crops(self, image: Image.Image, entries: Sequence[Found]) -> list[Image.Image]:
        """What the encoder sees of each entry of a photo."""
        return [image if entry.box is None else crop_of(image, entry.box, self.margin) for entry in entries]


def known_score(score: float) -> float | None:
    """The score of a box; None: it has none."""
    return None if score == UNSCORED else score


def _enlarged(boxes: Boxes, image: Image.Image) -> Boxes:
    """Boxes of an image that may have been decoded at reduced size, in pixels of its file."""
    return np.hstack([boxes[:, :4] / (2 * scale_of(image)), boxes[:, 4:]])
