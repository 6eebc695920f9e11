"""Rewritten captions (ICL): how every reader takes them, what is malformed, what becomes a sample's draw."""

import dataclasses
import itertools
import json
import logging
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from data.annotations import load_data
from data.check.__main__ import main as check
from data.datasets import Sample, TrainingSet
from data.formats import read_splits
from data.mixgen import mixgen
from data.readers.noise import with_noise
from data.types import Record
from options import UserError, load_options
from text_utils.augment import TextAugmentation

GROUPS = [["a tall man", "a man of height"], ["red shirt"], ["walking", "strolling", "on foot"]]
REWRITES = tuple(map(tuple, GROUPS))


def item(captions: Any = ("one man", "two men"), rewrites: Any = (GROUPS, []), **more: Any) -> dict[str, Any]:
    shared = {"id": 1, "split": "train", "captions": captions, "diversity_captions": rewrites}
    return {"file_path": "a.jpg", **shared, **more}


def read(path: Path, *items: dict[str, Any]) -> list[Record]:
    path.write_text(json.dumps(items))
    return read_splits(path, ["train"])["train"]["en"]


def test_rewrites_go_with_their_captions_also_where_records_of_an_image_are_joined(tmp_path: Path) -> None:
    path = tmp_path / "annotations.json"
    (record,) = read(path, item(), item(["three men"], None), item(["four men"], [GROUPS]))
    assert record.rewrites == (REWRITES, (), (), REWRITES)
    assert record.num_rewritten == 2
    (record,) = read(path, item(rewrites=None), item(["three men"], [[]]))
    assert record.rewrites == ()
    (record,) = read(path, item(rewrites=["a man on foot", None]))
    assert record.rewrites == ((("a man on foot",),), ()), "one text rewrites the whole caption"
    _, record = read(path, item(), item([], [], file_path="b.jpg"))
    assert record.rewrites == record.captions == ()


READ = {  # {a file's name: its lines or records of one captioned image}
    "reid_raw.json": [item()],
    "data_captions.json": [{**item(), "img_path": "a.jpg"}],
    "UFine6926_Annotations_1024.json": [item(file_path="train/1/a.jpg")],
    "table.json": [{"image": "a.jpg", "person_id": 1, "split": "train", "caption": item()["captions"]}],
    "row.json": [{"image": "a.jpg", "person_id": 1, "split": "train", "caption": "one man"}],
    "pab.jsonl": {"image": "train/a.jpg", "image_id": "1", "caption": "one man"},
    "pab_list.jsonl": {"image": "train/a.jpg", "image_id": "1", "caption": ["one man", "two men"]},
    "folder/train_reid.json": [item()],
}


@pytest.mark.parametrize("name", READ)
def test_every_format_with_records_of_captions_has_the_field(tmp_path: Path, name: str) -> None:
    path, content = tmp_path / name, READ[name]
    path.parent.mkdir(exist_ok=True)
    (row,) = [content] if isinstance(content, dict) else content
    alone = row.get("caption") == "one man"
    row = {**row, "diversity_captions": [GROUPS] if alone else [GROUPS, []]}
    path.write_text(json.dumps(row if isinstance(content, dict) else [row]))
    (record,) = read_splits(path.parent if "/" in name else path, ["train"])["train"]["en"]
    assert record.rewrites == ((REWRITES,) if alone else (REWRITES, ()))
    row["diversity_captions"] = [GROUPS] * 3
    path.write_text(json.dumps(row if isinstance(content, dict) else [row]))
    with pytest.raises(
        UserError, match=r"field 'diversity_captions' should pair with 'captions' \(\d\), found 3"
    ):
        read_splits(path.parent if "/" in name else path, ["train"])


@pytest.mark.parametrize(
    ("rewrites", "found"),
    [
        ("a man", "'a man'"),
        ([["a man"], []], "'a man'"),
        ([[[1]], []], "1"),
        ([[["a", ""]], []], "''"),
        ([[["a", " . "]], []], "' . '"),
        (["", []], "''"),
        ([[["a"], []], []], r"\[\]"),
        ([[["a"], "b"], []], "'b'"),
        ([[[["a"]]], []], r"\['a'\]"),
        ({"a": 1}, "{'a': 1}"),
        ([{"a": ["b"]}, []], "{'a': "),
        ([[["\ud800"]], []], r"'\\ud800'"),
        ([0, []], "0"),
    ],
)
def test_malformed_rewrites_name_the_record_and_the_field(tmp_path: Path, rewrites: Any, found: str) -> None:
    expected = "for each caption a list of groups, each a list of texts with words"
    message = rf"annotations.json' record 1: field 'diversity_captions' should hold {expected}, found {found}"
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path / "annotations.json", item(), item(rewrites=rewrites, file_path="b.jpg"))
    assert "\n" not in str(caught.value)


RECORD = Record("a.jpg", 1, ("one man", "two men"), ("1 man", "2 men"), "en", rewrites=(REWRITES, ()))
DRAWS = {
    " ".join(order)
    for first, last in itertools.product(REWRITES[0], REWRITES[2])
    for order in itertools.permutations((first, "red shirt", last))
}


def samples_of(*records: Record, **settings: Any) -> TrainingSet:
    return TrainingSet({"en": list(records)}, ".", None, (), **({"seed": 3, "rewritten": True} | settings))


def test_a_draw_joins_a_text_of_each_group_in_any_order_and_changes_no_other_draw() -> None:
    samples = samples_of(RECORD)
    drawn = [samples[epoch, 0].rewritten for epoch in range(300)]
    assert set(drawn) == DRAWS
    assert drawn == [samples[epoch, 0].rewritten for epoch in range(300)]
    assert samples[0, 1].rewritten == "two men", "there are no rewrites of it"
    plain = samples_of(RECORD, rewritten=False)
    assert [dataclasses.replace(samples[0, n], rewritten=None) for n in (0, 1)] == [plain[0, 0], plain[0, 1]]
    assert plain.choices.digest() != samples_of(dataclasses.replace(RECORD, rewrites=())).choices.digest()


def test_a_rewritten_caption_is_augmented_and_never_a_back_translation_of_the_caption() -> None:
    samples = samples_of(RECORD, augment_text=TextAugmentation("none", 0.0, 1.0))
    assert (samples[0, 0].caption, samples[0, 1].caption) == ("1 man", "2 men")
    assert samples[0, 0].rewritten in DRAWS
    assert samples[0, 1].rewritten == "2 men"
    shorter = samples_of(RECORD, augment_text=TextAugmentation("deletion", 0.9, 0.0))
    words = [len(shorter[epoch, 0].rewritten.split()) for epoch in range(20)]
    assert min(words) < min(len(draw.split()) for draw in DRAWS)


def test_one_drawn_language_has_its_own_rewrites() -> None:
    other = dataclasses.replace(
        RECORD, language="ch", captions=("一", "二"), rewrites=((("甲",),), (("乙",),))
    )
    samples = TrainingSet(
        {"en": [RECORD], "ch": [other]}, ".", None, (), language_draw="one", rewritten=True, augment_text=None
    )
    for epoch in range(20):
        sample = samples[epoch, 1]
        assert (sample.caption, sample.rewritten) in {("two men", "two men"), ("二", "乙")}


def test_an_exchanged_caption_takes_its_rewrites_along() -> None:
    records = [
        Record(f"{n}.jpg", n, (f"a {n}", f"b {n}"), (), "en", rewrites=(((f"rewritten a {n}",),), ()))
        for n in range(20)
    ]
    noisy = with_noise({"en": records}, 0.5, seed=0)["en"]
    assert any(any(record.noisy) for record in noisy)
    for record in noisy:
        for caption, groups in zip(record.captions, record.rewrites, strict=True):
            assert groups == (((f"rewritten {caption}",),) if caption.startswith("a") else ())
    assert [record.image for record in noisy] == [record.image for record in records]


def test_joined_pairs_have_both_rewritten_captions() -> None:
    samples = [Sample({"view1": torch.zeros(3, 2, 2)}, t, 0, 0, rewritten=f"{t} again") for t in ("a", "b")]
    mixed = mixgen(samples, random.Random(0), "ori", p=1.0, ratio=0.5)
    assert [(each.caption, each.rewritten) for each in mixed] == [
        ("a b", "a again b again"),
        ("b", "b again"),
    ]


@pytest.fixture
def rewritten(people: Path, tmp_path: Path) -> Path:
    """The annotations of `people`, where the first caption of each training image in English has rewrites."""
    folder = tmp_path / "annotations"
    folder.mkdir()
    for path in people.glob("*_reid_*.json"):
        records = json.loads(path.read_text(encoding="utf-8"))
        for record in records if path.name == "train_reid_en.json" else ():
            record["diversity_captions"] = [GROUPS, *([] for _ in record["captions"][1:])]
        (folder / path.name).write_text(json.dumps(records), encoding="utf-8")
    return folder


def load(people: Path, annotations: Path, *overrides: str) -> int:
    """The number of captions that have rewrites among those to train on."""
    place = [f"data.annotation_file={annotations}", f"data.image_root={people}/imgs"]
    options = load_options("config/s.config.yaml", [*place, "experiment.rewrites=true", *overrides])
    return sum(each.num_rewritten for records in load_data(options).train.values() for each in records)


@pytest.mark.parametrize(
    ("overrides", "number", "total"),
    [
        ([], 20, 40),
        (["data.languages=[en,ch]"], 20, 80),
        (["data.few_shot=0.5"], 10, 20),
        (["data.noise=0.5"], 20, 40),
    ],
)
def test_captions_without_rewrites_are_counted(
    people: Path,
    rewritten: Path,
    caplog: pytest.LogCaptureFixture,
    overrides: list[str],
    number: int,
    total: int,
) -> None:
    caplog.set_level(logging.WARNING)
    assert load(people, rewritten, *overrides) == number
    (said,) = [message for message in caplog.messages if message.startswith("experiment.rewrites: ")]
    assert f"{total - number} of {total} training captions have no rewrites ('diversity_captions')" in said


@pytest.mark.parametrize("languages", ["[en]", "[ch]"])
def test_annotations_without_rewrites_are_refused(people: Path, rewritten: Path, languages: str) -> None:
    annotations = people if languages == "[en]" else rewritten
    with pytest.raises(
        UserError, match=r"^experiment.rewrites: no training caption of '.*' has rewrites; "
    ) as e:
        load(people, annotations, f"data.languages={languages}")
    assert "expected the field 'diversity_captions'" in str(e.value)


def test_data_check_counts_captions_with_rewrites_groups_and_texts(
    people: Path, rewritten: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(rewritten), f"{people}/imgs", "--out", str(tmp_path / "check")]
    assert check(arguments) == 0
    assert "captions with rewrites: 20, with 60 groups of 120 texts\n" in capsys.readouterr().out
    findings = (tmp_path / "check" / "findings.txt").read_text()
    assert "captions without rewrites beside ones that have them" in findings
    assert "train en: 20 of 40" in findings
    path = rewritten / "train_reid_en.json"
    records = json.loads(path.read_text())
    records[3]["diversity_captions"] = [GROUPS] * 5
    records[4]["diversity_captions"] = [[["", "a man"]]]
    path.write_text(json.dumps(records))
    assert check(arguments) == 2
    findings = (tmp_path / "check" / "findings.txt").read_text()
    assert "record 3: field 'diversity_captions' should pair with 'captions' (2), found 5" in findings
    assert "record 4: field 'diversity_captions' should hold" in findings
