"""Sets made for pretraining: small files of the layouts of their releases, whole and damaged."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data.formats import read_splits, reader_of
from data.readers.web_captions import fault_of
from data.records import DROPPED
from data.types import FORMATS, Record
from options import UserError

LUPERSON_T = [
    {"file_path": "0001.jpg", "captions": ["A man in red.", "He walks."]},
    {"file_path": "0002.jpg", "captions": ["A woman."]},
]
MLLM = [
    {"a/b/1.jpg": "A man.", "a/b/2.jpg": "A woman in blue."},
    {"c/1.jpg": "He has a bag.", "c/3.jpg": "A child."},
]
MALS = [
    {
        "image": f"gene_crop/c_g_a_0/{n}.jpg",
        "caption": f"Person {n}.",
        "image_id": f"c_g_a_0_{n}",
        "label": [1, 0, -1] * 9,
    }
    for n in range(3)
]
SYNTH = [
    {
        "id": 7,
        "file_path": f"Part1/7/{n}.jpg",
        "attributes": ["man,red"],
        "captions": ["a man", f"him {n}"],
        "prompt_caption": ["a photo"],
    }
    for n in (1, 2)
]
HAM = {"Part1/7/1.jpg": ["a man", "red"], "Part2/9/1.jpg": ["a woman", "blue"]}
WEB = [{"0/1.jpg": {"caption1": "a man", "caption2": "red"}}, {"0/2.jpg": {"caption1": "x", "caption2": "y"}}]


def record(image: str, person: int, *captions: str) -> Record:
    return Record(image, person, captions, (), "en")


SETS: dict[str, tuple[list[Any], list[Record]]] = {
    "luperson-t": (
        [LUPERSON_T],
        [record("0001.jpg", 0, "A man in red.", "He walks."), record("0002.jpg", 1, "A woman.")],
    ),
    "luperson-mllm": (
        MLLM,
        [
            record("1.jpg", 0, "A man.", "He has a bag."),
            record("2.jpg", 1, "A woman in blue."),
            record("3.jpg", 2, "A child."),
        ],
    ),
    "mals": (
        [MALS[:2], MALS[2:]],
        [record(f"gene_crop/c_g_a_0/{n}.jpg", n, f"Person {n}.") for n in range(3)],
    ),
    "synth-pedes": ([SYNTH], [record(f"Part1/7/{n}.jpg", 7, "a man", f"him {n}") for n in (1, 2)]),
    "ham-pedes": (
        [HAM],
        [record("Part1/7/1.jpg", 0, "a man", "red"), record("Part2/9/1.jpg", 1, "a woman", "blue")],
    ),
    "webperson": ([WEB], [record("0/1.jpg", 0, "a man", "red"), record("0/2.jpg", 1, "x", "y")]),
}


def write(folder: Path, *documents: Any) -> Path:
    folder.mkdir(exist_ok=True)
    for number, document in enumerate(documents):
        text = document if isinstance(document, str) else json.dumps(document)
        (folder / f"part{number}.json").write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize("dataset", ["auto", "own"])
@pytest.mark.parametrize("name", SETS)
def test_a_set_is_recognised_by_its_content_and_all_of_it_is_training(
    name: str, dataset: str, tmp_path: Path
) -> None:
    documents, expected = SETS[name]
    folder = write(tmp_path / "a", *documents)
    for path in (folder, folder / "part0.json") if len(documents) == 1 else (folder,):
        found = read_splits(path, dataset=name if dataset == "own" else "auto")
        assert found == {"train": {"en": expected}, "val": {}, "test": {}}
        assert read_splits(path, ["test"]) == {"test": {}}
    with pytest.raises(UserError, match=r"data\.languages: 'ch' is not in"):
        read_splits(folder, languages=["ch"])


OTHERS = {  # older formats, as they begin: their names, and those of formats that look the same
    "cuhk-pedes": [{"split": "train", "captions": ["a man"], "file_path": "1.jpg", "id": 1}],
    "ufine6926": [{"split": "train", "id": 1, "file_path": "1.jpg", "captions": ["a", "b"], "source": "x"}],
    "rstpreid": [{"id": 0, "img_path": "0.jpg", "captions": ["a man"], "split": "train"}],
    "pab": '{"image": "train/1.jpg", "caption": "a man", "image_id": "1"}\n',
    "table": [{"image": "1.jpg", "person_id": 3, "caption": "a man"}],
    "lines": '{"image": "1.jpg", "person_id": 3, "caption": "a man"}\n',
    "csv": "image,person_id,caption\n1.jpg,3,a man\n",
    "reid": [{"file_path": "1.jpg", "id": 3, "captions": ["a man"]}],
    "nothing": {"1.jpg": 3, "x": ["a"]},
    "records": {"images": ["1.jpg"], "captions": ["a man"]},
}


@pytest.mark.parametrize("name", [*SETS, *OTHERS])
def test_no_set_is_mistaken_for_another(name: str, tmp_path: Path) -> None:
    documents = SETS[name][0] if name in SETS else [OTHERS[name]]
    folder = write(tmp_path / "a", *documents)
    for path in (folder, *folder.iterdir()):
        content = b"" if path == folder else path.read_bytes()
        found = [kind for kind, form in FORMATS.items() if reader_of(form).recognises(path, content, form)]
        if name in SETS:
            assert found[0] == name
        assert not (found and found[0] in SETS.keys() - {name})
        assert "arrow" not in found


def test_captions_that_are_none_are_dropped_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = {
        "refusals": [
            "I'm sorry, I cannot describe people.",
            "Unfortunately, I can’t see him.",
            "As an AI, no",
            "I DO NOT SEE a person",
            "Please provide an image",
        ],
        "tags": ["A man <image> walks", "<s>a man", "[INST] a man"],
        "literal escapes": [r"A man.\nHe walks", "A man./nHe walks", r"a \"red\" coat"],
        "blanks": ["", " . "],
        "endless": ["a man " * 5000],
    }
    right = [
        "A man with i < 3 bags",
        "He can't be seen from behind",
        "A shirt with the words I am",
        "a white/navy coat",
        "The woman is sorry-looking",
    ]
    assert {text: fault_of(text) for texts in wrong.values() for text in texts} == {
        text: name for name, texts in wrong.items() for text in texts
    }
    assert [fault_of(text) for text in right] == [None] * len(right)
    items = [{"file_path": f"{n}.jpg", "captions": texts} for n, texts in enumerate([*wrong.values(), right])]
    found = read_splits(write(tmp_path / "a", items))["train"]["en"]
    assert [record.captions for record in found] == [(), (), (), (), (), tuple(right)]
    counts = "5 refusals, 3 tags, 3 literal escapes, 2 blanks, 1 endless"
    assert f"dropped 14 of 19 captions that are none: {counts}" in caplog.text
    heard: list[tuple[str, str]] = []
    assert read_splits(tmp_path / "a", report=lambda *fault: heard.append(fault))["train"]["en"] == found
    assert len(heard) == 14
    assert heard[0] == (DROPPED, f"refusals: '{tmp_path}/a/part0.json' record 0: {wrong['refusals'][0]!r}")


def test_an_image_that_an_object_names_twice_keeps_all_its_captions(tmp_path: Path) -> None:
    path = write(tmp_path / "a", '{"1.jpg": "a man", "2.jpg": "x", "1.jpg": "him"}')
    assert read_splits(path)["train"]["en"] == [record("1.jpg", 0, "a man", "him"), record("2.jpg", 1, "x")]


@pytest.mark.parametrize("name", SETS)
def test_a_file_that_was_cut_short_is_one_line(name: str, tmp_path: Path) -> None:
    documents, _ = SETS[name]
    text = json.dumps(documents[0])
    for end in (len(text) - 1, len(text) * 2 // 3, 0):
        for others in ([], documents):
            path = write(tmp_path / f"{end}{len(others)}", *others, text[:end])
            with pytest.raises(UserError, match=r"part\d.json' is not JSON \(") as caught:
                read_splits(path, dataset=name)
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "document", "message"),
    [
        ("luperson-t", [*LUPERSON_T, {"file_path": "3.jpg"}], "record 2: no field 'captions'"),
        ("luperson-t", [*LUPERSON_T, {"captions": ["a"]}], "record 2: no field 'file_path'"),
        (
            "luperson-t",
            [*LUPERSON_T, {"file_path": ["x"], "captions": [3]}],
            "2: field 'file_path' should",
        ),
        ("luperson-t", [*LUPERSON_T, "x"], "record 2: expected fields and values, found 'x'"),
        ("luperson-mllm", {"1.jpg": "A man.", "2.jpg": 3}, "'2.jpg': field 'captions' should be a list"),
        (
            "luperson-mllm",
            {"1.jpg": "A man.", "2.jpg": {"x": 1}},
            "'2.jpg': field 'captions' should be a list",
        ),
        (
            "mals",
            [*MALS, {**MALS[0], "caption": None}],
            "3: field 'captions' should be a list of texts",
        ),
        ("synth-pedes", [*SYNTH, {**SYNTH[0], "id": "7"}], "record 2: field 'id' should be a whole number"),
        ("synth-pedes", [*SYNTH, {**SYNTH[0], "id": None}], "record 2: field 'id' should be a whole number"),
        (
            "ham-pedes",
            HAM | {"1\n\udc00.jpg": ["a"]},
            r"image '1\n\udc00.jpg': field 'image'",
        ),
        ("ham-pedes", HAM | {"../1.jpg": ["a"]}, "should be a path below data.image_root, found '../1.jpg'"),
        ("webperson", [*WEB, {"3.jpg": "a man"}], "record 2: field 'captions' should be a list of texts"),
    ],
)
def test_a_malformed_record_is_named(name: str, document: Any, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a", document)
    with pytest.raises(UserError) as caught:
        read_splits(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    heard: list[str] = []
    found = read_splits(path, report=lambda kind, text: heard.append(text))
    assert len(heard) == 1
    expected = SETS[name][1][: 1 if name == "luperson-mllm" else None]
    assert [replace(each, captions=each.captions[:1]) for each in found["train"]["en"]] == [
        replace(each, captions=each.captions[:1]) for each in expected
    ]


def test_files_of_different_sets_in_one_folder_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a", LUPERSON_T, MALS)
    with pytest.raises(UserError, match=r"part1.json' begins as a file of mals does; expected one of lup"):
        read_splits(path)
    for wrong in ([], {}, 3, [{"captions": ["x"]}], {"1.jpg": 3}):
        with pytest.raises(UserError, match=r"part1.json' begins with .*; expected one of luperson-t"):
            read_splits(write(tmp_path / "a", LUPERSON_T, wrong))


def test_an_image_that_is_listed_again_is_one_image(tmp_path: Path) -> None:
    (found,) = read_splits(write(tmp_path / "a", MALS[:1], MALS[:1]))["train"]["en"]
    assert found == record("gene_crop/c_g_a_0/0.jpg", 0, "Person 0.", "Person 0.")
