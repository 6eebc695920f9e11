"""OpenCV's detector of people, which needs no download."""

import logging
from collections.abc import Sequence

import numpy as np
from PIL import Image

from misc.detection.boxes import Boxes, without_parts
from options import UserError

logger = logging.getLogger(__name__)

LONGEST = 1536  # pixels; a higher resolution finds hardly more people in drawn scenes and takes twice as long
MAX_ENLARGED = 2.0  # beyond that there is nothing more to be seen
PERSON = (0.6, 0.75)  # the part of a window, 64 x 128 pixels, that its person takes
PART = 0.8  # the share of a box within a better one from which on it shows a part of that person


class HogDetector:
    """Histograms of oriented gradients and a linear support vector machine (Dalal and Triggs, CVPR 2005).

    It finds upright people who are hardly hidden, of some 100 pixels and more in a photo of `LONGEST` pixels,
    and takes other upright things for people, too. The score is the distance from the machine's plane.
    """

    min_score = 0.4
    takes_device = False

    def __init__(self) -> None:
        try:
            import cv2
        except ImportError as error:
            raise UserError(
                '--detector hog: OpenCV is not installed; pip install "opencv-python-headless<5"'
            ) from error
        if not hasattr(cv2, "HOGDescriptor"):  # version 5 has moved it elsewhere
            raise UserError(
                f"--detector hog: OpenCV {cv2.__version__} has no HOGDescriptor; "
                'pip install "opencv-python-headless<5"'
            )
        self.identity = f"hog {LONGEST} {PERSON} {PART}"
        logger.info(
            "detector hog: it misses people who are small, hidden, sitting or seen from above, and takes "
            "other upright things for people; a model of transformers (D-FINE, RT-DETR v2) finds more"
        )

    def detect(self, images: Sequence[Image.Image]) -> list[Boxes]:
        """See `Detector`."""
        return [self._detect(image) for image in images]

    def _detect(self, image: Image.Image) -> Boxes:
        import cv2

        cv2.setNumThreads(1)  # each of the processes that decode has a core
        hog = cv2.HOGDescriptor()  # made here: it cannot be sent to another process
        hog.setSVMDetector(cv2.HOGDescriptor_getDefaultPeopleDetector())
        scale = min(LONGEST / max(image.size), MAX_ENLARGED)
        width, height = (max(1, round(side * scale)) for side in image.size)
        gray = np.asarray(image.convert("L").resize((width, height), Image.Resampling.BILINEAR))
        if width < 64 or height < 128:
            return np.zeros((0, 5))
        found, scores = hog.detectMultiScale(
            gray, hitThreshold=0, winStride=(8, 8), padding=(16, 16), scale=1.05, groupThreshold=0
        )
        windows = np.array(found, np.float64).reshape(-1, 4) / (width / image.size[0])
        sides = windows[:, 2:] * PERSON
        starts = windows[:, :2] + (windows[:, 2:] - sides) / 2
        return without_parts(np.hstack([starts, sides, np.reshape(scores, (-1, 1))]), PART)
