"""Detectors of people, by one interface."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from PIL import Image

from misc.detection.boxes import Boxes

HOG = "hog"


class Detector(Protocol):
    """Finds people in photos.

    Attributes:
        identity: what tells its boxes from those of another detector.
        min_score: the default of `Limits.min_score`.
        takes_device: whether it runs on the device of the encoder; otherwise on CPU cores, in the processes
            that decode.
    """

    identity: str
    min_score: float
    takes_device: bool

    def detect(self, images: Sequence[Image.Image]) -> list[Boxes]:
        """The boxes (n, 5) of each upright RGB image, of all scores above some low one, in no order."""
        ...


def load_detector(name: str, device: str = "cpu", cache_dir: str | Path | None = None) -> Detector:
    """The detector of that name.

    Args:
        name: "hog" (see `HogDetector`), or a model of object detection of transformers: its folder, or its id
            on the hub.

    Raises:
        UserError: no such detector, or what it needs is not installed.
    """
    if name == HOG:
        from misc.detection.hog import HogDetector

        return HogDetector()
    from misc.detection.hub import HubDetector

    return HubDetector(name, device, cache_dir)
