"""PRW-TBPS and CUHK-SYSU-TBPS: records of boxes in frames, galleries, and files that are damaged."""

import json
from pathlib import Path

import pytest

from data.detections import read_detections
from data.formats import read_splits
from data.readers import cuhk_sysu, prw
from data.types import NOBODY, Gallery, Record
from options import UserError
from tests.data.frames import write_cuhk, write_prw

TRAIN = {"c1s1_000001": [(1, (1, 2, 10, 30)), (-2, (20, 2, 10, 30))], "c2s1_000002": [(1, (30, 5, 12, 40))]}
TEST = {
    "c1s1_000003": [(7, (5, 5, 10, 30)), (8, (40, 5, 20, 60))],
    "c3s1_000004": [(7, (50, 10, 20, 40)), (-2, (1, 1, 9, 9))],
    "c3s1_000005": [],
}
TEXTS = {
    ("c1s1_000001", 1): ["A man in red."],
    ("c2s1_000002", 1): ["A man, ", " "],
    ("c1s1_000003", 7): ["A tall woman.", "She is tall."],
    ("c1s1_000003", 8): ["A boy.", ""],
    ("c3s1_000004", 7): ["Described, but no query."],
}
QUERIES = ["7 5 5 10 30 c1s1_000003", "8 40 5 20 60 c1s1_000003"]


@pytest.fixture
def of_prw(tmp_path: Path) -> Path:
    return write_prw(tmp_path / "PRW-TBPS", TRAIN, TEST, TEXTS, QUERIES)


@pytest.fixture
def of_cuhk(tmp_path: Path) -> Path:
    train, test = ({f"s{name[-1]}.jpg": of for name, of in split.items()} for split in (TRAIN, TEST))
    train["s1.jpg"] = [*train["s1.jpg"], (NOBODY, (3, 3, 0, 9))]  # of no width
    texts = {(f"s{name[-1]}.jpg", person): of for (name, person), of in TEXTS.items()}
    searches = {
        50: [("s3.jpg", 7, ["s4.jpg", "s5.jpg"]), ("s3.jpg", 8, ["s4.jpg"])],
        100: [("s3.jpg", 7, ["s5.jpg", "s4.jpg", "s3.jpg"]), ("s3.jpg", 8, ["s3.jpg", "s5.jpg"])],
    }
    return write_cuhk(tmp_path / "CUHK-SYSU-TBPS", train, test, texts, searches)


def record(image: str, person: int, *captions: str) -> Record:
    return Record(image, person, captions, (), "en")


def records_of(folder: str, suffix: str) -> dict[str, list[Record]]:
    def image(name: str, box: str) -> str:
        return f"{folder}/{name if folder == 'frames' else f's{name[-1]}'}{suffix}/{box}"

    return {
        "train": [
            record(image("c1s1_000001", "1,2,10,30"), 1, "A man in red."),
            record(image("c1s1_000001", "20,2,10,30"), NOBODY),
            record(image("c2s1_000002", "30,5,12,40"), 1, "A man, "),
        ],
        "test": [
            record(image("c1s1_000003", "5,5,10,30"), 7, "A tall woman.", "She is tall."),
            record(image("c1s1_000003", "40,5,20,60"), 8, "A boy."),
            record(image("c3s1_000004", "50,10,20,40"), 7),
            record(image("c3s1_000004", "1,1,9,9"), NOBODY),
        ],
    }


@pytest.mark.parametrize("dataset", ["auto", "prw-tbps"])
def test_each_box_of_prw_is_a_record_whose_image_is_the_region_of_its_frame(
    of_prw: Path, dataset: str
) -> None:
    found = read_splits(of_prw, dataset=dataset)
    expected = records_of("frames", ".jpg")
    assert found == {"train": {"en": expected["train"]}, "val": {}, "test": {"en": expected["test"]}}


@pytest.mark.parametrize("dataset", ["auto", "cuhk-sysu-tbps"])
def test_each_box_of_cuhk_sysu_is_a_record_with_the_person_of_the_protocols(
    of_cuhk: Path, dataset: str
) -> None:
    found = read_splits(of_cuhk, dataset=dataset)
    expected = records_of("Image/SSM", ".jpg")
    assert found == {"train": {"en": expected["train"]}, "val": {}, "test": {"en": expected["test"]}}


def test_in_prw_everybody_is_searched_in_all_test_frames_the_described_one_too(of_prw: Path) -> None:
    scenes = prw.test_scenes(of_prw, (100,))
    assert scenes.frames == [f"frames/{name}.jpg" for name in TEST]
    assert scenes.boxes == [
        (0, (5, 5, 10, 30)),
        (0, (40, 5, 20, 60)),
        (1, (50, 10, 20, 40)),
        (1, (1, 1, 9, 9)),
    ]
    assert scenes.galleries == {
        "all frames": {
            7: Gallery(None, [(0, (5, 5, 10, 30)), (1, (50, 10, 20, 40))]),
            8: Gallery(None, [(0, (40, 5, 20, 60))]),
        }
    }


def test_in_cuhk_sysu_each_query_has_the_gallery_of_its_protocol(of_cuhk: Path) -> None:
    scenes = cuhk_sysu.test_scenes(of_cuhk, (100, 50))
    assert scenes.frames == [f"Image/SSM/s{number}.jpg" for number in (3, 4, 5)]
    assert list(scenes.galleries) == ["100 images", "50 images"]
    assert scenes.galleries["50 images"] == {
        7: Gallery([1, 2], [(1, (50, 10, 20, 40))]),
        8: Gallery([1], []),
    }
    assert scenes.galleries["100 images"][7].frames == [2, 1, 0]
    with pytest.raises(UserError, match=r"eval.gallery_sizes: .* has galleries of 50, 100, not 4000"):
        cuhk_sysu.test_scenes(of_cuhk, (4000,))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, empty, Path.unlink])
@pytest.mark.parametrize(
    "name",
    ["frame_test.mat", "annotations/c1s1_000003.jpg.mat", "PRW-TBPS_test", "query_info.txt"],
)
def test_a_damaged_file_of_prw_is_named(of_prw: Path, name: str, damage: object) -> None:
    damage(of_prw / name)
    if (name, damage) == ("query_info.txt", cut):
        (of_prw / name).write_text("7 5 5 c1s1_000003\n")
    with pytest.raises(UserError) as error:
        read_splits(of_prw, ["test"], dataset="prw-tbps")
    assert Path(name).name in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("damage", [cut, empty, Path.unlink])
@pytest.mark.parametrize(
    "name", ["Images.mat", "pool.mat", "TestG50.mat", "Train.mat", "CUHK-SYSU-TBPS_test"]
)
def test_a_damaged_file_of_cuhk_sysu_is_named(of_cuhk: Path, name: str, damage: object) -> None:
    path = next(of_cuhk.rglob(name))
    damage(path)
    if (name, damage) == ("TestG50.mat", Path.unlink):
        (path.parent / "TestG100.mat").unlink()
    with pytest.raises(UserError) as error:
        read_splits(of_cuhk, dataset="cuhk-sysu-tbps")
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_a_text_without_a_box_is_malformed(tmp_path: Path) -> None:
    texts = TEXTS | {("c2s1_000002", 99): ["Nobody is there."]}
    out = write_prw(tmp_path / "a", TRAIN, TEST, texts, QUERIES)
    with pytest.raises(UserError, match=r"PRW-TBPS_train' describes person 99 in frame 'c2s1_000002\.jpg'"):
        read_splits(out, ["train"])


FRAMES = ["frames/a.jpg", "frames/b.jpg"]


def write(path: Path, document: object) -> Path:
    path.write_text(json.dumps(document))
    return path


def test_detections_are_read_from_coco_and_only_persons_in_the_frames_count(tmp_path: Path) -> None:
    def found(image: int, category: int, x: int, score: float) -> dict[str, object]:
        return {"image_id": image, "category_id": category, "bbox": [x, 0, 5, 9], "score": score}

    document = {
        "images": [
            {"id": 4, "file_name": "b.jpg"},
            {"id": 2, "file_name": "x/a.jpg"},
            {"id": 9, "file_name": "z.jpg"},
        ],
        "categories": [{"id": 1, "name": "Person"}, {"id": 2, "name": "dog"}],
        "annotations": list(
            map(found, (4, 4, 2, 2, 9), (1, 1, 2, 1, 1), range(1, 6), (0.5, 0.9, 0.9, 0.1, 1))
        ),
    }
    expected = [(0, (4, 0, 5, 9)), (1, (2, 0, 5, 9)), (1, (1, 0, 5, 9))]
    assert read_detections(write(tmp_path / "a.json", document), FRAMES) == expected
    listed = [
        {"image_id": "a.jpg", "bbox": [4, 0, 5, 9], "score": 0.1},
        {"image_id": "b.jpg", "bbox": [2, 0, 5, 9]},
    ]
    assert read_detections(write(tmp_path / "b.json", listed), FRAMES) == expected[:2]


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ([], "no person in the 2 frames"),
        ([{"image_id": "c.jpg", "bbox": [0, 0, 1, 1]}], "no person in the 2 frames"),
        ([{"image_id": 3, "bbox": [0, 0, 1, 1]}], "annotation 0: field 'image_id' should be a text"),
        ([{"image_id": "a.jpg", "bbox": [0, 0, 1]}], "annotation 0: field 'bbox' should be"),
        ([{"image_id": "a.jpg", "bbox": [0, 0, 1, 1], "score": "x"}], "annotation 0: field 'score'"),
        ({"annotations": [], "images": 3}, "field 'images'"),
        ({"annotations": [{"image_id": 1, "bbox": [0, 0, 1, 1]}], "images": []}, "no image has the id 1"),
        (7, "should hold COCO annotations"),
    ],
)
def test_malformed_detections_are_named(tmp_path: Path, document: object, words: str) -> None:
    with pytest.raises(UserError, match=r"eval\.detections") as error:
        read_detections(write(tmp_path / "a.json", document), FRAMES)
    assert words in str(error.value)


def test_detections_that_are_no_json_or_not_there_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    for name, words in (("a.json", "is not JSON"), ("b.json", "cannot be read")):
        with pytest.raises(UserError, match=f"eval.detections: .*{name}' {words}"):
            read_detections(tmp_path / name, FRAMES)
