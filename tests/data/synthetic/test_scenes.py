"""Street photos of several persons: files, boxes, perspective, who is seen where, what is said of them."""

import hashlib
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat

from data.synthetic.__main__ import main
from data.synthetic.attributes import draw_identities
from data.synthetic.body import Pose
from data.synthetic.domains import STREET
from data.synthetic.photos.compose import Canvas
from data.synthetic.photos.plan import Parameters, plan
from data.synthetic.photos.standing import Figure, stand
from data.synthetic.photos.view import camera_view
from data.synthetic.photos.write import generate

NUM_PHOTOS = 6


def digests(out: Path) -> dict[str, str]:
    files = sorted(path for path in out.rglob("*") if path.is_file())
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scenes") / "a set"
    assert generate(out, Parameters(NUM_PHOTOS, 0, seed=3))
    return out


@pytest.fixture(scope="module")
def coco(scenes: Path) -> dict[str, list[dict]]:
    return json.loads((scenes / "boxes.json").read_text(encoding="utf-8"))


def run_main(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_the_same_parameters_give_the_same_bytes_with_any_number_of_workers(
    scenes: Path, tmp_path: Path
) -> None:
    generate(tmp_path / "again", Parameters(NUM_PHOTOS, 0, seed=3), workers=2)
    assert digests(tmp_path / "again") == digests(scenes)


def test_the_same_request_again_changes_nothing_and_a_lost_file_is_made_again(
    scenes: Path, capsys: pytest.CaptureFixture
) -> None:
    before = digests(scenes)
    assert run_main("--out", scenes, "--scenes", NUM_PHOTOS, "--seed", 3) == 0
    assert capsys.readouterr().out.startswith("Nothing to do")
    next(scenes.glob("annotations/*.mat")).unlink()
    assert run_main("--out", scenes, "--scenes", NUM_PHOTOS, "--seed", 3, "--workers", 1) == 0
    assert capsys.readouterr().out.startswith(f"Wrote {NUM_PHOTOS} photos")
    assert digests(scenes) == before


def test_each_photo_shows_2_to_7_persons_and_boxes_are_within_it(scenes: Path, coco: dict) -> None:
    assert coco["categories"] == [{"id": 1, "name": "person"}]
    sizes = {image["id"]: (image["width"], image["height"]) for image in coco["images"]}
    persons = defaultdict(list)
    for annotation in coco["annotations"]:
        x, y, w, h = annotation["bbox"]
        width, height = sizes[annotation["image_id"]]
        assert 0 <= x < x + w <= width
        assert 0 <= y < y + h <= height
        assert 0 <= annotation["visible"] <= 1
        persons[annotation["image_id"]].append(annotation["person_id"])
    assert len(persons) == NUM_PHOTOS
    assert all(2 <= len(each) <= 7 and len(set(each)) == len(each) for each in persons.values())
    for image in coco["images"]:
        with Image.open(scenes / "frames" / image["file_name"]) as photo:
            assert photo.size == sizes[image["id"]]


def test_no_person_is_in_both_splits_and_each_is_in_several_photos_of_several_cameras() -> None:
    tasks = plan(Parameters(60, 0, seed=0))
    persons, cameras = defaultdict(set), defaultdict(list)
    for task in tasks:
        for person, _ in task.people:
            persons[task.split].add(person)
            cameras[person].append(task.camera)
    assert not persons["train"] & persons["test"]
    assert all(len(set(each)) >= 2 for each in cameras.values())
    assert len({task.name for task in tasks}) == 60


def figure_at(x: float, y: float, height: float, number: int = 1) -> Figure:
    return Figure(number, draw_identities(5, 3)[number], Pose("front"), (x, y), height)


def test_a_box_is_the_pixels_that_the_person_changed_without_the_shadow() -> None:
    empty = Image.new("RGB", (400, 600), (1, 2, 3))
    canvas = Canvas(empty, STREET)
    figure = figure_at(100, 250, 180)
    canvas.person(figure)
    changed = np.asarray(canvas.image) != np.asarray(empty)
    rows, columns = np.nonzero(changed.any(axis=2))
    (sighting,) = canvas.sightings()
    x, y, w, h = sighting.box
    assert (x, y) == (columns.min() // 2, rows.min() // 2)
    assert (x + w, y + h) == (columns.max() // 2 + 1, rows.max() // 2 + 1)
    assert sighting.visible == 1
    with_shadow = Canvas(empty, STREET)
    with_shadow.shadow(figure)
    with_shadow.person(figure)
    assert with_shadow.sightings()[0].box == sighting.box


def test_what_a_nearer_person_or_the_edge_hides_is_not_visible_and_not_said() -> None:
    canvas = Canvas(Image.new("RGB", (400, 600), (1, 2, 3)), STREET)
    canvas.person(figure_at(100, 200, 150, 1))
    canvas.person(figure_at(100, 330, 200, 2))  # hides the legs of the first; its feet are below the photo
    behind, before = canvas.sightings()
    assert 0.3 < behind.visible < 0.9
    assert {"lower", "shoes"} <= behind.hidden
    assert "upper" not in behind.hidden
    assert "shoes" not in behind.items
    assert before.hidden == {"shoes"}
    assert 0.8 < before.visible < 1
    assert before.box[1] + before.box[3] == 300


def test_who_stands_twice_as_far_below_the_horizon_is_twice_as_high() -> None:
    view = camera_view("0", 1, (1024, 768))
    horizon = (view.horizon - view.top) * view.zoom
    person = draw_identities(0, 1)[0]
    near, far = (stand(1, person, Pose("front"), (0, horizon + d), view).height for d in (400, 200))
    assert near == pytest.approx(2 * far)


def test_hardly_visible_persons_are_not_described_and_others_twice_in_four_languages(coco: dict) -> None:
    described = [each for each in coco["annotations"] if each["captions"]]
    assert len(described) > len(coco["annotations"]) / 2
    for annotation in coco["annotations"]:
        assert not annotation["captions"] or annotation["visible"] >= 0.5
    for annotation in described:
        assert list(annotation["captions"]) == ["en", "ch", "de", "fr"]
        assert all(len(set(texts)) == 2 for texts in annotation["captions"].values())


def test_the_layout_of_prw_tbps_says_the_same_as_the_coco_file(scenes: Path, coco: dict) -> None:
    names = {image["id"]: image["file_name"] for image in coco["images"]}
    splits = {image["file_name"]: image["split"] for image in coco["images"]}
    boxes = defaultdict(list)
    for each in coco["annotations"]:
        boxes[names[each["image_id"]]].append([each["person_id"], *each["bbox"]])
    for name, expected in boxes.items():
        assert loadmat(scenes / "annotations" / f"{name}.mat")["box_new"].tolist() == expected
    for split, count in (("train", 1), ("test", 2)):
        cells = loadmat(scenes / f"frame_{split}.mat")[f"img_index_{split}"]
        assert {f"{row[0][0]}.jpg" for row in cells} == {n for n, s in splits.items() if s == split}
        texts = json.loads((scenes / f"PRW-TBPS_{split}").read_text())
        assert {(text["pic_path"], text["id"]): text["desrciption"] for text in texts} == {
            (names[each["image_id"]], each["person_id"]): each["captions"]["en"][:count]
            for each in coco["annotations"]
            if each["captions"] and splits[names[each["image_id"]]] == split
        }
    queries = [line.split() for line in (scenes / "query_info.txt").read_text().splitlines()]
    assert {(int(q[0]), f"{q[5]}.jpg") for q in queries} == {(text["id"], text["pic_path"]) for text in texts}
    for person, *box, frame in queries:
        assert [int(person), *map(float, box)] in boxes[f"{frame}.jpg"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--scenes", 3], "--scenes"),
        (["--scenes", 6, "--seed", -1], "--seed"),
        (["--scenes", 6, "--identities", 9], "--identities"),
        (["--scenes", 6, "--images-per-identity", 2], "--images-per-identity"),
        (["--scenes", 6, "--captions", "web"], "--captions"),
        (["--scenes", 6, "--workers", 0], "--workers"),
    ],
)
def test_a_bad_request_ends_with_status_2_and_one_line_that_names_it(
    arguments: list, named: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert run_main("--out", tmp_path / "set", *arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert named in captured.err
    assert not (tmp_path / "set").exists()


def test_scenes_do_not_replace_a_set_of_single_persons(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "set"
    assert run_main("--out", out, "--identities", 3, "--images-per-identity", 1, "--workers", 1) == 0
    before = digests(out)
    assert run_main("--out", out, "--scenes", 4) == 2
    assert "single persons" in capsys.readouterr().err
    assert digests(out) == before
