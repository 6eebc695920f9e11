"""The runs that a plan asks for, each with its overrides of an options file."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from misc.checkpoints.read import BEST
from misc.study.plan import PRETRAINING, TRANSFER, Plan, Weights
from options import Options, load_options


@dataclass(frozen=True)
class Run:
    """One training, or one evaluation of weights, in a folder of its own.

    Attributes:
        name: unique in a study, and that of its folder.
        recipe: its name in the plan; `PRETRAINING`, or `TRANSFER` for an evaluation.
        trained_on: the name of the set; "" for the pretraining and for an evaluation.
        tested_on: the name of the set whose test split its options name first.
        noise: the share of wrong captions.
        evaluates: the weights that are evaluated; None: it trains.
    """

    name: str
    recipe: str
    title: str
    trained_on: str
    tested_on: str
    noise: float
    seed: int
    config: Path
    overrides: tuple[str, ...]
    processes: int = 1
    evaluates: str | None = None

    def options(self) -> Options:
        """The options of the run."""
        return load_options(self.config, self.overrides)


def pretraining_run(plan: Plan, folder: Path) -> Run | None:
    """The training that comes first."""
    if plan.pretraining is None:
        return None
    start = plan.pretraining
    overrides = (*start.options, _output(folder / PRETRAINING))
    place = (PRETRAINING, PRETRAINING, start.title, "", PRETRAINING, 0.0, 0)
    return Run(*place, plan.folder / start.config, overrides, start.processes)


def transfer_runs(plan: Plan, folder: Path) -> list[Run]:
    """The evaluations of weights as they are, on every set; those of the pretraining are among them."""
    weights = dict(plan.direct_transfer)
    if start := plan.pretraining:
        weights = {PRETRAINING: Weights(start.title, str(best_of(folder)), start.config)} | weights
    first, runs = next(iter(plan.sets)), []
    for name, one in weights.items():
        config, run_name = plan.folder / one.config, f"{TRANSFER}-{name}"
        overrides = (*_of_tests(plan, first, config), *one.options, _output(folder / run_name))
        runs.append(Run(run_name, TRANSFER, one.title, "", first, 0.0, 0, config, overrides, 1, one.weights))
    return runs


def training_runs(plan: Plan, folder: Path, processes: int = 1) -> Iterator[Run]:
    """A run for each recipe, set, share of wrong captions and seed: the most telling ones first."""
    for noise in (0.0, *plan.noise):
        for seed in plan.seeds:
            for set_name, data in plan.sets.items():
                for name, recipe in plan.recipes.items():
                    if data.train and (recipe.with_noise or not noise):
                        yield _training_run(plan, folder, name, set_name, noise, seed, processes)


def _training_run(
    plan: Plan, folder: Path, name: str, set_name: str, noise: float, seed: int, processes: int
) -> Run:
    recipe, share = plan.recipes[name], f"{noise:g}"
    config = plan.folder / recipe.config
    run_name = f"{name}-{set_name}{f'-noise{share}' if noise else ''}-{seed}"
    wrong = plan.sets[set_name].noise.replace("{share}", share)
    overrides = (
        *_of_tests(plan, set_name, config),
        *plan.options,
        *((f"model.clip_pretrained={json.dumps(str(best_of(folder)))}",) if plan.pretraining else ()),
        *recipe.options,
        *recipe.options_for.get(set_name, ()),
        *recipe.options_for.get(share, ()),
        *((f"data.noise={wrong}",) if noise else ()),
        f"misc.seed={seed}",
        _output(folder / run_name),
    )
    return Run(run_name, name, recipe.title, set_name, set_name, noise, seed, config, overrides, processes)


def _of_tests(plan: Plan, own: str, config: Path) -> tuple[str, ...]:
    """The overrides that name the files of a set, and all others as further test sets."""
    others = {}
    for name, data in plan.sets.items():
        if name != own:
            files = load_options(config, data.options).data
            others[name] = [files.annotation_file, files.image_root]
    return (*plan.sets[own].options, f"eval.test_sets={json.dumps(others)}")


def best_of(folder: Path) -> Path:
    """The checkpoint of the pretraining, which the runs of a folder start from."""
    return folder / PRETRAINING / BEST


def _output(folder: Path) -> str:
    return f"output.dir={json.dumps(str(folder))}"
