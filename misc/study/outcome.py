"""What is kept of the runs of a study: a line of JSON for each, from which the report is made."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from misc.process.durable import write_text
from misc.process.logs import read_metrics
from misc.process.workers import cpu_name, num_cores
from misc.study.runs import FAILED, FINISHED, Job
from options import UserError

Figures = dict[str, float]  # R1, R5, R10, mAP, mINP in percent, text to image, the mean of the languages


@dataclass(frozen=True)
class Cost:
    """What the steps of a run took, evaluations, divisions and checkpoints left out.

    Attributes:
        seconds: CPU seconds, or on a GPU seconds by the clock times processes.
        peak_bytes: the most memory of one process: on a GPU of its tensors, else all of it.
        num_samples: samples that were trained on.
        num_steps: of the run.
    """

    seconds: float
    peak_bytes: int
    num_samples: int
    num_steps: int


@dataclass(frozen=True)
class Outcome:
    """A run of a study.

    Attributes:
        name: of the run; its recipe, set, share of wrong captions and seed are those of `plan.Run`.
        failure: why there are no figures; None: there are.
        select_on: what picked the epoch: "val", "test" or "last"; None where nothing was trained.
        epoch, num_epochs: the epoch that was picked, and all.
        figures: of the test split of each set, with the epoch that was picked.
        on_test: of its own set, with the epoch that the test split itself would pick; None: not known.
        division: of the last division of its samples (RDE): noisy_share, precision, recall.
    """

    name: str
    recipe: str
    title: str
    trained_on: str
    noise: float
    seed: int
    failure: str | None = None
    select_on: str | None = None
    epoch: int = 0
    num_epochs: int = 0
    figures: Mapping[str, Figures] = field(default_factory=dict)
    on_test: Figures | None = None
    division: Mapping[str, float | None] | None = None
    cost: Cost | None = None


@dataclass(frozen=True)
class Stored:
    """The outcomes of a study, and the machine that they were measured on."""

    machine: str
    outcomes: Sequence[Outcome]


def outcome_of(job: Job) -> Outcome:
    """The outcome of a run that ended, from the files in its folder."""
    run = job.run
    place = (run.name, run.recipe, run.title, run.trained_on, run.noise, run.seed)
    state = job.state()
    if state != FINISHED:
        return Outcome(*place, failure=job.failure() if state == FAILED else state)
    results = _read(job.folder / "results.json")
    tested = _by_set(results, run.tested_on)
    if run.evaluates:
        return Outcome(*place, figures=tested)
    records = read_metrics(job.folder / "metrics.jsonl")
    return Outcome(*place, None, results["select_on"], **_of_training(job, records), figures=tested)


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"study: '{path}' cannot be read ({error}); remove its folder to run it again"
        ) from error


def _by_set(results: Mapping[str, Any], own: str) -> dict[str, Figures]:
    """Text-to-image figures by set; the first one of a run, its own, is called `own`."""
    if "sets" not in results:
        return {own: results["average"]["t2i"]}
    first, *others = results["sets"].items()
    return {name: one["average"]["t2i"] for name, one in ((own, first[1]), *others)}


def _of_training(job: Job, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The other fields of the outcome of a training, from the lines of its `metrics.jsonl`."""
    by_kind = {
        kind: [one for one in records if one["kind"] == kind] for kind in ("train", "eval", "division")
    }
    steps = by_kind["train"]
    on_test = [one for one in by_kind["eval"] if one["split"] == "test"]
    picked = [one["epoch"] for one in by_kind["eval"] if one["best"]]
    best = max(on_test, key=lambda one: one["average"]["t2i"]["R1"], default=None)
    is_gpu = job.options.misc.device != "cpu" and _on_gpu()
    seconds = sum(one["seconds"] * job.run.processes if is_gpu else one["cpu_seconds"] for one in steps)
    num_steps = steps[-1]["step"]
    samples = round(sum(one["samples_per_second"] * one["seconds"] for one in steps))
    names = ("noisy_share", "precision", "recall")
    divisions = [{name: one.get(name) for name in names} for one in by_kind["division"]]
    return {
        "epoch": picked[-1] if picked else steps[-1]["epoch"],
        "num_epochs": steps[-1]["epoch"],
        "on_test": best and best["average"]["t2i"],
        "division": divisions[-1] if divisions else None,
        "cost": Cost(round(seconds, 2), max(one.get("peak_bytes", 0) for one in steps), samples, num_steps),
    }


def _on_gpu() -> bool:
    from torch import cuda

    return cuda.is_available()


def machine() -> str:
    """This machine, in words."""
    import torch

    processor = f"{cpu_name()}, {num_cores()} cores"
    if torch.cuda.is_available():
        count, name = torch.cuda.device_count(), torch.cuda.get_device_name()
        processor = f"{count} x {name}; {processor}"
    else:
        processor += ", no GPU"
    versions = f"torch {torch.__version__.split('+')[0]}, Python {platform.python_version()}"
    return f"{processor}; {versions}"


def write_stored(path: Path, stored: Stored) -> None:
    """Write the outcomes, one a line, after a line with the machine."""
    lines = [{"machine": stored.machine}, *(asdict(one) for one in stored.outcomes)]
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def read_stored(path: Path) -> Stored:
    """What `write_stored` wrote.

    Raises:
        UserError: it cannot be read, or holds something else.
    """
    try:
        first, *lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        outcomes = [Outcome(**line | {"cost": line["cost"] and Cost(**line["cost"])}) for line in lines]
        return Stored(first["machine"], outcomes)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"--report: '{path}' does not hold the runs of a study ({error})") from error
