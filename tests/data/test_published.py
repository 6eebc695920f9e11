"""RSTPReid and ICFG-PEDES share images: a run that uses both says so, once."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from data.annotations import load_data
from data.columns.records import Records
from data.columns.splits import Splits
from data.loaders import load_test_sets
from data.published import PUBLISHED, Count, recognise, warn_of_overlap
from data.types import Record
from main import main
from options import load_options

SAID = "ICFG-PEDES and RSTPReid were both made from MSMT17"


def write_set(folder: Path, splits: tuple[str, ...] = ("train", "test")) -> Path:
    folder.mkdir(parents=True)
    for person, split in enumerate(splits):
        Image.new("RGB", (4, 8)).save(folder / f"{split}.jpg")
        items = [{"file_path": f"{split}.jpg", "id": person, "captions": ["a man"]}]
        (folder / f"{split}_reid.json").write_text(json.dumps(items))
    return folder


@pytest.mark.parametrize(
    ("own", "test_set", "trained_on", "overlap"),
    [
        ("RSTPReid", "icfg: [{}/other, {}/other]", "", True),
        ("ICFG_PEDES", "x: [{}/RSTPReid/curated, {}/RSTPReid/curated]", "", True),
        ("mine", "", "icfg-pedes datasets/mine.json", False),
        ("ICFG-PEDES", "", "None runs/rstpreid/checkpoint_best.pth", True),
        ("mine", "rstp: [{}/other, {}/other]", "auto ICFG-PEDES/ICFG-PEDES.json", True),
        ("RSTPReid", "cuhk: [{}/other, {}/other]", "", False),
        ("CUHK-PEDES", "icfg: [{}/other, {}/other]", "", False),
        ("RSTPReid", "", "rstpreid RSTPReid/data_captions.json", False),
    ],
)
def test_the_data_of_a_run_that_overlap_are_named_once(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    own: str,
    test_set: str,
    trained_on: str,
    overlap: bool,
) -> None:
    folder = write_set(tmp_path / "own" / own)
    for other in ("other", "RSTPReid/curated"):
        write_set(tmp_path / other, ("test",))
    data = [f"data.annotation_file={folder}", f"data.image_root={folder}"]
    sets = "eval.test_sets={" + test_set.replace("{}", str(tmp_path)) + "}"
    options = load_options({}, [*data, sets])
    load_test_sets(options, load_data(options), trained_on)
    assert caplog.text.count(SAID) == overlap


def test_they_are_recognised_by_their_numbers_whatever_the_names(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert recognise({("train", "en"): PUBLISHED["ICFG-PEDES"]["train"]}, "x") == "ICFG-PEDES"
    assert recognise({("test", "en"): Count(1000, 1000, 2000)}, "x") is None
    train = [Record(f"{n}.jpg", n // 5, ("a man",), (), "en") for n in range(18505)]
    test = [Record(f"t{n}.jpg", n // 20, ("a man",) * (n == 0), (), "en") for n in range(19848)]
    splits = Splits({"en": Records.of(train, "en")}, {}, {"en": Records.of(test, "en")})
    load_test_sets(load_options({}, ["data.annotation_file=mine"]), splits)
    assert caplog.text.count(SAID) == 1
    caplog.clear()
    warn_of_overlap(["ICFG-PEDES", None, "ICFG-PEDES", "CUHK-PEDES"])
    assert not caplog.text


def test_an_evaluation_knows_what_its_checkpoint_was_trained_on(
    people: Path, finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ICFG-PEDES").symlink_to(people)
    there = f"data.annotation_file={tmp_path}/ICFG-PEDES"
    command = ["--config", str(finished_run / "options.yaml"), there, "--output-dir", str(tmp_path / "out")]
    checkpoint = torch.load(finished_run / "checkpoint_best.pth", weights_only=True)
    checkpoint["options"]["data"]["annotation_file"] = "datasets/RSTPReid/data_captions.json"
    torch.save(checkpoint, tmp_path / "other.pth")
    for weights, times in ((finished_run / "checkpoint_best.pth", 0), (tmp_path / "other.pth", 1)):
        assert main([*command, "--evaluate", str(weights)]) == 0
        assert capsys.readouterr().out.count(SAID) == times
