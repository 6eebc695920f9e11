"""The cost of an epoch of each recipe, and the numbers of epochs that make the costs equal."""

from pathlib import Path

import pytest

from misc.study import calibrate
from misc.study.calibrate import Epoch, equal_epochs
from misc.study.expand import Run


def test_epochs_are_those_whose_costs_are_nearest_to_each_other() -> None:
    epochs = {
        name: Epoch(name, 10, seconds, 0.0) for name, seconds in (("a", 10.0), ("b", 26.0), ("c", 16.0))
    }
    chosen = equal_epochs(epochs, 160.0)
    costs = [chosen[name] * epoch.seconds for name, epoch in epochs.items()]
    assert chosen == {"a": 16, "b": 6, "c": 10}
    assert max(costs) / min(costs) == pytest.approx(160 / 156)
    assert equal_epochs(epochs, 1.0) == {"a": 1, "b": 1, "c": 1}, "an epoch at least"


def test_an_epoch_takes_its_steps_times_the_median_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    built = {"slow": (3.0, 7), "fast": (1.0, 9)}

    def steps_of(options: object, folder: Path) -> tuple[object, int, object]:
        seconds, steps = built[folder.name]

        def step() -> None:
            now[0] += seconds

        return step, steps, lambda: now[0]

    monkeypatch.setattr(calibrate, "_steps_of", steps_of)
    config = Path("config/s.config.yaml")
    runs = {name: Run(name, name, name.title(), "x", "x", 0.0, 0, config, ()) for name in built}
    found = calibrate.measure_epochs(runs)
    assert found["slow"] == Epoch("Slow", 7, 21.0, 0.0)
    assert found["fast"] == Epoch("Fast", 9, 9.0, 0.0)
