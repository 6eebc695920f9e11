"""Few-shot training: which part of the training split is used."""

import dataclasses
import json
import logging
from pathlib import Path

import pytest
from PIL import Image

from data.annotations import few_shot_rows, load_data
from data.columns.splits import Splits
from options import DataOptions, MiscOptions, Options

PERSONS = [30, 10, 10, 20, 30, 30, 40, 10, 50, 50]


@pytest.mark.parametrize("by", ["images", "identities"])
def test_rows_keep_their_order_and_none_comes_twice(by: str) -> None:
    for seed in range(20):
        rows = few_shot_rows(PERSONS, 0.5, by, seed)
        assert rows == sorted(set(rows))


@pytest.mark.parametrize(("share", "num"), [(0.001, 1), (0.1, 10), (0.055, 6), (0.5, 50), (1.0, 100)])
def test_a_share_of_the_images_is_kept_at_least_one(share: float, num: int) -> None:
    assert len(few_shot_rows([0] * 100, share, "images", seed=3)) == num


def test_identities_are_kept_with_all_their_images() -> None:
    kept = set()
    for seed in range(50):
        rows = few_shot_rows(PERSONS, 0.4, "identities", seed)
        persons = {PERSONS[row] for row in rows}
        assert len(persons) == 2  # of five
        assert rows == [row for row, person in enumerate(PERSONS) if person in persons]
        kept |= persons
    assert kept == set(PERSONS)
    assert {PERSONS[row] for row in few_shot_rows(PERSONS, 0.01, "identities", 0)} < set(PERSONS)


@pytest.mark.parametrize("by", ["images", "identities"])
def test_the_seed_decides_and_a_larger_share_holds_the_smaller_one(by: str) -> None:
    persons = list(range(200))
    one, five, ten = (set(few_shot_rows(persons, share, by, seed=1)) for share in (0.01, 0.05, 0.1))
    assert one < five < ten
    assert five == set(few_shot_rows(persons, 0.05, by, seed=1))
    assert len(five & set(few_shot_rows(persons, 0.05, by, seed=2))) < 8


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    """A folder of two languages, 20 images of 10 persons to train on."""
    (tmp_path / "imgs").mkdir()
    for number in range(22):
        Image.new("RGB", (4, 8)).save(tmp_path / f"imgs/{number}.png")
    for split, numbers in (("train", range(20)), ("test", range(20, 22))):
        for language in ("en", "ch"):
            items = [
                {"file_path": f"{n}.png", "id": n // 2, "captions": [f"{language} {n}"]} for n in numbers
            ]
            (tmp_path / f"{split}_reid_{language}.json").write_text(json.dumps(items), encoding="utf-8")
    return tmp_path


def load(folder: Path, seed: int = 0, **settings: object) -> Splits:
    data = DataOptions(
        annotation_file=str(folder), image_root=str(folder / "imgs"), languages=("en", "ch"), **settings
    )
    return load_data(dataclasses.replace(Options(), data=data, misc=MiscOptions(seed=seed)))


def images(splits: Splits, language: str) -> list[str]:
    return [record.image for record in splits.train[language]]


def test_languages_stay_aligned_and_the_test_split_whole(
    annotations: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    few = load(annotations, few_shot=0.25)
    assert len(images(few, "en")) == 5
    assert images(few, "en") == images(few, "ch")
    assert [record.captions[0][:2] for record in few.train["ch"]] == ["ch"] * 5
    assert len(few.test["en"]) == 2
    persons = {record.person_id for record in few.train["en"]}
    assert few.num_identities == len(persons)
    lines = [record.getMessage() for record in caplog.records if "few-shot" in record.getMessage()]
    assert lines == [f"few-shot training: 5 of 20 images, {len(persons)} of 10 persons"]


def test_persons_are_drawn_by_the_seed_of_the_run(annotations: Path) -> None:
    few = load(annotations, few_shot=0.3, few_shot_by="identities")
    assert len(images(few, "en")) == 6
    assert few.num_identities == 3
    others = [
        images(load(annotations, seed, few_shot=0.3, few_shot_by="identities"), "en") for seed in range(1, 6)
    ]
    assert any(other != images(few, "en") for other in others)


def test_all_of_the_split_is_all_of_it(annotations: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert images(load(annotations), "en") == [f"{n}.png" for n in range(20)]
    assert "few-shot" not in caplog.text
