"""`data.cleaning`: recorded with the weights, without changing what older files are."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from data.datasets import evaluation_set
from data.types import Record
from misc.checkpoints.run_options import check_trained_with, features_depend_on
from misc.evaluation.features import file_digest
from misc.search.encoder import identity_of
from options import Options, UserError, load_options, to_dict

RECORDS = {"en": [Record("a.png", 1, ("A man.", "..."), (), "en")]}


def saved(folder: Path, cleaning: str | None) -> Path:
    """A checkpoint whose run had this cleaning; None: it is older than the option."""
    options = to_dict(Options())
    options["data"].pop("cleaning")
    options["data"] |= {"cleaning": cleaning} if cleaning else {}
    torch.save({"options": options}, folder / "checkpoint.pth")
    return folder / "checkpoint.pth"


def test_a_run_records_its_cleaning() -> None:
    assert to_dict(Options())["data"]["cleaning"] == "tbps-clip"
    assert features_depend_on(Options())["data.cleaning"] == "tbps-clip"
    with pytest.raises(UserError, match=r"data\.cleaning.*tbps-clip"):
        load_options({}, ["data.cleaning=none"])


def test_a_checkpoint_without_the_option_was_trained_with_tbps_clip(tmp_path: Path) -> None:
    check_trained_with(Options(), saved(tmp_path, None))
    check_trained_with(Options(), saved(tmp_path, "tbps-clip"))
    with pytest.raises(UserError, match=r"data\.cleaning: .* was trained with none"):
        check_trained_with(Options(), saved(tmp_path, "none"))


def test_the_identity_of_features_is_that_of_indexes_written_before_the_option(tmp_path: Path) -> None:
    checkpoint, depends = saved(tmp_path, None), features_depend_on(Options())
    del depends["data.cleaning"]
    before = json.dumps([file_digest(checkpoint), depends]).encode()
    assert identity_of(Options(), checkpoint) == hashlib.sha256(before).hexdigest()


def test_queries_hold_cleaned_captions() -> None:
    assert evaluation_set(RECORDS, ".").queries["en"].captions == ["a man", ""]
    assert evaluation_set(RECORDS, ".", str.upper).queries["en"].captions == ["A MAN.", "..."]
