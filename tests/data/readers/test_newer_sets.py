"""UFine6926, UFine3C, PAB and TBAPR: their files as the releases have them."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data.annotations import load_data
from data.check.__main__ import main as check
from data.formats import detect_format, read_splits
from data.published import PUBLISHED, recognise
from data.types import Record
from options import UserError, load_options

LONG = "A young man of medium build in a white shirt with a printed pattern walks " + "and walks " * 60


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def lines(*items: Any) -> str:
    return "".join(json.dumps(item) + "\n" for item in items)


def mistake(path: Path, **settings: Any) -> str:
    with pytest.raises(UserError) as caught:
        read_splits(path, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def record(image: str, person: int, *captions: str) -> Record:
    return Record(image, person, captions, (), "en")


@pytest.mark.parametrize("dataset", ["auto", "ufine6926"])
def test_ufine6926_is_read_by_its_file_or_its_folder(tmp_path: Path, dataset: str) -> None:
    items = [
        {"split": split, "id": person, "file_path": f"images/{person}.jpg", "captions": [LONG, "a man"]}
        for person, split in ((1, "train"), (2, "test"))
    ]
    file = write(tmp_path / "UFine6926_Annotations_1024.json", items)
    write(tmp_path / "notes.json", {})
    for path in (file, tmp_path):
        found = read_splits(path, dataset=dataset)
        assert found["train"] == {"en": [record("images/1.jpg", 1, LONG, "a man")]}
        assert found["test"] == {"en": [record("images/2.jpg", 2, LONG, "a man")]}
        assert found["val"] == {}


@pytest.mark.parametrize("dataset", ["auto", "ufine3c"])
def test_an_image_of_ufine3c_has_any_number_of_captions(tmp_path: Path, dataset: str) -> None:
    item = {"id": 2250, "source": "UFine6926", "split": "test", "file_path": "images/7446.jpg"}
    path = write(tmp_path / "any.json", [{**item, "captions": [f"text {n}" for n in range(6)]}])
    found = read_splits(path, dataset=dataset)
    texts = [f"text {n}" for n in range(6)]
    assert found == {"train": {}, "val": {}, "test": {"en": [record("images/7446.jpg", 2250, *texts)]}}


def test_ufine3c_is_recognised_by_its_published_counts() -> None:
    assert recognise({("test", "en"): PUBLISHED["UFine3C"]["test"]}, "x") == "UFine3C"


PAB = (
    {"image": "train/imgs_0/goal/0.jpg", "caption": "a band", "image_id": "0_0", "hard_i_id": "0_8954"},
    {"image": "train/imgs_0/full/1.jpg", "caption": "a man falls", "image_id": "0_1", "anomaly": "Falling"},
    {"image": "test/0.jpg", "caption": ["a man runs", "he runs"], "image_id": 0},
    {"image": "test/1.jpg", "caption": ["a man sits"], "image_id": 1},
)


@pytest.mark.parametrize("dataset", ["auto", "pab"])
def test_the_lines_of_all_files_of_pab_are_one_data_set(tmp_path: Path, dataset: str) -> None:
    found = read_splits(write(tmp_path / "PAB.jsonl", lines(*PAB)), dataset=dataset)
    first, second = found["train"]["en"]
    assert (first.image, first.captions) == ("train/imgs_0/goal/0.jpg", ("a band",))
    assert second.captions == ("a man falls",)
    assert [r.captions for r in found["test"]["en"]] == [("a man runs", "he runs"), ("a man sits",)]
    persons = [r.person_id for split in ("train", "test") for r in found[split]["en"]]
    assert len(set(persons)) == 4
    assert found["val"] == {}


def test_the_test_file_of_pab_alone_and_evaluation_alone_number_alike(tmp_path: Path) -> None:
    alone = read_splits(write(tmp_path / "attr.json", lines(*PAB[2:])))["test"]["en"]
    assert [r.person_id for r in alone] == [0, 1]
    both = write(tmp_path / "PAB.jsonl", lines(*PAB))
    assert read_splits(both, ["test"])["test"] == read_splits(both)["test"]


def test_lines_with_a_column_of_a_table_stay_a_table(tmp_path: Path) -> None:
    for more in ({"person_id": 3}, {"split": "test"}, {"language": "en"}):
        content = lines({**PAB[2], **more}).encode()
        assert detect_format(tmp_path / "mine.jsonl", content) == "table"
    assert detect_format(tmp_path / "mine.jsonl", lines({**PAB[2], "image": "a.jpg"}).encode()) == "table"


def test_a_malformed_line_of_pab_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "PAB.jsonl", lines(PAB[0], {**PAB[1], "image_id": None}))
    assert f"'{path}' line 2: field 'person_id' should be a whole number or a name" in mistake(path)
    path = write(tmp_path / "PAB.jsonl", lines(PAB[0]) + '{"image": \n')
    assert f"'{path}' line 2: expected fields and values" in mistake(path)


def tbapr(folder: Path) -> Path:
    write(
        folder / "agtext_train.json",
        [
            [0, 0, ["bounding_box_train", "a0.jpg"], ["bounding_box_train", "g0.jpg"], "a man"],
            [0, 1, ["bounding_box_train", "a1.jpg"], ["bounding_box_train", "g0.jpg"], "in red"],
        ],
    )
    for split in ("val", "test"):
        lists = {
            "image_pids": [0, 1],
            "img_paths": [["query", f"{split}0.jpg"], ["query", f"{split}1.jpg"]],
            "pair_img_paths": [["query", "p0.jpg"], ["query", "p1.jpg"]],
            "caption_pids": [0, 1],
            "captions": ["a woman", "a boy"],
        }
        write(folder / f"agtext_{split}.json", lists)
    return folder


@pytest.mark.parametrize("dataset", ["auto", "tbapr"])
def test_both_views_of_tbapr_are_described_in_training_and_one_is_ranked(
    tmp_path: Path, dataset: str
) -> None:
    found = read_splits(tbapr(tmp_path), dataset=dataset)
    train = {r.image.removeprefix("bounding_box_train/"): r.captions for r in found["train"]["en"]}
    assert train == {"a0.jpg": ("a man",), "g0.jpg": ("a man", "in red"), "a1.jpg": ("in red",)}
    for split in ("val", "test"):
        assert [r.image for r in found[split]["en"]] == [f"query/{split}0.jpg", f"query/{split}1.jpg"]
        assert [r.captions for r in found[split]["en"]] == [("a woman",), ("a boy",)]


def test_the_persons_of_the_splits_of_tbapr_are_others(tmp_path: Path) -> None:
    found = read_splits(tbapr(tmp_path))
    of_split = [{r.person_id for r in found[split]["en"]} for split in ("train", "val", "test")]
    assert [len(persons) for persons in of_split] == [1, 2, 2]
    assert len(set.union(*of_split)) == 5
    assert read_splits(tmp_path, ["test"])["test"] == found["test"]


BROKEN = {
    "a row of four": ([[0, 0, ["d", "a.jpg"], ["d", "b.jpg"]]], "record 0: expected fields and values"),
    "a path that is no pair": ([[0, 0, ["d"], ["d", "b.jpg"], "a man"]], "field 'image' should be a text"),
    "a person by name": ([["Li", 0, ["d", "a.jpg"], ["d", "b.jpg"], "a man"]], "field 'id' should be"),
    "a caption that is no text": ([[0, 0, ["d", "a.jpg"], ["d", "b.jpg"], 7]], "should be a list of texts"),
    "lists of other lengths": (
        {"image_pids": [0], "img_paths": [["d", "a.jpg"]], "caption_pids": [0], "captions": []},
        "lists image_pids, img_paths, caption_pids, captions of one length",
    ),
    "no lists": ({"images": []}, "should hold a list of rows, or an object of the lists"),
    "the caption of another person": (
        {"image_pids": [0], "img_paths": [["d", "a.jpg"]], "caption_pids": [4], "captions": ["a man"]},
        "entry 0 has the persons 0 (image_pids) and 4 (caption_pids)",
    ),
    "no JSON": ("[", "is not JSON"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_malformed_file_of_tbapr_is_named_with_what_was_expected(tmp_path: Path, case: str) -> None:
    content, said = BROKEN[case]
    path = write(tmp_path / "agtext_test.json", content)
    message = mistake(tmp_path)
    assert said in message
    assert str(path) in message


@pytest.mark.parametrize("dataset", ["pab", "tbapr"])
def test_only_english_is_there(tmp_path: Path, dataset: str) -> None:
    path = tbapr(tmp_path) if dataset == "tbapr" else write(tmp_path / "PAB.jsonl", lines(*PAB))
    assert "'ch' is missing in the train split" in mistake(path, languages=["ch"])


@pytest.mark.parametrize("dataset", ["pab", "tbapr"])
def test_the_check_and_a_run_take_them(
    tmp_path: Path, dataset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tbapr(tmp_path) if dataset == "tbapr" else write(tmp_path / "PAB.jsonl", lines(*PAB))
    found = read_splits(path)
    for split in found.values():
        for each in split.get("en", ()):
            (tmp_path / each.image).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 64), (each.person_id, 0, 0)).save(tmp_path / each.image)
    keys = [f"data.annotation_file={path}", f"data.image_root={tmp_path}", "data.dataset=auto"]
    assert load_data(load_options({}, keys)).num_identities == len(
        {r.person_id for r in found["train"]["en"]}
    )
    assert check([str(path), str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    assert "fit for training" in capsys.readouterr().out
