"""Checkpoints of pretraining on persons (NAM, HAM, GA-DMS) as starts and evaluated, at tiny sizes."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from main import main
from misc.checkpoints.run_options import check_start, preparation_of
from model.weights.pretrained import load_clip_weights
from options import UserError, load_options
from tests.helpers.released import CLASSIFIER, MLM, irra, our_weights
from tests.helpers.whole_runs import error_line

PICKED = "best0.pth, best1.pth and best2.pth were each picked on the test set that it is for"


def nam(ours: dict[str, Tensor]) -> dict[str, Any]:
    """Its files have the one entry, of a model in DistributedDataParallel."""
    return {"model": irra(ours, start="module.")["model"]}


RELEASES: dict[str, tuple[Callable[[dict[str, Tensor]], Any], str]] = {
    "NAM": (nam, "a checkpoint of NAM, pretrained on persons (LUPerson-MLLM)"),
    "HAM": (irra, "a checkpoint of a pretraining on persons, such as HAM or GA-DMS"),
    "GA-DMS": (
        lambda ours: irra(ours, MLM),
        "a checkpoint of a pretraining on persons, such as HAM or GA-DMS",
    ),
    "IRRA": (lambda ours: irra(ours, CLASSIFIER, MLM), "a checkpoint of IRRA, RDE or ITSELF"),
    "IRRA in DDP": (
        lambda ours: irra(ours, CLASSIFIER, start="module."),
        "a checkpoint of IRRA, RDE or ITSELF",
    ),
}


@pytest.fixture
def ours(config: Path) -> dict[str, Tensor]:
    return our_weights(config)


def write(release: str, ours: dict[str, Tensor], folder: Path) -> Path:
    torch.save(RELEASES[release][0](ours), folder / "best0.pth")
    return folder / "best0.pth"


@pytest.mark.parametrize("release", RELEASES)
def test_a_release_is_read_whole_and_named_in_one_line(
    release: str, ours: dict[str, Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = write(release, ours, tmp_path)
    weights = load_clip_weights(path, (64, 32))
    assert weights.is_release
    assert weights.tensors.keys() == ours.keys()
    for name, tensor in ours.items():
        assert name == "logit_scale" or torch.equal(weights.tensors[name], tensor)
    (line,) = [message for message in caplog.messages if "a checkpoint of" in message]
    assert line.startswith(f"{path}: {RELEASES[release][1]}")
    assert line.endswith("; trained with data.preparation=irra")
    assert (PICKED in line) == (release == "NAM")
    assert preparation_of(path).preparation == "irra"


def test_a_file_that_lacks_a_tensor_or_has_another_is_refused(
    ours: dict[str, Tensor], tmp_path: Path
) -> None:
    for change in (
        {"module.base_model.ln_final.weight": None},
        {"module.base_model.extra.weight": torch.ones(2)},
    ):
        content = nam(ours)
        content["model"] = {n: t for n, t in (content["model"] | change).items() if t is not None}
        torch.save(content, tmp_path / "best0.pth")
        with pytest.raises(UserError, match=r"ln_final|extra"):
            load_clip_weights(tmp_path / "best0.pth", (64, 32))


def test_another_preparation_is_warned_about(
    ours: dict[str, Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    full_size = ours | {"visual.positional_embedding": torch.randn(1 + 24 * 8, 16)}
    start = f"model.clip_pretrained={write('NAM', full_size, tmp_path)}"
    check_start(load_options("config/finetune-pretrained.yaml", [start]))
    assert not caplog.messages
    check_start(load_options("config/s.config.yaml", [start]))
    (line,) = caplog.messages
    assert "which was trained with" in line


@pytest.mark.parametrize("release", ["NAM", "GA-DMS"])
def test_a_release_is_a_start_and_is_evaluated(
    release: str, ours: dict[str, Tensor], config: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path, evaluated = write(release, ours, tmp_path), tmp_path / "evaluated"
    common = ["--config", str(config), "data.image_size=[64,32]"]
    assert main([*common, "--evaluate", str(path), "--output-dir", str(evaluated)]) == 0
    assert json.loads((evaluated / "results.json").read_text())["split"] == "test"
    assert sum("a checkpoint of" in message for message in caplog.messages) == 1
    more = [
        "data.preparation=irra",
        f"model.clip_pretrained={path}",
        "schedule.epoch=1",
        "experiment.mlm=true",
    ]
    assert main([*common, *more, "experiment.cmt_depth=1"]) == 0
    assert not [
        r for r in caplog.records if r.levelno >= logging.WARNING and "trained with" in r.getMessage()
    ]


def test_a_start_that_does_not_exist_is_a_line(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(config), "model.clip_pretrained=weights/nam/best0.pth"]) == 2
    assert "does not exist" in error_line(capsys)
