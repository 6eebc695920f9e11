"""Numbers that go wrong and images that cannot be read: the run stops and says why, or continues as asked."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn

from main import main
from misc.process import distributed
from misc.training.guards import BadImages
from misc.training.optimizer import AdamW, build_optimizer
from model import objectives
from options import ScheduleOptions, UserError
from tests.helpers.gloo import run_in_processes
from tests.helpers.whole_runs import (
    assert_mentions,
    content,
    error_line,
    status_and_error,
    train_lines,
    write_program,
)

STEPS = 10  # of an epoch: 40 samples in batches of 4
Run, Poison = Callable[..., int], Callable[[int, float], None]


@pytest.fixture
def run(config: Path) -> Run:
    return lambda *more: main(["--config", str(config), "data.batch_size=4", "log.print_period=1", *more])


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Poison:
    """Makes the loss of a step, counted from 1, something else."""

    def plant(step: int, factor: float) -> None:
        calls: list[int] = []
        original = objectives.ritc_loss

        def poisoned(*arguments: Any) -> torch.Tensor:
            calls.append(1)
            return original(*arguments) * (factor if len(calls) == 2 * step else 1.0)  # two directions a step

        monkeypatch.setattr(objectives, "ritc_loss", poisoned)

    return plant


@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run_before_the_step(
    run: Run, poison: Poison, tmp_path: Path, capsys: pytest.CaptureFixture[str], factor: float
) -> None:
    poison(STEPS + 3, factor)
    assert run("log.checkpoint_period=2") == 2
    error = error_line(capsys)
    assert_mentions(error, "not finite", "epoch 2, step 13", f"ritc {factor:.4g}", ".jpg", "schedule.lr")
    assert_mentions(error, "skip_nonfinite", f"{tmp_path / 'run' / 'checkpoint_last.pth'}' of step 12")
    state = content(tmp_path / "run" / "checkpoint_last.pth")
    assert state["step"] == STEPS + 2
    assert all(value.isfinite().all() for value in state["model"].values())


def test_as_many_steps_as_allowed_are_skipped_and_named(
    run: Run, poison: Poison, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    poison(4, float("nan"))
    assert run("schedule.epoch=1", "schedule.skip_nonfinite=1") == 0
    state = content(tmp_path / "run" / "checkpoint_last.pth")
    made = {int(moments["step"]) for moments in state["optimizer"]["state"].values()}
    assert (state["step"], state["skipped_steps"], made) == (STEPS, 1, {STEPS - 1})
    assert all(value.isfinite().all() for value in state["model"].values())
    assert_mentions(capsys.readouterr().out, "1 of at most 1 skipped", "images of the batch: ")
    train = train_lines(tmp_path / "run")
    assert [line["loss"] == 0 for line in train] == [step == 4 for step in range(1, STEPS + 1)]
    assert all(line["gradient_norm"] > 0 for line in train if line["step"] != 4)


@pytest.mark.parametrize("kind", ["adamw", "adam"])
def test_a_skipped_step_changes_neither_weights_nor_moments(kind: str) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    optimizer = build_optimizer(layer, ScheduleOptions(optimizer=kind))
    optimizer.param_groups[0]["lr"] = 0.1
    layer(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    before = json.dumps([p.tolist() for p in layer.parameters()]), str(optimizer.state_dict())
    for parameter in layer.parameters():
        parameter.grad.fill_(float("nan"))
    optimizer.found_inf = torch.ones(())
    optimizer.step()
    assert (json.dumps([p.tolist() for p in layer.parameters()]), str(optimizer.state_dict())) == before


def test_gradients_are_cut_to_the_norm_asked_for(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    norms = []

    def step(self: torch.optim.Optimizer, *_: Any) -> None:
        gradients = [p.grad.flatten() for group in self.param_groups for p in group["params"]]
        norms.append(torch.cat(gradients).norm().item())

    monkeypatch.setattr(AdamW, "step", step)
    assert run("schedule.epoch=1", "schedule.clip_grad_norm=0.25") == 0
    assert norms == pytest.approx([0.25] * STEPS, rel=1e-3)
    assert min(line["gradient_norm"] for line in train_lines(tmp_path / "run")) > 0.3


def nan_on_rank_1(arguments: list[str]) -> tuple[int, str]:
    original, factor = objectives.ritc_loss, float("nan") if distributed.rank() == 1 else 1.0
    with mock.patch.object(objectives, "ritc_loss", lambda *inputs: original(*inputs) * factor):
        return status_and_error(arguments)


def test_a_nan_on_one_process_stops_all_and_names_the_images_of_that_one(
    config: Path, tmp_path: Path
) -> None:
    ranks = run_in_processes(nan_on_rank_1, 2, tmp_path, ["--config", str(config), "data.batch_size=2"])
    assert [status for status, _ in ranks] == [2, 2]
    (error,) = [error for _, error in ranks if error]
    assert error.startswith("error: ")
    assert_mentions(error, "epoch 1, step 1 ", "ritc nan")
    assert error.count(".jpg") == 2, "the batch of the other process is not at fault"
    assert error.count("\n") == 1


def test_bad_images_are_counted_once_checked_together_and_listed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checked: list[list[str]] = []

    def check(names: list[str]) -> None:
        checked.append(list(names))
        if len(names) > 2:
            raise UserError("too many")

    images = BadImages(check)
    images.add(["b", "a"])
    images.add(["a"])
    images.share(tmp_path)
    assert caplog.messages == ["skipped, cannot be read: a, b"]
    images.share(tmp_path)
    images.add(["a", "c"])
    with pytest.raises(UserError, match="too many"):
        images.share(tmp_path)
    assert checked == [["a", "b"], ["a", "b", "c"]]
    assert (tmp_path / "bad_images.txt").read_text() == "a\nb\n"


RECORDING = """
import atexit, json
from misc.training.engine import Trainer
original, seen = Trainer.train_step, []
def train_step(self, *arguments):
    original(self, *arguments)
    if self.step in (100, 500):
        resident = int(open('/proc/self/statm').read().split()[1]) * os.sysconf('SC_PAGE_SIZE')
        seen.append([resident, len(os.listdir('/proc/self/fd'))])
Trainer.train_step = train_step
atexit.register(lambda: json.dump(seen, open({seen!r}, 'w')))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
@pytest.mark.slow
def test_neither_memory_nor_open_files_grow(config: Path, tmp_path: Path) -> None:
    seen = tmp_path / "seen.json"
    program = write_program(tmp_path / "program.py", RECORDING.format(seen=str(seen)))
    more = ["data.batch_size=4", "schedule.epoch=13", "data.languages=[en,ch,de,fr]"]
    more += ["log.checkpoint_period=50"]
    done = subprocess.run(
        [sys.executable, program, "--config", str(config), *more], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (memory, files), (memory_later, files_later) = json.loads(seen.read_text())
    assert memory_later < 1.02 * memory
    assert files_later <= files
