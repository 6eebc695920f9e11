"""Images that nobody describes: how files spell them, and what training does with them."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data.annotations import load_data
from data.datasets import TrainingSet, evaluation_set
from data.formats import read_splits
from data.types import NOBODY, Record
from options import Options, UserError, load_options

Item = dict[str, Any]
SPELLINGS: dict[str, Item] = {
    "no captions": {"id": 5, "captions": []},
    "a blank caption": {"id": 5, "captions": [" "], "captions_bt": [""]},
    "null": {"id": 5, "captions": None, "captions_bt": None},
    "junk": {"id": -1, "captions": []},
    "a distractor": {"id": 0, "captions": []},
}
CELLS = {
    "an empty cell": ("5", ""),
    "a blank one": ("5", "  "),
    "junk": ("-1", ""),
    "a distractor": ("0", ""),
}


def item(split: str, image: str, person: int, *captions: str, **fields: Any) -> Item:
    return {"split": split, "file_path": image, "id": person, "captions": list(captions), **fields}


def write(path: Path, items: list[Item]) -> Path:
    path.write_text(json.dumps(items, ensure_ascii=False), encoding="utf-8")
    return path


def options(tmp_path: Path, items: list[Item]) -> Options:
    for entry in items:
        Image.new("RGB", (4, 8)).save(tmp_path / entry["file_path"])
    file = write(tmp_path / "a.json", items)
    return load_options({}, [f"data.annotation_file={file}", f"data.image_root={tmp_path}"])


@pytest.mark.parametrize("name", SPELLINGS)
def test_an_image_without_captions_is_in_the_gallery_and_no_query(tmp_path: Path, name: str) -> None:
    items = [item("test", "a.jpg", 5, "a man"), {**item("test", "b.jpg", 5), **SPELLINGS[name]}]
    found = evaluation_set(read_splits(write(tmp_path / "a.json", items))["test"], tmp_path)
    person = 5 if SPELLINGS[name]["id"] == 5 else NOBODY
    assert (found.images, found.person_ids.tolist()) == (["a.jpg", "b.jpg"], [5, person])
    assert found.queries["en"].captions == ["a man"]
    assert found.queries["en"].image_indices.tolist() == [0]
    assert found.num_undescribed == 1


@pytest.mark.parametrize("is_csv", [True, False])
@pytest.mark.parametrize("name", CELLS)
def test_a_row_without_a_caption_is_one(tmp_path: Path, name: str, is_csv: bool) -> None:
    person, caption = CELLS[name]
    rows = [("a.jpg", "5", "a man"), ("b.jpg", person, caption), ("a.jpg", "5", "")]
    with (tmp_path / "a").open("w", newline="") as file:
        if is_csv:
            csv.writer(file).writerows([("image", "person_id", "caption"), *rows])
        else:  # as pandas writes an empty cell
            for image, number, text in rows:
                row = {"image": image, "person_id": int(number), "caption": text or None}
                file.write(json.dumps(row) + "\n")
    assert read_splits(tmp_path / "a")["test"]["en"] == [
        Record("a.jpg", 5, ("a man",), (), "en"),
        Record("b.jpg", 5 if person == "5" else NOBODY, (), (), "en"),
    ]


@pytest.mark.parametrize(("nobody", "first"), [("-1", 0), ("-1.0", 0), ("0", 1), ("0000", 1)])
def test_nobody_is_no_person_beside_names(tmp_path: Path, nobody: str, first: int) -> None:
    rows = f"a.jpg,Li,a woman\nb.jpg,{nobody},\nc.jpg,Wang,a man\nd.jpg,{nobody},\n"
    (tmp_path / "a.csv").write_text("image,person_id,caption\n" + rows)
    found = read_splits(tmp_path / "a.csv")["test"]["en"]
    assert [record.person_id for record in found] == [first, NOBODY, first + 1, NOBODY]


def test_person_0_with_a_caption_is_a_person(tmp_path: Path) -> None:
    items = [item("test", "a.jpg", 0, "a man"), item("test", "b.jpg", 0)]
    found = read_splits(write(tmp_path / "a.json", items), ["test"])
    assert [record.person_id for record in found["test"]["en"]] == [0, 0]


def test_captions_of_nobody_are_no_queries_which_a_warning_says(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    items = [item("test", "a.jpg", 1, "a man"), item("test", "b.jpg", -1, "noise", "more of it")]
    found = read_splits(write(tmp_path / "a.json", items))["test"]["en"]
    assert found[1] == Record("b.jpg", NOBODY, (), (), "en")
    assert caplog.text.count("2 captions of person id -1, nobody, are not used") == 1


def test_a_language_may_leave_an_image_undescribed(tmp_path: Path) -> None:
    both = {"en": (["a man"], ["him"]), "de": ([], ["er"])}
    for language, (first, second) in both.items():
        items = [item("test", "a.jpg", 1, *first), item("test", "b.jpg", 1, *second)]
        write(tmp_path / f"test_reid_{language}.json", items)
    found = evaluation_set(read_splits(tmp_path, ["test"], ["en", "de"])["test"], tmp_path)
    assert found.images == ["a.jpg", "b.jpg"]
    assert {name: q.image_indices.tolist() for name, q in found.queries.items()} == {"en": [0, 1], "de": [1]}
    assert found.num_undescribed == 0


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_split_in_which_nothing_is_described_is_refused(tmp_path: Path, split: str) -> None:
    others = [item(name, f"{name}.jpg", 1, "a man") for name in {"train", "test"} - {split}]
    opened = options(tmp_path, [*others, item(split, "a.jpg", 3), item(split, "b.jpg", -1)])
    with pytest.raises(UserError, match=f"a.json', {split} split: no image has a caption in en"):
        load_data(opened)


def test_training_skips_and_counts_them_even_where_they_are_not_on_the_disk(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    items = [
        item("train", "a.jpg", 4, "a man"),
        item("train", "b.jpg", 9),
        item("train", "c.jpg", -1, "noise"),
        item("train", "d.jpg", 4, "him", "tall"),
        item("test", "e.jpg", 1, "her"),
    ]
    opened = options(tmp_path, items)
    (tmp_path / "b.jpg").unlink()
    splits = load_data(opened)
    assert [record.image for record in splits.train["en"]] == ["a.jpg", "d.jpg"]
    assert splits.num_identities == 1
    assert caplog.text.count("skipping 2 of 4 training images: they have no caption") == 1


@pytest.mark.parametrize(("draw", "expected"), [("all", "en de1 de2"), ("one", "en|de1 en|de2")])
def test_training_draws_among_the_languages_that_describe_an_image(
    tmp_path: Path, draw: str, expected: str
) -> None:
    records = {
        "en": [Record("a.jpg", 1, ("en",), (), "en"), Record("b.jpg", 2, (), (), "en")],
        "de": [Record("a.jpg", 1, ("de1", "de2"), (), "de"), Record("b.jpg", 2, ("b",), (), "de")],
    }
    choices = TrainingSet(records, tmp_path, (16, 8), (), language_draw=draw).choices
    found = " ".join("|".join(record.captions[number] for record, number in each) for each in choices)
    assert found == f"{expected} b"


def test_images_of_nobody_in_train_and_test_are_no_leak_of_a_person(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    items = [item(split, f"{split}{n}.jpg", -n) for split in ("train", "test") for n in (0, 1)]
    described = [item("train", "a.jpg", 2, "a man"), item("test", "b.jpg", 3, "a woman")]
    load_data(options(tmp_path, items + described))
    assert "too high" not in caplog.text
