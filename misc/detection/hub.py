"""Models of object detection of transformers: D-FINE, RT-DETR v2, DETR and others."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from misc.detection.boxes import Boxes, as_boxes
from misc.evaluation.features import file_digest
from misc.process.failures import reason_of
from model.weights.hub_models import HubModel

logger = logging.getLogger(__name__)

NAMES = ("person", "pedestrian", "human", "people")  # of the class, in any case; the first that a model has
LOWEST = 0.05  # score of boxes that are looked at


class HubDetector:
    """A model of object detection, of which the boxes of the class "person" are used.

    Raises:
        UserError: a folder or an id without such a model, weights that do not fill it, or no such class.
    """

    min_score = 0.5
    takes_device = True

    def __init__(self, name: str, device: str, cache_dir: str | Path | None = None) -> None:
        from transformers import AutoImageProcessor
        from transformers.models.auto.modeling_auto import MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES

        source = HubModel(
            option="--detector",
            pretrained=name,
            cache_dir=cache_dir,
            classes=dict(MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES),
            expected="a model of object detection (D-FINE, RT-DETR v2, DETR ...)",
            example="ustc-community/dfine-small-coco",
        )
        config = source.config()
        self.person = _person(config.id2label, source)
        self.model = source.load(config).eval().requires_grad_(False).to(device)
        try:
            self.processor = AutoImageProcessor.from_pretrained(source.folder)
        except Exception as error:  # of a missing or damaged file, raised in many ways
            raise source.bad(f"has no image processor ({reason_of(error):.160})") from error
        self.device, self.identity = device, file_digest(source.folder)

    @torch.no_grad()
    def detect(self, images: Sequence[Image.Image]) -> list[Boxes]:
        """See `Detector`."""
        inputs = self.processor(images=list(images), return_tensors="pt").to(self.device)
        outputs = self.model(**inputs)
        sizes = torch.tensor([image.size[::-1] for image in images], device=self.device)
        found = self.processor.post_process_object_detection(outputs, LOWEST, sizes)
        return [self._people(of_image) for of_image in found]

    def _people(self, found: dict[str, torch.Tensor]) -> Boxes:
        is_person = found["labels"] == self.person
        corners = found["boxes"][is_person].cpu().double().numpy()
        if not len(corners):
            return as_boxes([])
        scores = found["scores"][is_person].cpu().double().numpy()
        return np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2], scores[:, None]])


def _person(labels: dict[int, str], source: HubModel) -> int:
    """The number of the class of people."""
    by_name = {str(label).strip().lower(): int(number) for number, label in labels.items()}
    found = [by_name[name] for name in NAMES if name in by_name]
    if not found:
        some = ", ".join(list(by_name)[:5])
        raise source.bad(f"has no class '{NAMES[0]}'; its {len(by_name)} classes are {some} ...")
    return found[0]
