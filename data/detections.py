"""What a detector found: a JSON file of boxes in COCO's format."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from data.records import field
from data.types import Box
from options import UserError

PERSON = "person"


def read_detections(path: Path, frames: Sequence[str]) -> list[tuple[int, Box]]:
    """(number of the frame, box) of each person detected, by frame, those with the best scores first.

    Args:
        path: as for `coco_boxes`.
        frames: their paths; a file may name one with or without folders.

    Raises:
        UserError: a file that is missing or malformed, or has no person in any frame.
    """
    numbers = _numbers(frames)
    found: list[tuple[int, float, Box]] = []
    for name, box, score in coco_boxes(path, "eval.detections"):
        frame = numbers.get(PurePosixPath(name).name)
        if frame is not None:  # a file may be of all splits
            found.append((frame, -1.0 if score is None else -score, box))
    if not found:
        raise UserError(
            f"eval.detections: '{path}' has no person in the {len(frames)} frames of the test split "
            f"(first: '{frames[0]}'). Check that it names the frames"
        )
    return [(frame, box) for frame, _, box in sorted(found)]


def coco_boxes(path: Path, option: str) -> Iterator[tuple[str, Box, float | None]]:
    """(name of the image, box, score if it has one) of each person in a file; boxes without an area are left
    out.

    The file is an object of COCO (`images` with `id` and `file_name`, `annotations` with `image_id`, `bbox`
    and, if need be, `score`), or a list of such annotations whose `image_id` is the name of the image. Where
    it names the category of persons, others are left out.

    Args:
        option: what named the file, for errors.

    Raises:
        UserError: a file that is missing or malformed.
    """
    document = _parse(path, option)
    named = isinstance(document, dict)
    annotations = field(document, "annotations", list, f"{option}: '{path}'") if named else document
    if not isinstance(annotations, list):
        raise UserError(f"{option}: '{path}' should hold COCO annotations, found {document!r:.40}")
    names = _names(document, f"{option}: '{path}'") if named else None
    persons = _persons(document) if named else None
    for number, item in enumerate(annotations):
        where = f"{option}: '{path}' annotation {number}"
        if persons is not None and isinstance(item, dict) and item.get("category_id") not in persons:
            continue
        image = field(item, "image_id", int if named else str, where)
        name = names.get(image) if names is not None else image
        if name is None:
            raise UserError(f"{where}: no image has the id {image}")
        score, box = _score(item, where), _box(item, where)
        if box[2] > 0 and box[3] > 0:
            yield name, box, score


def _parse(path: Path, option: str) -> object:
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{option}: '{path}' cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{option}: '{path}' is not JSON ({error})") from error


def _names(document: dict[str, object], source: str) -> dict[int, str]:
    images = field(document, "images", list, source)
    where = [f"{source} image {number}" for number in range(len(images))]
    return {
        field(image, "id", int, place): field(image, "file_name", str, place)
        for image, place in zip(images, where, strict=True)
    }


def _persons(document: dict[str, object]) -> set[object] | None:
    """The ids of the category of persons; None: the file does not name it, and all are."""
    categories = document.get("categories")
    listed = [each for each in categories if isinstance(each, dict)] if isinstance(categories, list) else []
    found = {each.get("id") for each in listed if str(each.get("name")).lower() == PERSON}
    return found or None


def _numbers(frames: Iterable[str]) -> dict[str, int]:
    names = [PurePosixPath(frame).name for frame in frames]
    twice = [name for name, count in Counter(names).items() if count > 1]
    assert not twice, f"frames of one name: {twice[:3]}"
    return {name: number for number, name in enumerate(names)}


def _score(item: dict[str, object], where: str) -> float | None:
    if "score" not in item:
        return None
    score = item["score"]
    if isinstance(score, bool) or not isinstance(score, int | float) or not abs(score) < float("inf"):
        raise UserError(f"{where}: field 'score' should be a number, found {score!r:.40}")
    return float(score)


def _box(item: dict[str, object], where: str) -> Box:
    numbers = field(item, "bbox", list, where)
    is_sound = len(numbers) == 4 and all(
        isinstance(each, int | float) and not isinstance(each, bool) and abs(each) < 1e6 for each in numbers
    )
    if not is_sound:
        raise UserError(f"{where}: field 'bbox' should be [left, top, width, height], found {numbers!r:.60}")
    left, top, width, height = map(float, numbers)
    return left, top, width, height
