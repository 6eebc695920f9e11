"""Test sets whose persons are searched in frames: their galleries, and what a detector found there."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from data.detections import read_detections
from data.formats import reader_of
from data.images.regions import region_of, region_path, with_margin
from data.types import FORMATS, NOBODY, Box, EvaluationSet, Scenes
from options import DataOptions, Options

DETECTED = "detections"  # the name of the set of detected boxes, beside those of the test sets


@dataclass(frozen=True)
class Boxes:
    """Boxes in the frames of a test split, each with the image that its feature is of.

    Attributes:
        images: region paths, relative to the image root.
        places: (number of the frame, box) of each.
    """

    images: list[str]
    places: Sequence[tuple[int, Box]]


@dataclass(frozen=True)
class SceneSearch:
    """What full-scene search needs beside features.

    Attributes:
        boxes: by "annotated", and "detected" where a detector's are given.
    """

    scenes: Scenes
    boxes: dict[str, Boxes]


def scene_search(options: Options, evaluated: EvaluationSet) -> SceneSearch | None:
    """How persons are searched in the frames that a set has its images from, those of `data.annotation_file`;
    None: it has them from elsewhere.

    Raises:
        UserError: files that are missing or damaged; sizes of galleries that there are not.
    """
    search = _search(options, options.eval.gallery_sizes) if _has_regions(evaluated) else None
    return search if search and set(search.boxes["annotated"].images) <= set(evaluated.images) else None


def _search(options: Options, sizes: Sequence[int]) -> SceneSearch | None:
    data, path = options.data, Path(options.data.annotation_file)
    for name, form in FORMATS.items():
        if form.has_frames and data.dataset in ("auto", name) and reader_of(form).recognises(path, b"", form):
            scenes = reader_of(form).test_scenes(path, sizes)
            boxes = {"annotated": _as_boxes(scenes, scenes.boxes, data)}
            if options.eval.detections:
                found = read_detections(Path(options.eval.detections), scenes.frames)
                boxes["detected"] = _as_boxes(scenes, found, data)
            return SceneSearch(scenes, boxes)
    return None


def detected_set(options: Options) -> dict[str, EvaluationSet]:
    """The detected boxes as a gallery without queries, by the name `DETECTED`; {} where there are none."""
    search = _search(options, ()) if options.eval.detections else None
    if search is None:
        return {}
    images = search.boxes["detected"].images
    persons = torch.full((len(images),), NOBODY)
    return {DETECTED: EvaluationSet(Path(options.data.image_root), images, persons, {})}


def _has_regions(evaluated: EvaluationSet) -> bool:
    return bool(evaluated.images) and region_of(evaluated.images[0]) is not None


def _as_boxes(scenes: Scenes, places: Sequence[tuple[int, Box]], data: DataOptions) -> Boxes:
    images = [with_margin(region_path(scenes.frames[frame], box), data.margin) for frame, box in places]
    return Boxes(images, places)
