"""The cost of an epoch of each recipe, measured side by side, and the epochs that make the costs equal."""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from data.sampler import TrainLoader
from data.types import Batch
from misc.benchmark.machine import synchronize
from misc.benchmark.setting import built, device_of
from misc.process.signals import StopSignals
from misc.study.expand import Run
from misc.training.build import build_trainer
from options import Options

ROUNDS, STEPS, WARM_UP = 12, 5, 10  # groups of steps of each recipe in turn, steps of a group, steps before


@dataclass(frozen=True)
class Epoch:
    """What an epoch of a recipe takes.

    Attributes:
        seconds: of this process's CPU time, or on a GPU by the clock: the median of the rounds.
        spread: the range of the middle half of the rounds, as a share of it.
    """

    title: str
    steps: int
    seconds: float
    spread: float


def measure_epochs(runs: dict[str, Run]) -> dict[str, Epoch]:
    """The epochs of recipes, by name. Their steps alternate in one process, so that whatever slows the
    machine meanwhile slows all of them alike.
    """
    with tempfile.TemporaryDirectory() as folder:
        built = {name: _steps_of(run.options(), Path(folder) / name) for name, run in runs.items()}
        for step, _, _ in built.values():
            for _ in range(WARM_UP):
                step()
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in tqdm(range(ROUNDS), desc="rounds", disable=None):
            for name, (step, _, clock) in built.items():
                begin = clock()
                for _ in range(STEPS):
                    step()
                times[name].append((clock() - begin) / STEPS)
    epochs = {}
    for name, (_, steps, _) in built.items():
        low, middle, high = statistics.quantiles(times[name], n=4)
        epochs[name] = Epoch(runs[name].title, steps, middle * steps, (high - low) / middle)
    return epochs


def _steps_of(options: Options, folder: Path) -> tuple[Callable[[], None], int, Callable[[], float]]:
    """A function that makes the next step of a training, the steps of its epoch, and the clock to use."""
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

    return lambda: trainer.train_step(model, next(batches)), len(loaders.train), clock


def _endless(loader: TrainLoader) -> Iterator[Batch]:
    epoch = 0
    while True:
        loader.batch_sampler.set_epoch(epoch)
        yield from loader
        epoch += 1


def equal_epochs(epochs: dict[str, Epoch], seconds: float) -> dict[str, int]:
    """The whole epochs of each recipe whose costs are nearest to each other, near a budget of `seconds`.

    Budgets from 0.85 to 1.15 of it are tried; the one with the smallest ratio of the highest cost to the
    lowest wins.
    """

    def rounded(budget: float) -> dict[str, int]:
        return {name: max(1, round(budget / epoch.seconds)) for name, epoch in epochs.items()}

    def ratio(chosen: dict[str, int]) -> float:
        costs = [number * epochs[name].seconds for name, number in chosen.items()]
        return max(costs) / min(costs)

    tried = [rounded(seconds * (0.85 + step / 1000)) for step in range(301)]
    return min(tried, key=ratio)
