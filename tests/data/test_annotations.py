"""The annotation formats, and what is said about malformed ones."""

import dataclasses
import json
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

from data.annotations import check_images, load_data, missing_images, read_splits
from data.columns.records import Records
from data.columns.splits import Splits
from data.formats import reader_of
from data.types import FORMATS, Format, Record
from options import DataOptions, Options, UserError, load_options

Item = dict[str, Any]


def item(split: str | None = "train", image: str = "cam_a/1.jpg", person_id: Any = 1, **fields: Any) -> Item:
    fields = {"file_path": image, "id": person_id, "captions": ["a man", "a tall man"], **fields}
    return fields if split is None else {"split": split, **fields}


def write(path: Path, items: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(items, ensure_ascii=False)
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    return path


def record(language: str = "en", **changes: Any) -> Record:
    fields = {
        "image": "cam_a/1.jpg",
        "person_id": 1,
        "captions": ("a man", "a tall man"),
        "back_translations": (),
    }
    return Record(**{**fields, "language": language, **changes})


def test_splits_may_be_capitalised(tmp_path: Path) -> None:
    found = read_splits(write(tmp_path / "a.json", [item("Train"), item("TEST"), item("Val")]))
    assert [len(found[split]["en"]) for split in ("train", "val", "test")] == [1, 1, 1]


def test_only_the_splits_asked_for_are_read(tmp_path: Path) -> None:
    file = write(tmp_path / "a.json", [item("train", captions=[]), item("test")])
    assert list(read_splits(file, ("test",))) == ["test"]
    write(tmp_path / "b" / "train_reid.json", "broken")
    write(tmp_path / "b" / "test_reid.json", [item(None)])
    assert read_splits(tmp_path / "b", ("test",)) == {"test": {"en": [record()]}}


def test_a_curated_folder_pairs_back_translations_with_captions(tmp_path: Path) -> None:
    write(tmp_path / "train_reid.json", [item(None, captions_bt=["a person", " "])])
    write(tmp_path / "test_reid.json", [item(None, captions_bt=[])])
    found = read_splits(tmp_path)
    assert found["train"] == {"en": [record(back_translations=("a person", ""))]}
    assert found["test"] == {"en": [record()]}
    assert found["val"] == {}


def test_a_multilingual_folder_gives_the_languages_asked_for_in_order(tmp_path: Path) -> None:
    for language, caption in [("en", "a man"), ("ch", "男人"), ("de", "ein Mann")]:
        write(tmp_path / f"test_reid_{language}.json", [item(None, captions=[caption])])
    found = read_splits(tmp_path, ("test",), ("de", "ch"))["test"]
    assert list(found) == ["de", "ch"]
    assert found["ch"] == [record("ch", captions=("男人",))]


def test_the_file_of_a_language_comes_before_the_curated_one(tmp_path: Path) -> None:
    write(tmp_path / "test_reid.json", [item(None, captions=["curated"])])
    write(tmp_path / "test_reid_ch.json", [item(None)])

    def english(dataset: str) -> str:
        return read_splits(tmp_path, ("test",), ("en",), dataset)["test"]["en"][0].captions[0]

    assert english("auto") == english("curated") == "curated"
    write(tmp_path / "test_reid_en.json", [item(None, captions=["language file"])])
    assert english("auto") == english("multilingual") == "language file"
    assert english("curated") == "curated"


@pytest.mark.parametrize("file", ["ch", "zh"])
@pytest.mark.parametrize("wanted", ["ch", "zh"])
def test_zh_and_ch_both_name_chinese_which_results_call_ch(tmp_path: Path, file: str, wanted: str) -> None:
    for language in ("en", file):
        write(tmp_path / f"test_reid_{language}.json", [item(None)])
    assert read_splits(tmp_path, ("test",), ("en", wanted))["test"] == {
        "en": [record("en")],
        "ch": [record("ch")],
    }
    assert list(read_splits(tmp_path, ("test",), None)["test"]) == ["en", "ch"]
    assert list(read_splits(tmp_path, ("test",), ("zh", "ch"))["test"]) == ["ch"]


def test_the_choices_of_the_option_are_the_formats_and_each_has_a_reader(tmp_path: Path) -> None:
    """`data.types.FORMATS` is the only list."""
    for name, form in FORMATS.items():
        assert load_options({}, [f"data.dataset={name}"]).data.dataset == name
        assert {"recognises", "read"} <= set(vars(reader_of(form)))
    with pytest.raises(UserError, match=", ".join(FORMATS)):
        load_options({}, ["data.dataset=another"])


def test_a_format_in_the_registry_is_detected_read_and_forced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new format is a module and an entry: here lines such as `test 1 a.jpg a man`."""
    reader = ModuleType("data_lines")
    reader.recognises = lambda path, content, form: content.startswith(b"lines\n")

    def read(path: Path, content: bytes, form: Format, splits: Any, languages: Any, report: Any) -> Any:
        found = {split: {"en": []} for split in splits}
        for line in content.decode().splitlines()[1:]:
            split, person_id, image, caption = line.split(maxsplit=3)
            found[split]["en"].append(Record(image, int(person_id), (caption,), (), "en"))
        return found

    reader.read = read
    monkeypatch.setitem(sys.modules, "data.readers.data_lines", reader)
    monkeypatch.setitem(FORMATS, "lines", Format("data_lines"))
    (tmp_path / "a.txt").write_text("lines\ntest 1 a.jpg a man\n")
    for dataset in ("auto", "lines"):
        found = read_splits(tmp_path / "a.txt", ["test"], dataset=dataset)
        assert found == {"test": {"en": [record(image="a.jpg", captions=("a man",))]}}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_a_file_is_detected_in_every_encoding_of_json(tmp_path: Path, encoding: str) -> None:
    items = [{"split": "test", "img_path": "cam_a/1.jpg", "id": 1, "captions": ["a man", "a tall man"]}]
    (tmp_path / "a.json").write_text(json.dumps(items), encoding=encoding)
    assert read_splits(tmp_path / "a.json")["test"] == {"en": [record()]}


MALFORMED: list[tuple[str, Any, str]] = [
    ("no list", {"a": 1}, "a list of records, found a dict"),
    ("empty", [], "a list of records, found an empty list"),
    ("record no dict", [item(), "text"], "record 1: expected fields and values, found 'text'"),
    ("no split", [item(None)], "no field 'split' in its records (files of one split"),
    ("odd split", [item("query")], "field 'split' should be train, val or test, found 'query'"),
    ("split no text", [item(1)], "field 'split' should be a text, found 1"),
    (
        "no image",
        [{"split": "train", "id": 1, "captions": ["a"]}],
        "no field 'file_path'; it has split, id, captions",
    ),
    ("image no text", [item(image=3)], "field 'file_path' should be a text, found 3"),
    ("image outside", [item(image="a/../../b.jpg")], "found 'a/../../b.jpg'"),
    ("image outside on Windows", [item(image="..\\b.jpg")], "field 'file_path' should be a path below"),
    (
        "surrogate in an image",
        [item(image="\ud800.jpg")],
        r"field 'file_path' should be a text, found '\ud800",
    ),
    (
        "surrogate in a caption",
        [item(captions=["a \udc80"])],
        r"a list of texts, found 'a \udc80' in it",
    ),
    (
        "endless id",
        [item(person_id=10**4000)],
        "less than 2**63, found 1000000000000000000000000000000000000000",
    ),
    ("blank image", [item(image=" ")], "field 'file_path' should be a path below"),
    ("id of true", [item(person_id=True)], "field 'id' should be a whole number, found True"),
    ("id of 1.0", [item(person_id=1.0)], "field 'id' should be a whole number, found 1.0"),
    ("id of text", [item(person_id="1")], "field 'id' should be a whole number, found '1'"),
    (
        "id of more than 64 bits",
        [item(person_id=2**63)],
        "field 'id' should be a person id of less than 2**63",
    ),
    ("id below 0", [item(person_id=-2)], "should be a person id of at least 0, or -1 for nobody, found -2"),
    (
        "captions a text",
        [item(captions="a man")],
        "field 'captions' should be a list of texts, found 'a man'",
    ),
    (
        "caption no text",
        [item(captions=["a", None])],
        "field 'captions' should be a list of texts, found None in it",
    ),
    (
        "no captions",
        [item(captions=[])],
        "train split: no image has a caption in en",
    ),
    ("blank caption", [item(captions=["a", " \n"])], "captions with words, found the caption ' \\n'"),
    ("marks alone", [item(captions=["..."])], "captions with words, found the caption '...'"),
    ("unpaired", [item(captions_bt=["a"])], "field 'captions_bt' should pair with 'captions' (2), found 1"),
    ("back no list", [item(captions_bt="a")], "field 'captions_bt' should be a list of texts"),
]


@pytest.mark.parametrize(("items", "words"), [m[1:] for m in MALFORMED], ids=[m[0] for m in MALFORMED])
def test_malformed_annotations_name_file_record_and_field_in_one_line(
    tmp_path: Path, items: Any, words: str
) -> None:
    file = write(tmp_path / "reid_raw.json", items)
    with pytest.raises(UserError) as caught:
        read_splits(file)
    message = str(caught.value)
    assert words in message
    assert f"'{file}'" in message
    assert "\n" not in message


@pytest.mark.parametrize("content", [b"", b"[{", b"\xff\xfe\xfa", b"[" * 100_000])
def test_what_is_not_json_is_said_to_be_so(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=r"annotation_file: '.*a.json' is not JSON \([^\n]*\)[^\n]*$"):
        read_splits(tmp_path / "a.json")


def test_a_missing_annotation_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"annotation_file: no file or folder '.*gone.json'"):
        read_splits(tmp_path / "gone.json")


def test_a_language_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    write(tmp_path / "train_reid_ch.json", [item(None)])
    write(tmp_path / "train_reid.json", [item(None)])
    with pytest.raises(UserError, match=r"languages: 'fr' is missing in the train split of .* found ch, en"):
        read_splits(tmp_path, languages=("en", "fr"))
    with pytest.raises(UserError, match=r"languages: 'fr' is not in '.*a.json', which has only en"):
        read_splits(write(tmp_path / "a.json", [item()]), languages=("en", "fr"))


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ([item(None)], "image '2.jpg' of person 2 is in en, but not in de"),
        (
            [item(None), item(None, image="3.jpg", person_id=2)],
            "image '2.jpg' of person 2 is in en, but not in de",
        ),
        (
            [item(None), item(None, image="2.jpg", person_id=3)],
            "image '2.jpg' of person 2 is in en, but not in de",
        ),
        (
            [item(None), item(None, image="2.jpg", person_id=2), item(None, image="3.jpg")],
            "image '3.jpg' of person 1 is in de, but not in en",
        ),
    ],
)
def test_languages_that_are_not_aligned_are_refused(tmp_path: Path, other: list[Item], words: str) -> None:
    write(tmp_path / "train_reid_en.json", [item(None), item(None, image="2.jpg", person_id=2)])
    write(tmp_path / "train_reid_de.json", other)
    with pytest.raises(UserError, match=f"'{tmp_path}', train split: {words}"):
        read_splits(tmp_path, ("train",), ("en", "de"))


@pytest.mark.parametrize(("folder", "dataset"), [(True, "multilingual"), (False, "curated")])
def test_a_forced_format_that_does_not_fit_is_said(tmp_path: Path, folder: bool, dataset: str) -> None:
    path = write(tmp_path / "a.json", [item()])
    said = (
        f"data.dataset={dataset} is a folder" if not folder else "expected files such as .*; .* holds a.json"
    )
    with pytest.raises(UserError, match=said):
        read_splits(tmp_path if folder else path, dataset=dataset)


def look_for(root: Path, *images: str) -> None:
    splits = Splits({"en": Records.of((record(image=image) for image in images), "en")}, {}, {})
    check_images(splits, DataOptions("reid_raw.json", str(root)))


def test_missing_images_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    for name in ("a.jpg", "cam/b.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    images = ("a.jpg", "cam/b.jpg", "cam/c.jpg", "other/a.jpg", "cam/c.jpg")
    look_for(tmp_path, *images[:2])
    with pytest.raises(UserError) as caught:
        look_for(tmp_path, *images)
    assert str(caught.value) == (
        "data.annotation_file: 'reid_raw.json' lists 2 images that are not under data.image_root "
        f"'{tmp_path}' (first: 'cam/c.jpg'). Check the root, or the download"
    )
    with pytest.raises(UserError, match=r"data.image_root: no folder '.*nowhere'"):
        look_for(tmp_path / "nowhere", *images)


def test_images_below_names_too_long_or_closed_folders_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="lists 1 images that are not under"):
        look_for(tmp_path, "a" * 300 + "/b.jpg")

    def refuse(folder: Path) -> list[str]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"data.image_root: '.*' cannot be read \(Permission denied\)"):
        look_for(tmp_path, "a.jpg")


def test_what_is_no_file_is_missing_and_a_link_to_a_file_is_not(tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    for name, target in {"link.jpg": "there", "dangling.jpg": "nowhere", "loop.jpg": "loop.jpg"}.items():
        (tmp_path / name).symlink_to(target)
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    names = ("there", "link.jpg", "dangling.jpg", "loop.jpg", "folder.jpg", "pipe.jpg")
    assert missing_images(names, tmp_path) == list(names[2:])


def options(tmp_path: Path, items: list[Item]) -> Options:
    for entry in items:
        Image.new("RGB", (4, 8)).save(tmp_path / entry["file_path"])
    data = DataOptions(annotation_file=str(write(tmp_path / "a.json", items)), image_root=str(tmp_path))
    return dataclasses.replace(Options(), data=data)


def test_data_is_loaded_with_its_number_of_persons(tmp_path: Path) -> None:
    items = [item("train", f"{n}.jpg", n // 2 + 5) for n in range(6)] + [item("test", "9.jpg", 9)]
    splits = load_data(options(tmp_path, items))
    assert splits.num_identities == 3
    assert [len(splits.train["en"]), len(splits.test["en"]), splits.val] == [6, 1, {}]


def test_evaluation_alone_reads_no_training_data(tmp_path: Path) -> None:
    opened = options(tmp_path, [item("test", "1.jpg"), item("train", "2.jpg")])
    (tmp_path / "2.jpg").unlink()
    splits = load_data(opened, ["test"])
    assert splits.train == {}
    assert splits.num_identities == 0
    with pytest.raises(UserError, match="lists 1 images"):
        load_data(opened)


@pytest.mark.parametrize("missing", ["train", "test"])
def test_a_split_that_is_needed_and_not_there_is_named(tmp_path: Path, missing: str) -> None:
    there = "test" if missing == "train" else "train"
    with pytest.raises(UserError, match=f"annotation_file: '.*' has no {missing} split"):
        load_data(options(tmp_path, [item(there, "1.jpg")]))


def raw_cuhk(root: Path) -> tuple[Path, list[str]]:
    items = [
        item("train", "cam_a/1.bmp", 1, captions=["a", "b", "c", "d"], processed_tokens=[["a"]] * 4),
        item("Val", "CUHK01/2.png", 2),
        item("test", "Market/3.jpg", 11003),
        item("train", "cam_a/4.bmp", 1),
    ]
    return write(root / "reid_raw.json", items), [entry["file_path"] for entry in items]


def raw_icfg(root: Path) -> tuple[Path, list[str]]:
    items = [
        item("train", "test/0/1.jpg", 0, captions=["one"]),
        item("test", "train/7/2.jpg", 4101, captions=["two"]),
    ]
    return write(root / "ICFG_PEDES.json", items), [entry["file_path"] for entry in items]


def raw_rstpreid(root: Path) -> tuple[Path, list[str]]:
    names = ["0000_c1_0004.jpg", "3701_c5_0011.jpg", "3901_c14_0027.jpg"]
    items = [
        {"id": person_id, "img_path": name, "captions": ["a man", "a tall man"], "split": split}
        for name, person_id, split in zip(names, (0, 3701, 3901), ("train", "val", "test"), strict=True)
    ]
    return write(root / "data_captions.json", items), names


@pytest.mark.parametrize("is_named", [False, True])
@pytest.mark.parametrize(
    ("dataset", "raw", "meant"),
    [
        (
            "cuhk-pedes",
            raw_cuhk,
            {
                "train": [
                    record(image="cam_a/1.bmp", captions=("a", "b", "c", "d")),
                    record(image="cam_a/4.bmp"),
                ],
                "val": [record(image="CUHK01/2.png", person_id=2)],
                "test": [record(image="Market/3.jpg", person_id=11003)],
            },
        ),
        (
            "icfg-pedes",
            raw_icfg,
            {
                "train": [record(image="test/0/1.jpg", person_id=0, captions=("one",))],
                "test": [record(image="train/7/2.jpg", person_id=4101, captions=("two",))],
            },
        ),
        (
            "rstpreid",
            raw_rstpreid,
            {
                "train": [record(image="0000_c1_0004.jpg", person_id=0)],
                "val": [record(image="3701_c5_0011.jpg", person_id=3701)],
                "test": [record(image="3901_c14_0027.jpg", person_id=3901)],
            },
        ),
    ],
)
def test_a_raw_download_is_loaded_as_it_is(
    tmp_path: Path,
    dataset: str,
    raw: Any,
    meant: dict[str, list[Record]],
    is_named: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    file, images = raw(tmp_path)
    for image in images:
        (tmp_path / "imgs" / image).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 8)).save(tmp_path / "imgs" / image)
    settings = {"annotation_file": str(file), "image_root": str(tmp_path / "imgs")}
    data = DataOptions(**settings, dataset=dataset if is_named else "auto")
    splits = load_data(dataclasses.replace(Options(), data=data))
    for split in ("train", "val", "test"):
        assert getattr(splits, split) == ({"en": meant[split]} if split in meant else {})
    assert "back-translation is off" in caplog.text


@pytest.mark.parametrize(
    ("name", "annotations"),
    [("cuhk-pedes", "reid_raw.json"), ("icfg-pedes", "ICFG-PEDES.json"), ("rstpreid", "data_captions.json")],
)
def test_each_benchmark_has_a_config_of_the_full_recipe(name: str, annotations: str) -> None:
    options, full = load_options(f"config/{name}.yaml"), load_options("config/config.yaml")
    assert Path(options.data.annotation_file).name == annotations
    assert Path(options.data.image_root).parent == Path(options.data.annotation_file).parent
    assert options.data.dataset == name
    assert options.output.dir == f"runs/{name}"
    changed = {f.name for f in dataclasses.fields(full) if getattr(options, f.name) != getattr(full, f.name)}
    assert changed <= {"data", "output"}


def test_back_translation_is_not_called_off_where_there_is_some_or_none_is_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    items = [item("train", "1.jpg", captions_bt=["", "a tall person"]), item("test", "2.jpg", 2)]
    load_data(options(tmp_path, items))
    none = options(tmp_path, [item("train", "1.jpg"), item("test", "2.jpg", 2)])
    load_data(dataclasses.replace(none, experiment=dataclasses.replace(none.experiment, back_trans=False)))
    load_data(none, ["test"])
    assert "back-translation" not in caplog.text
    load_data(none)
    assert caplog.text.count("back-translation is off") == 1


def test_a_path_with_backslashes_is_one_with_slashes(tmp_path: Path) -> None:
    file = write(tmp_path / "a.json", [item("test", image="cam\\1.jpg")])
    assert read_splits(file)["test"]["en"][0].image == "cam/1.jpg"


def test_persons_of_both_train_and_test_are_warned_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load_data(options(tmp_path, [item("train", "1.jpg"), item("test", "2.jpg")]))
    assert "1 persons are in both train and test" in caplog.text
