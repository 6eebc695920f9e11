"""The cost of a step of each recipe, measured side by side, and the epochs that make the costs equal."""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tqdm import tqdm

from data.sampler import TrainLoader
from data.types import Batch
from misc.benchmark.machine import synchronize
from misc.benchmark.setting import built, device_of
from misc.process.signals import StopSignals
from misc.training.build import build_trainer
from options import Options

ROUNDS, STEPS, WARM_UP = 12, 5, 10  # groups of steps of each recipe in turn, steps of a group, steps before


@dataclass(frozen=True)
class StepCost:
    """What a step of a recipe takes, measured in turn with all others.

    Attributes:
        steps: of an epoch.
        seconds: of this process's CPU time, or on a GPU by the clock: the median of its share of a round,
            times the median of the rounds.
        spread: the range of the middle half of the shares, as a share of their median.
    """

    steps: int
    seconds: float
    spread: float

    @property
    def epoch(self) -> float:
        """Seconds of an epoch."""
        return self.steps * self.seconds


def measure_steps(recipes: Mapping[str, Options]) -> dict[str, StepCost]:
    """The costs of recipes, by name. Their steps alternate in one process, so that whatever slows the machine
    meanwhile slows all of them alike; those of the rounds are spread over the whole of a run. The process
    has one thread, as each run has.
    """
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        prepared = {name: _steps_of(options, Path(folder) / name) for name, options in recipes.items()}
        for step, _, _ in prepared.values():
            for _ in range(WARM_UP):
                step(0.0)
        times: dict[str, list[float]] = {name: [] for name in recipes}
        for number in tqdm(range(ROUNDS), desc="steps side by side", disable=None):
            for name, (step, _, clock) in prepared.items():
                begin = clock()
                for _ in range(STEPS):
                    step((number + 0.5) / ROUNDS)
                times[name].append((clock() - begin) / STEPS)
    totals = [sum(of_round) for of_round in zip(*times.values(), strict=True)]
    costs = {}
    for name, (_, steps, _) in prepared.items():
        shares = [seconds / total for seconds, total in zip(times[name], totals, strict=True)]
        low, middle, high = statistics.quantiles(shares, n=4)
        costs[name] = StepCost(steps, middle * statistics.median(totals), (high - low) / middle)
    return costs


def _steps_of(options: Options, folder: Path) -> tuple[Callable[[float], None], int, Callable[[], float]]:
    """A function that makes a step of a training, where a share of its steps lies behind; the steps of an
    epoch; the clock to use.
    """
    options = replace(options, output=replace(options.output, dir=str(folder)))
    device, precision = device_of(options)
    model, loaders, _ = built(options)
    model.to(device).train()
    trainer = build_trainer(options, model, loaders, {}, device, precision, StopSignals())
    batches = _endless(loaders.train)

    def clock() -> float:
        if device.type != "cuda":
            return time.process_time()
        synchronize(device)
        return time.perf_counter()

    def step(share: float) -> None:
        trainer.step = int(share * trainer.schedule.total_steps)
        trainer.train_step(model, next(batches))

    return step, len(loaders.train), clock


def _endless(loader: TrainLoader) -> Iterator[Batch]:
    epoch = 0
    while True:
        loader.batch_sampler.set_epoch(epoch)
        yield from loader
        epoch += 1


def equal_epochs(costs: Mapping[str, StepCost], seconds: float) -> dict[str, int]:
    """The whole epochs of each recipe whose costs are nearest to each other, near a budget of `seconds`.

    Budgets from 0.85 to 1.15 of it are tried; the one with the smallest ratio of the highest cost to the
    lowest wins.
    """

    def rounded(budget: float) -> dict[str, int]:
        return {name: max(1, round(budget / cost.epoch)) for name, cost in costs.items()}

    def ratio(chosen: dict[str, int]) -> float:
        totals = [number * costs[name].epoch for name, number in chosen.items()]
        return max(totals) / min(totals)

    tried = [rounded(seconds * (0.85 + step / 1000)) for step in range(301)]
    return min(tried, key=ratio)
