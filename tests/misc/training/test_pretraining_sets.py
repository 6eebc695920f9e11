"""Runs on sets that are all training: they are tested on others, and the last epoch is theirs."""

import json
from pathlib import Path
from typing import Any

import pytest

from data.annotations import load_data
from data.formats import read_splits
from data.loaders import load_test_sets
from main import main
from options import UserError, load_options
from tests.helpers.tiny_config import write_tiny


@pytest.fixture
def captions_alone(people: Path, tmp_path: Path) -> list[str]:
    """The options of the training images of `people` in the format of LUPerson-T."""
    train = read_splits(people, ["train"])["train"]["en"]
    items: list[dict[str, Any]] = [{"file_path": r.image, "captions": list(r.captions)} for r in train]
    items[0]["captions"] = ["I'm sorry, I cannot see an image."]
    (tmp_path / "captions.json").write_text(json.dumps(items))
    return [f"data.annotation_file={tmp_path}/captions.json", f"data.image_root={people}/imgs"]


def test_a_run_is_tested_on_other_sets_alone(
    captions_alone: list[str], people: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "run"
    config = str(write_tiny(tmp_path / "config.yaml", people, out))
    sets = f'eval.test_sets={{"mine": ["{people}", "{people}/imgs"], "again": ["{people}", "{people}/imgs"]}}'
    assert main(["--config", config, *captions_alone, sets]) == 0
    results = json.loads((out / "results.json").read_text())
    assert list(results["sets"]) == ["mine", "again"]
    assert results["select_on"] == "last"
    assert results["sets"]["mine"] == results["sets"]["again"]
    assert "dropped 1 of 39 captions that are none: 1 refusals" in caplog.text
    assert "skipping 1 of 20 training images: they have no caption" in caplog.text
    best = str(out / "checkpoint_best.pth")
    again = str(tmp_path / "again")
    assert main(["--config", config, *captions_alone, sets, "--evaluate", best, "--output-dir", again]) == 0
    transferred = json.loads((tmp_path / "again/results.json").read_text())
    assert transferred["sets"] == results["sets"]


def test_without_other_sets_the_missing_test_split_is_said(captions_alone: list[str]) -> None:
    with pytest.raises(UserError, match=r"has no test split; .*, or sets to test on in eval\.test_sets"):
        load_data(load_options({}, captions_alone))


def test_each_of_the_other_sets_needs_a_test_split(captions_alone: list[str], people: Path) -> None:
    file, root = (word.partition("=")[2] for word in captions_alone)
    sets = f'eval.test_sets={{"one": ["{people}", "{people}/imgs"], "two": ["{file}", "{root}"]}}'
    options = load_options({}, [*captions_alone, sets])
    with pytest.raises(UserError, match=r"eval\.test_sets, set 'two': .* has no test split"):
        load_test_sets(options, load_data(options))
