"""What a log record says of its steps."""

from collections.abc import Iterator

import pytest
import torch

from misc.training import meters
from misc.training.meters import Meter
from model.tbps import LossOutput


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    now = [0.0]
    monkeypatch.setattr(meters.time, "perf_counter", lambda: now[0])
    return now


def output(loss: float) -> LossOutput:
    total = torch.tensor(loss)
    return LossOutput(total, {"nitc": total}, {"logit_scale": torch.tensor(2.0)})


def test_the_speed_is_that_of_the_steps_without_what_comes_between_them(clock: list[float]) -> None:
    meter = Meter(torch.device("cpu"))
    for _ in range(2):
        clock[0] += 0.5
        meter.add(output(1.0), 10, torch.tensor(True))
        with meter.paused():  # a checkpoint or an evaluation
            clock[0] += 100
    assert meter.speed() == (20.0, 0.5)
    with meter.paused():
        clock[0] += 100
        meter.reset()
        clock[0] += 100
    clock[0] += 2
    meter.add(output(1.0), 10, torch.tensor(True))
    assert meter.speed() == (5.0, 2.0)


def test_means_leave_skipped_steps_out_and_continue_from_a_checkpoint() -> None:
    first, second = (Meter(torch.device("cpu")) for _ in range(2))
    first.add(output(1.0), 10, torch.tensor(True))
    first.add(output(float("nan")), 10, torch.tensor(False))
    second.load_state_dict(first.state_dict())
    second.add(output(4.0), 10, torch.tensor(True))
    assert second.means() == {"loss": 2.5, "nitc": 2.5, "logit_scale": 2.0}
    assert second.report == ["logit_scale"]
