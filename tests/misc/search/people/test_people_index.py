"""Indexes of people: an entry for each person of a photo, by boxes of the user or of a detector."""

import json
import os
import shutil
import sqlite3
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.images import decode
from misc.detection.boxes import Boxes, Limits, as_boxes
from misc.search.__main__ import main
from misc.search.encoder import Encoder
from misc.search.index import Index
from misc.search.indexing import encoding
from misc.search.indexing.boxes import GivenBoxes
from misc.search.indexing.outcome import Update
from misc.search.indexing.people import People
from misc.search.indexing.update import update_index
from misc.search.storage.places import MilvusPlace
from misc.search.storage.sightings import Sighting
from misc.search.views import crop_of
from options import UserError
from tests.helpers.search import Kill, killed_at_write, save_image
from tests.helpers.towers.detectors import save_detector

SIZE = (120, 90)
BOXES = {  # left, top, width, height
    "a/1.png": [(10, 20, 30, 50), (60.4, 5.6, 20, 70)],
    "a/2.png": [(-10, 40, 40, 80)],  # reaches beyond the image
    "b/3.png": [(0, 0, 30, 60), (50, 10, 30, 60), (80, 20, 35, 65)],
    "b/4.png": [],
}


def write_coco(path: Path, boxes: dict[str, list[tuple[float, ...]]]) -> Path:
    images = [{"id": number, "file_name": name} for number, name in enumerate(boxes)]
    annotations = [
        {"image_id": number, "bbox": list(box)}
        for number, several in enumerate(boxes.values())
        for box in several
    ]
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for seed, name in enumerate(BOXES):
        save_image(tmp_path / "photos" / name, seed, SIZE)
    return tmp_path / "photos"


def given(path: Path, boxes: dict[str, list[tuple[float, ...]]] = BOXES, **settings: object) -> People:
    limits = Limits(min_height=1, max_overlap=1, min_inside=0)
    return People(None, GivenBoxes(write_coco(path, boxes)), limits, **settings)


def update(encoder: Encoder, root: Path, people: People | None, **settings: object) -> Update:
    return update_index(encoder, root, root.parent / "index", people=people, **settings)


def crop(root: Path, name: str, box: Sequence[float], margin: float) -> Image.Image:
    """The region with its margin, by rounding the sides of the box first."""
    image = Image.open(root / name).convert("RGB")
    left, top, right, bottom = (round(side) for side in (*box[:2], box[0] + box[2], box[1] + box[3]))
    across, down = round((right - left) * margin), round((bottom - top) * margin)
    sides = (
        max(0, left - across),
        max(0, top - down),
        min(SIZE[0], right + across),
        min(SIZE[1], bottom + down),
    )
    return image.crop(sides)


def rows(folder: Path) -> list[tuple[object, ...]]:
    columns = "path, id, size, mtime_ns, digest, width, height, missing_since IS NULL, sighting"
    with closing(sqlite3.connect(folder / "index.db")) as database:
        return database.execute(f"SELECT {columns} FROM images ORDER BY path, id").fetchall()


def paths(root: Path) -> list[str]:
    return Index.open(root.parent / "index").paths


@pytest.mark.parametrize("margin", [0.0, 0.2])
@pytest.mark.parametrize("workers", [0, 2])
def test_each_person_is_an_entry_encoded_with_a_margin_and_who_is_alone_stays_whole(
    margin: float, workers: int, encoder: Encoder, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("misc.search.indexing.decoding.num_cores", lambda: workers)
    monkeypatch.setattr(encoding, "PHOTOS_AT_ONCE", 2)
    done = update(encoder, root, given(root.parent / "boxes.json", margin=margin))
    assert (done.total, done.entries, done.new) == (4, 7, 4)
    index = Index.open(root.parent / "index")
    # As detected, cut to the image and in whole pixels: 60.4 + 20 is 80.
    assert index.paths == [
        "a/1.png/10,20,30,50",
        "a/1.png/60,6,20,70",
        "a/2.png/0,40,30,50",
        "b/3.png/0,0,30,60",
        "b/3.png/50,10,30,60",
        "b/3.png/80,20,35,65",
        "b/4.png",
    ]
    assert index.files() == ["a/1.png", "a/1.png", "a/2.png", "b/3.png", "b/3.png", "b/3.png", "b/4.png"]
    cut = {**BOXES, "a/2.png": [(0, 40, 30, 50)]}
    crops = [crop(root, name, box, margin) for name, boxes in cut.items() for box in boxes]
    expected = encoder.encode_images([*crops, Image.open(root / "b/4.png").convert("RGB")]).numpy()
    assert index.features_of(range(7)) == pytest.approx(expected, abs=1e-3)
    details = index.facts.of(index.ids.tolist())
    assert [(details[number].width, details[number].height) for number in index.ids.tolist()] == [
        *((30, 50), (20, 70), (30, 50), (30, 60), (30, 60), (35, 65)),
        SIZE,
    ]


def test_whole_photos_can_be_entries_as_well(encoder: Encoder, root: Path) -> None:
    assert update(encoder, root, given(root.parent / "boxes.json", whole=True)).entries == 10
    assert sorted(path for path in paths(root) if path.endswith("png")) == sorted(BOXES)


def test_boxes_in_csv_and_mot_are_those_of_coco(encoder: Encoder, root: Path) -> None:
    update(encoder, root, given(root.parent / "boxes.json"))
    expected, folder = paths(root), root.parent
    lines = [f"{name},{','.join(map(str, box))},0.5" for name, several in BOXES.items() for box in several]
    (folder / "boxes.csv").write_text("\n".join(["file,left,top,width,height,score", *lines]))
    limits = Limits(min_height=1, max_overlap=1, min_inside=0)
    shutil.rmtree(folder / "index")
    update(encoder, root, People(None, GivenBoxes(folder / "boxes.csv"), limits))
    assert paths(root) == expected
    score = Index.open(folder / "index").facts.of([0])[0].sighting
    assert Sighting.of_text(score).score == 0.5
    frames, mot = folder / "frames", folder / "mot"
    for number, name in enumerate(BOXES, start=1):
        (frames / "walk" / "img1").mkdir(parents=True, exist_ok=True)
        shutil.copy(root / name, frames / "walk" / "img1" / f"{number:06d}.png")
    lines = [
        f"{number},{track},{','.join(map(str, box))},1,1,0.9"
        for number, several in enumerate(BOXES.values(), start=1)
        for track, box in enumerate(several)
    ]
    ignored = ["1,7,1,1,9,9,0,1,1", "1,8,2,2,9,9,1,3,1"]  # marked so; of another class
    (mot / "walk" / "gt").mkdir(parents=True)
    (mot / "walk" / "gt" / "gt.txt").write_text("\n".join([*lines, *ignored, ""]))
    update_index(encoder, frames, folder / "of frames", people=People(None, GivenBoxes(mot), limits))
    of_frames = Index.open(folder / "of frames").paths
    names = {f"walk/img1/{n:06d}.png": name for n, name in enumerate(BOXES, start=1)}
    assert [names[path[:20]] + path[20:] for path in of_frames] == expected


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("boxes.json", "{", "is not JSON"),
        ("boxes.json", '{"images": [], "annotations": []}', "has no boxes of people"),
        ("boxes.json", None, "cannot be read"),
        ("boxes.csv", "file,left\na.png,1", "should have the columns file, left, top, width, height"),
        ("boxes.csv", "file,left,top,width,height\na.png,1,2,x,4", "line 2: expected a number, found 'x'"),
        ("boxes.csv", "file,left,top,width,height\na.png,1,2", "line 2: expected 5 values"),
        (
            "boxes.csv",
            "file,left,top,width,height,frame\na.mp4,1,2,3,4,0",
            "expected a frame from 1, found 0",
        ),
        (
            "boxes.csv",
            'file,left,top,width,height\n"a.png,1,2,3,4' + 40_000 * "\na,,,",
            "it is no CSV (field",
        ),
        ("boxes.txt", "1,-1,3", "line 1: expected frame, track, left"),
        ("boxes.txt", "0,-1,1,2,3,4", "line 1: expected a frame from 1"),
        ("boxes.txt", "1,-1,nan,2,3,4", "line 1: expected a number, found 'nan'"),
        ("boxes.xml", "", "expected FILE.json, FILE.csv, FILE.txt or a folder"),
    ],
)
def test_boxes_that_are_none_are_refused(name: str, text: str | None, reason: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=r"--boxes: ") as raised:
        GivenBoxes(tmp_path / name)
    assert reason in str(raised.value)


@pytest.mark.parametrize(
    ("name", "text", "scores"),
    [
        (
            "boxes.csv",
            "file,left,top,width,height,score\nwalk.png,1,2,3,4,0.5\nwalk.png,1,2,3,4,",
            [0.5, None],
        ),
        ("boxes.csv", "file,left,top,width,height\n.\\walk.png,1,2,3,4", [None]),
        ("boxes.json", '[{"image_id": "./walk.png", "bbox": [1, 2, 3, 4]}]', [None]),
        ("boxes.json", '[{"image_id": "walk.png", "bbox": [1, 2, 3, 4], "score": 1}]', [1]),
        ("walk.txt", "1,-1,1,2,3,4\n1,-1,1,2,3,4,-1\n1,-1,1,2,3,4,1", [None, None, 1]),
        # In true boxes 1 says that they count; in tracks it is what was detected.
        ("walk.txt", "1,5,1,2,3,4,1,1,0.9\n1,6,1,2,3,4,0.75,-1,-1,-1", [None, 0.75]),
    ],
)
def test_a_box_has_the_score_that_the_user_gave_or_none(
    name: str, text: str, scores: list[float | None], tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    boxes, file = GivenBoxes(tmp_path / name), "walk.mp4" if name == "walk.txt" else "walk.png"
    boxes.assign([file])
    people = People(None, boxes, Limits(min_score=0.9, min_height=1, max_overlap=1))
    found = boxes.in_photo(file)
    found[:, 0] += range(len(found))  # else they were one entry
    assert [entry.score for entry in people.entries_of(found)] == scores
    limited = [score for score in scores if score is None or score >= 0.9]
    (kept,) = people.boxes_in([Image.new("RGB", SIZE)], [file])
    assert len(kept) == len(limited)


def test_boxes_of_a_video_need_their_frames(tmp_path: Path) -> None:
    lines = "file,left,top,width,height,frame\na.mp4,1,2,3,4,1\na.mp4,1,2,3,4,"
    (tmp_path / "boxes.csv").write_text(lines)
    with pytest.raises(UserError, match=r"--boxes: '.*' has boxes of the video 'a.mp4' without their"):
        GivenBoxes(tmp_path / "boxes.csv").assign(["a.mp4"])


def test_boxes_name_a_file_without_doubt(
    encoder: Encoder, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    box, file = [(1, 2, 30, 40)], root.parent / "boxes.json"
    shutil.copy(root / "a" / "1.png", root / "b" / "1.png")
    with pytest.raises(UserError, match=r"'1.png' of '.*' may be 'a/1.png' or 'b/1.png'"):
        update(encoder, root, given(file, {"1.png": box}))
    with pytest.raises(UserError, match=r"names no file of IMAGE_ROOT \(first: 'c/1.png'\)"):
        update(encoder, root, given(file, {"c/1.png": box}))
    update(encoder, root, given(file, {"b/1.png": box, "2.png": box, "9.png": box}))
    assert [path for path in paths(root) if "," in path] == ["a/2.png/1,2,30,40", "b/1.png/1,2,30,40"]
    assert "1 names of" in caplog.text
    assert "(first: '9.png')" in caplog.text


def test_only_photos_whose_content_or_boxes_changed_are_encoded_again(encoder: Encoder, root: Path) -> None:
    file, folder = root.parent / "boxes.json", root.parent / "index"
    update(encoder, root, given(file))
    before = rows(folder)
    done = update(encoder, root, given(file))
    assert (done.kept, done.encoded) == (4, 0)
    assert rows(folder) == before
    ids = {path: number for path, number, *_ in before}
    moved = {**BOXES, "b/3.png": [(0, 0, 30, 60), (50, 10, 30, 61)]}
    done = update(encoder, root, given(file, moved))
    assert (done.kept, done.changed, done.entries) == (3, 1, 6)
    after = {path: number for path, number, *_ in rows(folder)}
    assert after[b"b/3.png/0,0,30,60"] == ids[b"b/3.png/0,0,30,60"]
    assert after[b"b/3.png/50,10,30,61"] not in ids.values()
    assert b"b/3.png/80,20,35,65" not in after


def test_moved_copied_touched_and_missing_photos_take_all_their_people_with_them(
    encoder: Encoder, root: Path
) -> None:
    people = People(ByColour(), None, Limits(min_height=1))
    folder = root.parent / "index"
    update(encoder, root, people)
    index = Index.open(folder)
    features = dict(zip(index.paths, index.features_of(range(len(index.paths))), strict=True))
    of_file = {name: [path for path in index.paths if path.startswith(name)] for name in BOXES}
    assert {name: len(several) for name, several in of_file.items()} == dict.fromkeys(BOXES, 2)
    (root / "a" / "1.png").rename(root / "c.png")
    shutil.copy(root / "a" / "2.png", root / "d.png")
    os.utime(root / "b" / "3.png", (1, 1))
    (root / "b" / "4.png").unlink()
    done = update(encoder, root, people)
    assert (done.moved, done.copied, done.kept, done.encoded, done.missing) == (1, 1, 2, 0, 1)
    index = Index.open(folder)
    origin = {"c.png": "a/1.png", "d.png": "a/2.png", "a/2.png": "a/2.png", "b/3.png": "b/3.png"}
    expected = {
        path.replace(old, new): features[path] for new, old in origin.items() for path in of_file[old]
    }
    assert index.paths == sorted(expected)
    wanted = [expected[path] for path in index.paths]
    assert (index.features_of(range(len(index.paths))) == np.array(wanted)).all()
    assert update(encoder, root, people, prune=True).dropped == 1
    assert len(rows(folder)) == 8


class ByColour:
    """Finds two boxes, whose places the first pixel tells."""

    identity, min_score, takes_device = "by colour", 0.5, False

    def detect(self, images: Sequence[Image.Image]) -> list[Boxes]:
        found = []
        for image in images:
            left, top, _ = (value // 8 for value in image.getpixel((0, 0)))
            found.append(
                as_boxes([[left, top, 30, 40, 0.9], [left + 50, top, 20, 45, 0.6], [0, 0, 9, 9, 0.1]])
            )
        return found


class OnDevice(ByColour):
    takes_device = True


@pytest.mark.parametrize("workers", [0, 2])
def test_a_detector_on_the_device_gets_the_same_photos_as_one_in_the_workers(
    workers: int, encoder: Encoder, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("misc.search.indexing.decoding.num_cores", lambda: workers)
    monkeypatch.setattr(encoding, "PHOTOS_AT_ONCE", 2)
    (root / "a" / "bad.png").write_bytes((root / "a" / "1.png").read_bytes()[:200])
    contents = []
    for detector in (ByColour(), OnDevice()):
        folder = root.parent / type(detector).__name__
        people = People(detector, None, Limits(min_height=1))
        done = update_index(encoder, root, folder, people=people)
        assert (list(done.skipped), done.entries) == (["a/bad.png"], 8)
        index = Index.open(folder)
        contents.append((index.paths, index.features_of(range(8)).tobytes(), rows(folder)))
    assert contents[0] == contents[1]


def test_a_photo_decoded_at_reduced_size_has_boxes_in_pixels_of_its_file(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    pixels = np.linspace(0, 255, 400 * 300 * 3).reshape(300, 400, 3).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photos" / "large.jpg")
    monkeypatch.setattr(decode, "MAX_PIXELS", 50_000)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50_000)
    boxes = {"large.jpg": [(40, 80, 120, 160)]}
    update(encoder, tmp_path / "photos", given(tmp_path / "boxes.json", boxes, margin=0))
    index = Index.open(tmp_path / "index")
    assert index.paths == ["large.jpg/40,80,120,160"]
    reduced = decode.load_image(tmp_path / "photos" / "large.jpg", large=True)
    assert reduced.size == (100, 75)
    expected = encoder.encode_images([reduced.crop((10, 20, 40, 60))]).numpy()
    assert index.features_of([0]) == pytest.approx(expected, abs=1e-3)


def test_the_smallest_box_of_a_photo_decoded_at_reduced_size_has_a_pixel() -> None:
    reduced = Image.effect_noise((101, 75), 50).convert("RGB")
    reduced.info[decode.SIZE_IN_FILE] = (401, 300)
    for left, top in ((0, 0), (201, 102), (400, 299)):
        crop = crop_of(reduced, (left, top, 1, 1), 0)
        assert crop.size == (1, 1)
        assert crop.getpixel((0, 0)) == reduced.getpixel((int(left * 101 / 401), top // 4))


def test_a_kill_at_any_write_leaves_whole_photos_and_the_next_run_ends_as_one_undisturbed(
    encoder: Encoder, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("misc.search.indexing.decoding.num_cores", lambda: 0)
    monkeypatch.setattr(encoding, "SECONDS_PER_PART", 0)
    monkeypatch.setattr(encoding, "PHOTOS_AT_ONCE", 1)
    folder, first, later = root.parent / "index", root.parent / "1.json", root.parent / "2.json"
    update(encoder, root, given(first))
    shutil.copytree(folder, root.parent / "before")
    two = [(1, 1, 20, 40), (40, 9, 20, 40)]
    changed = given(later, {**BOXES, "a/1.png": [(10, 20, 30, 51)], "b/4.png": two})
    save_image(root / "a" / "5.png", 9, SIZE)

    def content() -> object:
        index = Index.open(folder)
        return rows(folder), index.paths, index.features_of(range(len(index.paths))).tobytes()

    update(encoder, root, changed)
    expected, kills = content(), 0
    while True:
        shutil.rmtree(folder)
        shutil.copytree(root.parent / "before", folder)
        try:
            with killed_at_write(kills, monkeypatch):
                update(encoder, root, changed)
            break
        except Kill:
            kills += 1
            for path, *_, sighting in rows(folder):
                same = [row for row in rows(folder) if row[0].split(b".png")[0] == path.split(b".png")[0]]
                assert len(same) == Sighting.of_text(sighting).of, path
            update(encoder, root, changed)
            assert content() == expected
    assert kills >= 6


def test_an_update_finds_people_as_the_index_was_made_with(
    encoder: Encoder, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, folder = root.parent / "boxes.json", root.parent / "index"
    update(encoder, root, given(file))
    with pytest.raises(UserError, match=r"--people: '.*' has people as entries; add it"):
        update(encoder, root, None)
    with pytest.raises(UserError, match=r"--margin: '.*' was made with 0.0, this run has 0.3"):
        update(encoder, root, given(file, margin=0.3))
    with pytest.raises(UserError, match=r"--detector: '.*' was made with --boxes, this run has 'by colour'"):
        update(encoder, root, People(ByColour(), None, given(file).limits))
    update_index(encoder, root, root.parent / "whole")
    with pytest.raises(UserError, match=r"--people: '.*' has whole images as entries; leave it out"):
        update_index(encoder, root, root.parent / "whole", people=given(file))
    with pytest.raises(UserError, match=r"--people: an index of people cannot be in Milvus"):
        update_index(encoder, root, MilvusPlace("people.db", "images"), people=given(file))
    command = ["index", str(encoder.checkpoint), str(root), "--out", str(folder)]
    for flags, reason in {
        ("--margin", "0.2"): "--margin: expected --people beside it",
        ("--min-score", "0"): "--min-score: expected --people beside it",
        ("--people", "--boxes", str(file), "--detector", "hog"): "leave out one of the two",
        ("--people", "--margin", "-1"): "--margin: expected 0 to 2",
        ("--people", "--max-overlap", "2"): "--max-overlap: expected 0 to 1",
        ("--people", "--min-score", "nan"): "--min-score: expected a number",
        ("--people", "--detector", str(root)): "--detector",
    }.items():
        assert main([*command, *flags]) == 2
        assert reason in capsys.readouterr().err


def test_a_model_of_transformers_finds_the_people_of_an_index(
    encoder: Encoder, root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from misc.detection.boxes import kept
    from misc.detection.detectors import load_detector

    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was asked"))
    folder = save_detector(root.parent / "dfine")
    command = ["index", str(encoder.checkpoint), str(root), "--out", str(root.parent / "index")]
    flags = ["--people", "--detector", str(folder), "--min-score", "0.3", "--min-height", "8"]
    assert main([*command, *flags, "data.test_batch_size=4"]) == 0
    detector, expected = load_detector(str(folder)), set()
    for name in BOXES:
        image = Image.open(root / name).convert("RGB")
        boxes = kept(detector.detect([image])[0], SIZE, Limits(0.3, 8), 0.5)
        starts, ends = np.round(boxes[:, :2]), np.round(boxes[:, :2] + boxes[:, 2:4])
        regions = np.hstack([starts, ends - starts]).astype(int).tolist()
        expected |= {f"{name}/{','.join(map(str, region))}" for region in regions} or {name}
    assert set(paths(root)) == expected
    assert any("," in path for path in expected)
    assert "4 photos and videos with" in capsys.readouterr().out


def test_without_opencv_the_message_says_what_to_install(
    encoder: Encoder, root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    command = ["index", str(encoder.checkpoint), str(root), "--out", str(root.parent / "index")]
    assert main([*command, "--people"]) == 2
    assert 'pip install "opencv-python-headless<5"' in capsys.readouterr().err
    assert main([*command]) == 0


@pytest.mark.parametrize("kind", [None, ByColour, OnDevice])
def test_an_interrupted_run_encodes_the_batches_of_one_undisturbed_whatever_cannot_be_read(
    kind: type[ByColour] | None, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last bit of a feature can depend on what is encoded beside it."""
    monkeypatch.setattr("misc.search.indexing.decoding.num_cores", lambda: 0)
    monkeypatch.setattr(encoding, "SECONDS_PER_PART", 0)
    monkeypatch.setattr(encoding, "PHOTOS_AT_ONCE", 4)
    for number in range(19):
        file = save_image(tmp_path / "photos" / f"{number:02d}.png", number, SIZE)
        if number in (1, 6, 7, 18):
            file.write_bytes(file.read_bytes()[:200])
    batches: list[bytes] = []
    real, left = Encoder.encode_batches, [99]

    def recording(self: Encoder, given: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        for batch in given:
            if not left[0]:
                raise Kill
            left[0] -= 1
            batches.append(batch.numpy().tobytes())
            yield from real(self, [batch])

    monkeypatch.setattr(Encoder, "encode_batches", recording)
    people = kind and People(kind(), None, Limits(min_height=1))
    update(encoder, tmp_path / "photos", people)
    undisturbed = batches.copy()
    assert len(undisturbed) >= 4
    for before in range(1, len(undisturbed)):
        shutil.rmtree(tmp_path / "index")
        batches.clear()
        left[0] = before
        with pytest.raises(Kill):
            update(encoder, tmp_path / "photos", people)
        left[0] = 99
        update(encoder, tmp_path / "photos", people)
        assert [batch for number, batch in enumerate(batches) if batch not in batches[:number]] == undisturbed
