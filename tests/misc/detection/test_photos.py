"""People in folders of photos: python -m misc.detection."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from misc.detection.__main__ import main
from misc.detection.boxes import Boxes, Limits, as_boxes
from misc.detection.photos import people_in

SIZES = [(40 + 3 * number, 60 + number) for number in range(19)]


class ByColor:
    """Finds one box in each photo, of a place and a score that its color and size tell."""

    identity, min_score = "by color", 0.1

    def __init__(self, takes_device: bool) -> None:
        self.takes_device, self.asked = takes_device, 0

    def detect(self, images: Sequence[Image.Image]) -> list[Boxes]:
        self.asked += len(images)
        return [
            as_boxes([[1, 2, image.width - 5, image.height - 5, image.getpixel((0, 0))[0] / 255]])
            for image in images
        ]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nineteen photos, the first of them darker than the score that is asked for, and a damaged one."""
    folder = tmp_path_factory.mktemp("photos")
    for number, size in enumerate(SIZES):
        Image.new("RGB", size, (10 * (number + 1), 0, 0)).save(folder / f"{number:02d}.png")
    (folder / "07.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    return folder


@pytest.mark.parametrize("takes_device", [False, True])
def test_each_photo_has_its_own_people_in_order_and_a_damaged_one_a_reason(
    takes_device: bool, photos: Path
) -> None:
    detector, paths = ByColor(takes_device), [f"{number:02d}.png" for number in range(19)]
    found = list(people_in(photos, paths, detector, Limits(min_height=20)))
    assert [photo.number for photo in found] == list(range(19))
    for photo in found:
        score = 10 * (photo.number + 1) / 255
        if photo.number == 7:
            assert photo.problem
            assert not len(photo.boxes)
            continue
        assert (photo.size, photo.problem) == (SIZES[photo.number], None)
        width, height = photo.size
        wanted = [[1, 2, width - 5, height - 5, score]] if score >= 0.1 else []
        np.testing.assert_allclose(photo.boxes, as_boxes(wanted))
    assert detector.asked in (18, 0)  # 0: in the processes that decode


def test_the_boxes_are_written_in_the_format_of_coco(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("misc.detection.detectors.load_detector", lambda *_: ByColor(takes_device=False))
    out = tmp_path / "boxes.json"
    assert main(["any", str(photos), "--out", str(out), "--min-score", "0.5", "--device", "cpu"]) == 0
    document = json.loads(out.read_text())
    names = {image["id"]: image["file_name"] for image in document["images"]}
    assert sorted(names.values()) == [f"{number:02d}.png" for number in range(19) if number != 7]
    people = {names[item["image_id"]]: item for item in document["annotations"]}
    assert sorted(people) == [f"{number:02d}.png" for number in range(12, 19)]  # 10 x (12 + 1) / 255 > 0.5
    assert people["12.png"]["bbox"] == [1, 2, SIZES[12][0] - 5, SIZES[12][1] - 5]
    assert document["categories"] == [{"id": 1, "name": "person"}]
    said = capsys.readouterr().out
    assert "7 people in 18 photos; 11 have none" in said
    assert "1 files or folders were left out (first: '07.png'" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["hog", "{}", "--out", "boxes.txt"], "--out: expected a file name in .json for a folder"),
        (["hog", "{}", "--out", "/nowhere/b.json"], "--out: '/nowhere/b.json' cannot be written"),
        (["hog", "{}/none", "--out", "b.json"], "SOURCE: '.*' does not exist"),
        (["hog", "{}", "--out", "b.json", "--max-overlap", "2"], "--max-overlap: expected 0 to 1"),
        (["hog", "{}", "--out", "b.json", "--min-score", "nan"], "--min-score: expected a number, found nan"),
        (["hog", "{}", "--out", "b.json", "--min-height", "inf"], "--min-height: expected a number"),
        (["hog", "{}", "--out", "b.json"], "SOURCE: no image below"),
    ],
)
def test_user_errors_are_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([argument.format(tmp_path) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("error: ")
    assert re.search(message, error)
