"""The cost of a step of each recipe, and the numbers of epochs that make the costs equal."""

from pathlib import Path

import pytest
import torch

from misc.study import calibrate
from misc.study.calibrate import StepCost, equal_epochs
from misc.training.engine import Trainer
from options import Options, load_options
from tests.helpers.tiny_config import write_config


def test_epochs_are_those_whose_costs_are_nearest_to_each_other() -> None:
    costs = {name: StepCost(10, seconds, 0.0) for name, seconds in (("a", 1.0), ("b", 2.6), ("c", 1.6))}
    chosen = equal_epochs(costs, 160.0)
    totals = [chosen[name] * cost.steps * cost.seconds for name, cost in costs.items()]
    assert chosen == {"a": 16, "b": 6, "c": 10}
    assert max(totals) / min(totals) == pytest.approx(160 / 156)
    assert equal_epochs(costs, 1.0) == {"a": 1, "b": 1, "c": 1}, "an epoch at least"


def test_a_machine_that_gets_slower_slows_all_recipes_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    now, taken = [0.0], dict.fromkeys(("slow", "fast"), 0)
    built = {"slow": (3.0, 7), "fast": (1.0, 9)}
    shares: set[float] = set()
    threads: set[int] = set()

    def steps_of(options: Options, folder: Path) -> tuple[object, int, object]:
        seconds, steps = built[folder.name]

        def step(share: float) -> None:
            number = taken[folder.name] = taken[folder.name] + 1
            round_number = (number - calibrate.WARM_UP - 1) // calibrate.STEPS
            now[0] += seconds * (1.0 if round_number < 7 else 5.0)
            shares.add(share)
            threads.add(torch.get_num_threads())

        return step, steps, lambda: now[0]

    monkeypatch.setattr(calibrate, "_steps_of", steps_of)
    torch.set_num_threads(2)
    found = calibrate.measure_steps(dict.fromkeys(built, Options()))
    assert threads == {1}, "as a run has"
    assert found == {"slow": StepCost(7, 3.0, 0.0), "fast": StepCost(9, 1.0, 0.0)}
    assert sorted(shares) == pytest.approx([0.0, *((number + 0.5) / 12 for number in range(12))])


def test_steps_are_made_where_the_share_of_the_run_lies(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"schedule": {"epoch": 10}, "data": {"batch_size": 16}}
    config = write_config(tmp_path / "config.yaml", people, width=16, **changes)
    made: list[int] = []
    train_step = Trainer.train_step

    def spy(self: Trainer, *arguments: object) -> None:
        made.append(self.step)
        train_step(self, *arguments)

    monkeypatch.setattr(Trainer, "train_step", spy)
    step, steps, clock = calibrate._steps_of(load_options(config), tmp_path)
    assert steps == 2, "20 images with two captions"
    begin = clock()
    for share in (0.0, 0.5, 0.5, 0.99):
        step(share)
    assert made == [0, 10, 10, 19]
    assert clock() > begin
