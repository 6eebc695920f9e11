"""Folders as people have them: a file for each split under any usual name, or a data set's own folder."""

import json
from pathlib import Path
from typing import Any

import pytest

from data.check.__main__ import main as check
from data.formats import read_splits
from data.types import FORMATS
from options import UserError, load_options

Item = dict[str, Any]


def item(image: str, **fields: Any) -> Item:
    return {"file_path": image, "id": 1, "captions": ["a man", "him"], **fields}


def write(path: Path, items: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(items))
    return path


def images(folder: Path, **settings: Any) -> dict[str, list[str]]:
    found = read_splits(folder, **settings)
    return {split: [r.image for records in of.values() for r in records] for split, of in found.items()}


def mistake(folder: Path, **settings: Any) -> str:
    with pytest.raises(UserError) as caught:
        read_splits(folder, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


WHOLE = {"train": ["train.jpg"], "val": ["val.jpg"], "test": ["test.jpg"]}


@pytest.mark.parametrize(
    "names",
    [
        ("train.json", "valid.json", "test.json"),
        ("CUHK-PEDES-train.json", "CUHK-PEDES-valid.json", "CUHK-PEDES-test.json"),
        ("Train_captions.json", "dev_captions.json", "TEST_captions.json"),
        ("rstp.training.json", "rstp.validation.json", "rstp.testing.json"),
        ("train_reid.json", "valid_reid.json", "test_reid.json"),
        ("Train_reid_en.json", "dev_reid_en.json", "Test_reid_en.json"),
    ],
)
@pytest.mark.parametrize("dataset", ["auto", "folder"])
def test_a_folder_has_a_file_for_each_split(tmp_path: Path, names: tuple[str, ...], dataset: str) -> None:
    for split, name in zip(("train", "val", "test"), names, strict=True):
        write(tmp_path / name, [item(f"{split}.jpg")])
    write(tmp_path / f"._{names[0]}", "no image, no annotation")
    write(tmp_path / "__MACOSX" / names[0], "no annotation")
    assert images(tmp_path, dataset=dataset) == WHOLE
    assert images(tmp_path, splits=["test"], dataset=dataset) == {"test": ["test.jpg"]}
    assert read_splits(tmp_path)["train"]["en"][0].captions == ("a man", "him")


def test_the_files_of_a_folder_may_be_tables_with_names_for_persons(tmp_path: Path) -> None:
    for split, person in (("train", "Li"), ("valid", "Wu"), ("test", "Li")):
        (tmp_path / f"{split}.csv").write_text(f"img,person,text\n{split}.jpg,{person},a man\n")
    found = read_splits(tmp_path)
    assert [found[split]["en"][0].person_id for split in ("train", "val", "test")] == [0, 1, 0]
    assert read_splits(tmp_path, ["test"])["test"] == found["test"]


def test_records_of_such_a_file_keep_their_back_translations(tmp_path: Path) -> None:
    write(tmp_path / "train.json", [item("a.jpg", captions_bt=["a person", ""])])
    assert read_splits(tmp_path)["train"]["en"][0].back_translations == ("a person", "")


def test_the_language_stands_in_the_file_name(tmp_path: Path) -> None:
    for language in ("en", "zh"):
        write(tmp_path / f"test_{language}.json", [item("a.jpg")])
    assert list(read_splits(tmp_path, ["test"], ["en", "ch"])["test"]) == ["en", "ch"]


@pytest.mark.parametrize("dataset", ["auto", "cuhk-pedes"])
@pytest.mark.parametrize("name", ["reid_raw.json", "mine.json"])
def test_a_data_set_s_own_folder_is_read_by_the_file_in_it(tmp_path: Path, dataset: str, name: str) -> None:
    write(tmp_path / name, [item("a.jpg", split="test")])
    if name == "reid_raw.json":
        write(tmp_path / "caption_all.json", [item("a.jpg")])
    (tmp_path / "imgs").mkdir()
    (tmp_path / "readme.txt").touch()
    assert images(tmp_path, splits=["test"], dataset=dataset) == {"test": ["a.jpg"]}


def test_caption_all_is_refused_with_the_file_that_says_the_splits(tmp_path: Path) -> None:
    path = write(tmp_path / "caption_all.json", [item("CUHK01/a.png"), item("CUHK03/b.png")])
    for given in (path, tmp_path, path.rename(tmp_path / "renamed.json")):
        if given.exists():
            said = mistake(given)
            assert (
                "does not say which images are train, val and test; use its reid_raw.json, which does" in said
            )
    path = write(tmp_path / "caption_all.json", [])
    said = mistake(tmp_path / "reid_raw.json")
    assert (
        "holds caption_all.json, renamed.json (caption_all.json does not say the splits, reid_raw.json"
        in said
    )


AMBIGUOUS = {
    "two files of a split": (("train.json", "CUHK-train.json"), "may both be the train split"),
    "two names of val": (("val_reid.json", "valid_reid.json"), "may both be the val split in en"),
    "both kinds": (
        ("reid_raw.json", "train.json", "test.json"),
        "expected either a file of all splits or one",
    ),
    "two raw files": (
        ("reid_raw.json", "data_captions.json"),
        "has several annotation files; looked for one of",
    ),
    "two other files": (
        ("a.json", "b.json"),
        "has several annotation files; looked for one of reid_raw.json",
    ),
    "nothing": (("notes.md",), "has no annotations; looked for one of reid_raw.json, ICFG-PEDES.json"),
}


@pytest.mark.parametrize("case", AMBIGUOUS)
def test_a_folder_that_could_mean_two_things_is_refused_with_what_is_there(tmp_path: Path, case: str) -> None:
    names, said = AMBIGUOUS[case]
    for name in names:
        write(tmp_path / name, [item("a.jpg")])
    message = mistake(tmp_path)
    assert said in message
    assert all(name in message for name in names)


def test_a_file_of_one_split_with_records_of_another_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "train.json", [item("a.jpg", split="test")])
    assert "train.json': records of the test split, in the file of the train split" in mistake(tmp_path)


def test_a_missing_file_is_reported_with_what_is_there(tmp_path: Path) -> None:
    write(tmp_path / "data_captions.json", [])
    assert f"'{tmp_path}' holds data_captions.json" in mistake(tmp_path / "reid_raw.json")
    assert f"there is no folder '{tmp_path / 'no'}'" in mistake(tmp_path / "no" / "reid_raw.json")


@pytest.mark.parametrize("name", ["auto", *FORMATS, "another"])
def test_the_check_takes_the_formats_that_the_option_takes(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def is_known(read: Any) -> bool:
        try:
            return read() is not None and "expected auto or one of" not in capsys.readouterr().err
        except UserError:
            return False

    write(tmp_path / "a" / "test_reid.json", [])
    flags = [str(tmp_path / "a"), str(tmp_path), "--dataset", name, "--out", str(tmp_path / "out")]
    assert is_known(lambda: check(flags)) == is_known(lambda: load_options({}, [f"data.dataset={name}"]))
