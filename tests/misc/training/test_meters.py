"""What a log record says of its steps."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from main import main
from misc.evaluation.evaluator import Evaluator
from misc.process.logs import RunLog
from misc.training import meters
from misc.training.engine import Trainer
from misc.training.meters import Meter
from model.tbps import LossOutput
from tests.helpers.whole_runs import train_lines


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds on the wall, and of CPU time, which tests move by hand; and a peak of 7 bytes."""
    now = [0.0, 0.0]
    monkeypatch.setattr(meters, "peak_memory", lambda device: 7)
    monkeypatch.setattr(meters.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(meters.time, "process_time", lambda: now[1])
    return now


def output(loss: float) -> LossOutput:
    total = torch.tensor(loss)
    return LossOutput(total, {"nitc": total}, {"logit_scale": torch.tensor(2.0)})


def test_the_peak_of_memory_is_in_bytes_and_stays_when_memory_is_given_back() -> None:
    cpu = torch.device("cpu")
    torch.cat([torch.ones(25_000_000), torch.ones(25_000_000)])  # of 100 MB each, beside the 200 MB of both
    peak = meters.peak_memory(cpu)
    assert peak > 200e6
    assert meters.peak_memory(cpu) >= peak
    assert peak < 1e12, "kilobytes taken for megabytes"


def test_seconds_are_those_of_the_steps_without_what_comes_between_them(clock: list[float]) -> None:
    def spend(wall: float, cpu: float) -> None:
        clock[:] = clock[0] + wall, clock[1] + cpu

    meter = Meter(torch.device("cpu"))
    spend(100, 50)  # the build
    with meter.running():
        for _ in range(2):
            spend(0.5, 0.25)
            meter.add(output(1.0), 10, torch.tensor(True))
            with meter.paused():  # a checkpoint
                spend(100, 50)
        assert meter.cost() == {
            "seconds": 1.0,
            "cpu_seconds": 0.5,
            "samples_per_second": 20.0,
            "peak_bytes": 7,
        }
        assert meter.steps == 2
        meter.reset()
        spend(1, 0.5)
        meter.add(output(1.0), 10, torch.tensor(True))
    spend(100, 50)  # an evaluation
    with meter.running():
        spend(1, 2)
        meter.add(output(1.0), 10, torch.tensor(True))
        assert meter.cost() == {
            "seconds": 2.0,
            "cpu_seconds": 2.5,
            "samples_per_second": 10.0,
            "peak_bytes": 7,
        }


def test_what_a_checkpoint_cuts_in_two_has_the_cost_of_both_parts(clock: list[float]) -> None:
    first, second = (Meter(torch.device("cpu")) for _ in range(2))
    with first.running():
        clock[:] = 3.0, 2.0
        first.add(output(1.0), 10, torch.tensor(True))
    state = first.state_dict()
    clock[:] = 100.0, 50.0
    second.load_state_dict(state)
    with second.running():
        clock[:] = 101.0, 50.5
        second.add(output(1.0), 10, torch.tensor(True))
        assert second.cost() == {
            "seconds": 4.0,
            "cpu_seconds": 2.5,
            "samples_per_second": 5.0,
            "peak_bytes": 7,
        }
    assert second.steps == 2
    older = {name: state[name] for name in ("report", "sums")}
    second.load_state_dict(older)


def test_the_logged_seconds_of_a_run_are_those_of_its_steps(
    config: Path, tmp_path: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lasting(seconds: float, work: Callable[..., Any]) -> Callable[..., Any]:
        def work_and_wait(*arguments: Any, **named: Any) -> Any:
            clock[0] += seconds
            return work(*arguments, **named)

        return work_and_wait

    for owner, name in ((RunLog, "write"), (Trainer, "_save"), (Evaluator, "__call__")):
        monkeypatch.setattr(owner, name, lasting(1000.0, getattr(owner, name)))
    monkeypatch.setattr(Trainer, "train_step", lasting(1.0, Trainer.train_step))
    assert main(["--config", str(config), "log.print_period=1", "log.checkpoint_period=1"]) == 0
    assert {line["seconds"] for line in train_lines(tmp_path / "run")} == {1.0}


def test_means_leave_skipped_steps_out_and_continue_from_a_checkpoint() -> None:
    first, second = (Meter(torch.device("cpu")) for _ in range(2))
    first.add(output(1.0), 10, torch.tensor(True))
    first.add(output(float("nan")), 10, torch.tensor(False))
    second.load_state_dict(first.state_dict())
    second.add(output(4.0), 10, torch.tensor(True))
    assert second.means() == {"loss": 2.5, "nitc": 2.5, "logit_scale": 2.0}
    assert second.report == ["logit_scale"]
