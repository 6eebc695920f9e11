"""The people in many photos: decoded by worker processes, which also run detectors of CPU cores."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from data.images.decode import BadImageError, load_image
from data.sampler import Loader
from misc.detection.boxes import Boxes, Limits, kept
from misc.detection.detectors import Detector
from misc.process.workers import num_cores

BATCH = 8  # photos


class Photo(NamedTuple):
    """A photo in which people were looked for: its number, width and height, and the boxes that were kept;
    or why it cannot be read, and no boxes.
    """

    number: int
    size: tuple[int, int]
    boxes: Boxes
    problem: str | None


Read = tuple[int, Image.Image | Photo]


def people_in(
    root: Path, paths: Sequence[str], detector: Detector, limits: Limits, truncated: str = "error"
) -> Iterator[Photo]:
    """The people in each of the photos, in order.

    Args:
        paths: relative to `root`.
        truncated: as `data.truncated`.
    """
    photos = _Photos(root, paths, truncated, None if detector.takes_device else (detector, limits))
    loader = Loader(photos, list, batch_size=BATCH, num_workers=min(num_cores(), len(paths) // BATCH))
    for batch in loader:
        images = [image for _, image in batch if isinstance(image, Image.Image)]
        found = iter(detector.detect(images) if images else ())
        for number, read in batch:
            if isinstance(read, Photo):
                yield read
            else:
                yield _photo(number, read, next(found), detector, limits)


def _photo(number: int, image: Image.Image, found: Boxes, detector: Detector, limits: Limits) -> Photo:
    return Photo(number, image.size, kept(found, image.size, limits, detector.min_score), None)


class _Photos(Dataset[Read]):
    """(number, photo) of each file: the pixels, or what a detector of CPU cores finds."""

    def __init__(
        self, root: Path, paths: Sequence[str], truncated: str, here: tuple[Detector, Limits] | None
    ) -> None:
        self.root, self.paths, self.truncated, self.here = root, paths, truncated, here

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> Read:
        try:
            image = load_image(self.root / self.paths[number], self.truncated)
        except BadImageError as error:
            return number, Photo(number, (0, 0), np.zeros((0, 5)), error.reason)
        if self.here is None:
            return number, image
        detector, limits = self.here
        return number, _photo(number, image, detector.detect([image])[0], detector, limits)
