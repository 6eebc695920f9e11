"""The detectors: models of transformers with random weights, saved and loaded again; OpenCV's."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from misc.detection.boxes import Limits, iou, kept
from misc.detection.detectors import load_detector
from misc.detection.hub import HubDetector
from options import UserError
from tests.helpers.towers.detectors import save_detector


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_detector(tmp_path_factory.mktemp("detector") / "dfine")


def photos() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    sizes = ((90, 160), (200, 100))
    return [Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)) for size in sizes]


@pytest.mark.parametrize("kind", ["DFine", "RTDetrV2"])
def test_the_boxes_of_a_model_are_those_of_the_post_processing_of_transformers(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was asked"))
    folder = save_detector(tmp_path / kind, kind)
    from transformers import AutoImageProcessor, AutoModelForObjectDetection

    processor = AutoImageProcessor.from_pretrained(folder)
    model = AutoModelForObjectDetection.from_pretrained(folder).eval()
    with torch.no_grad():
        outputs = model(**processor(images=photos(), return_tensors="pt"))
    sizes = [(image.height, image.width) for image in photos()]
    wanted = processor.post_process_object_detection(outputs, threshold=0.05, target_sizes=sizes)
    found = load_detector(str(folder)).detect(photos())
    assert len(found) == len(wanted) == 2
    for boxes, reference in zip(found, wanted, strict=True):
        people = [
            [*corners[:2], corners[2] - corners[0], corners[3] - corners[1], score]
            for corners, score, label in zip(
                reference["boxes"].tolist(),
                reference["scores"].tolist(),
                reference["labels"].tolist(),
                strict=True,
            )
            if label == 1
        ]
        assert 0 < len(people) < len(reference["labels"])
        np.testing.assert_allclose(boxes, people, atol=1e-3)


def test_equal_weights_have_one_identity_and_others_another(detector: Path, tmp_path: Path) -> None:
    other = save_detector(tmp_path / "other", num_queries=19)
    first, second = load_detector(str(detector)), load_detector(str(other))
    assert first.identity == load_detector(str(detector)).identity != second.identity
    assert isinstance(first, HubDetector)
    assert first.takes_device


def test_a_model_without_a_class_of_people_is_refused_and_its_classes_are_named(tmp_path: Path) -> None:
    labels = {"id2label": {0: "cat", 1: "dog", 2: "car"}, "label2id": {"cat": 0, "dog": 1, "car": 2}}
    with pytest.raises(UserError, match=r"has no class 'person'; its 3 classes are cat, dog, car"):
        load_detector(str(save_detector(tmp_path / "animals", **labels)))


def test_weights_that_do_not_fill_the_model_are_refused(detector: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "cut"
    folder.mkdir()
    for file in detector.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    tensors.pop(next(name for name in tensors if "enc_score_head" in name))
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"--detector: .*does not fill the model"):
        load_detector(str(folder))


def test_what_is_no_detector_is_refused_in_one_line(detector: Path, tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "config.json").write_text(json.dumps({"model_type": "clip"}))
    (tmp_path / "file").write_text("")
    for name in (tmp_path / "clip", tmp_path / "file", tmp_path / "nothing"):
        with pytest.raises(UserError, match=r"^--detector: '"):
            load_detector(str(name))


def test_without_opencv_the_message_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(UserError, match=r'--detector hog: .*pip install "opencv-python-headless<5"'):
        load_detector("hog")


def test_hog_finds_people_in_drawn_scenes(tmp_path: Path) -> None:
    pytest.importorskip("cv2", reason='no HOG: pip install "opencv-python-headless<5"')
    from data.synthetic.__main__ import main

    assert main(["--scenes", "4", "--out", str(tmp_path), "--workers", "1"]) == 0
    document = json.loads((tmp_path / "boxes.json").read_text())
    detector, found, wanted = load_detector("hog"), 0, 0
    for entry in document["images"]:
        image = Image.open(next(tmp_path.rglob(Path(entry["file_name"]).name))).convert("RGB")
        boxes = kept(detector.detect([image])[0], image.size, Limits(), detector.min_score)
        truths = [
            [*item["bbox"], 1.0]
            for item in document["annotations"]
            if item["image_id"] == entry["id"] and item["visible"] > 0.6
        ]
        wanted += len(truths)
        found += int((iou(np.array(truths), boxes).max(axis=1, initial=0) >= 0.5).sum())
    assert wanted >= 8
    assert found >= 0.5 * wanted
    assert not len(detector.detect([Image.new("RGB", (5, 5))])[0])
