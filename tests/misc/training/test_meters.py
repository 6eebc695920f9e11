"""What a log record says of its steps."""

import pytest
import torch

from misc.training import meters
from misc.training.meters import Meter
from model.tbps import LossOutput


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds on the wall, and of CPU time, which tests move by hand."""
    now = [0.0, 0.0]
    monkeypatch.setattr(meters.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(meters.time, "process_time", lambda: now[1])
    return now


def output(loss: float) -> LossOutput:
    total = torch.tensor(loss)
    return LossOutput(total, {"nitc": total}, {"logit_scale": torch.tensor(2.0)})


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
        assert meter.cost() == {"seconds": 1.0, "cpu_seconds": 0.5, "samples_per_second": 20.0}
        assert meter.steps == 2
        meter.reset()
        spend(1, 0.5)
        meter.add(output(1.0), 10, torch.tensor(True))
    spend(100, 50)  # an evaluation
    with meter.running():
        spend(1, 2)
        meter.add(output(1.0), 10, torch.tensor(True))
        assert meter.cost() == {"seconds": 2.0, "cpu_seconds": 2.5, "samples_per_second": 10.0}


def test_means_leave_skipped_steps_out_and_continue_from_a_checkpoint() -> None:
    first, second = (Meter(torch.device("cpu")) for _ in range(2))
    first.add(output(1.0), 10, torch.tensor(True))
    first.add(output(float("nan")), 10, torch.tensor(False))
    second.load_state_dict(first.state_dict())
    second.add(output(4.0), 10, torch.tensor(True))
    assert second.means() == {"loss": 2.5, "nitc": 2.5, "logit_scale": 2.0}
    assert second.report == ["logit_scale"]
