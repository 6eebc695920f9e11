"""Compare recipes at equal compute, several seeds each: `make study`, or python -m misc.study.

Every run is `main.py` in a process of one thread; as many run side by side as there are cores. What is done
stays, what was stopped goes on from its last epoch. The report is `misc/study/report.py`.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from tqdm import tqdm

from misc.study.report import Outcome, num_cores, write_report
from options import Options, UserError, load_options

ROOT = Path(__file__).resolve().parents[2]
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Recipe:
    """What a recipe changes on the full one of `config/study.yaml`, in the words of its row of the table."""

    title: str
    overrides: tuple[str, ...]


SIMPLIFIED = ("experiment.citc=false", "experiment.ss=false", "experiment.mvs_image=false")
LOSS_ALONE = (*SIMPLIFIED, "experiment.nitc=false", "experiment.ritc=false")
# A step of the full recipe puts four views through the image tower, not one, and takes 3.5 times as long.
RECIPES = {
    "no-trick": Recipe(
        "CLIP without tricks",
        (
            *SIMPLIFIED,
            *("experiment.ritc=false", "model.softlabel_ratio=0", "experiment.dropout=0"),
            *("experiment.image_aug=none", "experiment.text_aug=none", "experiment.back_trans=false"),
            "schedule.epoch=7",
        ),
    ),
    "simplified": Recipe("TBPS-CLIP, simplified", (*SIMPLIFIED, "schedule.epoch=7")),
    "full": Recipe("TBPS-CLIP, full", ("schedule.epoch=2",)),
    "sdm": Recipe("SDM alone", (*LOSS_ALONE, "experiment.sdm=true", "schedule.epoch=7")),
    "tal": Recipe("TAL alone", (*LOSS_ALONE, "experiment.tal=true", "schedule.epoch=7")),
}


@dataclass(frozen=True)
class Run:
    """One training of one recipe with one seed, in a folder of its own."""

    recipe: str
    seed: int
    config: Path
    folder: Path

    @property
    def overrides(self) -> list[str]:
        """What stands behind `main.py --config`."""
        return [
            *RECIPES[self.recipe].overrides,
            f"misc.seed={self.seed}",
            f"output.dir={self.folder}",
        ]

    def options(self) -> Options:
        """The options that it has, or had."""
        return load_options(self.config, self.overrides)

    def is_its_own(self) -> bool:
        """Whether the folder holds this very run, finished or not, and not one of other options."""
        written, own = self.folder / "options.yaml", self.options()
        try:
            return not written.exists() or replace(load_options(written), output=own.output) == own
        except UserError:  # written by another version of the options
            return False

    def is_finished(self) -> bool:
        """Whether nothing is left to do."""
        return (self.folder / "results.json").exists() and self.is_its_own()

    def start(self) -> subprocess.Popen[bytes]:
        """The process that makes it, going on where an earlier one was stopped."""
        how = ["--resume"] if self.is_its_own() else ["output.overwrite=true"]
        command = [sys.executable, str(ROOT / "main.py"), "--config", str(self.config), *self.overrides, *how]
        with self.screen.open("wb") as screen:
            return subprocess.Popen(
                command, cwd=ROOT, env=os.environ | ONE_THREAD, stdout=screen, stderr=subprocess.STDOUT
            )

    @property
    def screen(self) -> Path:
        """What the run would have shown."""
        return self.folder.with_suffix(".txt")

    def outcome(self) -> Outcome:
        """The figures of a finished run, and what they cost: samples seen and seconds of training."""
        lines = (self.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        steps = [record for record in map(json.loads, lines) if record["kind"] == "train"]
        batch_size, last, seconds = self.options().data.batch_size, 0, 0.0
        for record in steps:
            seconds += (record["step"] - last) * batch_size / record["samples_per_second"]
            last = record["step"]
        figures = json.loads((self.folder / "results.json").read_text(encoding="utf-8"))["average"]["t2i"]
        return Outcome(self.recipe, self.seed, last * batch_size, seconds, figures["R1"], figures["mAP"])


def make(runs: Sequence[Run], jobs: int) -> None:
    """Make the runs that are not finished, `jobs` at a time.

    Raises:
        UserError: a run that fails; the others are stopped, to go on when the study is started again.
    """
    waiting, active = [run for run in runs if not run.is_finished()], {}
    begin, total = time.monotonic(), len(waiting)
    with tqdm(total=len(runs), initial=len(runs) - total, desc="runs", unit="run", disable=None) as bar:
        try:
            while waiting or active:
                while waiting and len(active) < jobs:
                    run = waiting.pop(0)
                    active[run] = run.start()
                time.sleep(0.2)
                for run in [run for run, process in active.items() if process.poll() is not None]:
                    _finish(run, active.pop(run).returncode)
                    bar.update()
                    left = len(waiting) + len(active)
                    seconds = (time.monotonic() - begin) / (total - left) * left
                    tqdm.write(f"{_line(run.outcome())}; about {timedelta(seconds=round(seconds))} left")
        finally:
            for process in active.values():
                process.terminate()
            for process in active.values():
                process.wait()


def _finish(run: Run, status: int) -> None:
    if status:
        last = run.screen.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
        raise UserError(
            f"study: the run {run.folder.name} ended with status {status} ({' / '.join(last)}); "
            f"see '{run.screen}'"
        )


def _line(outcome: Outcome) -> str:
    return (
        f"{outcome.recipe}, seed {outcome.seed}: R@1 {outcome.rank1:.2f}, mAP {outcome.mean_ap:.2f}, "
        f"{outcome.seconds:.0f} s of training"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, or 2 with one line for what the user can mend."""
    parser = argparse.ArgumentParser(
        prog="python -m misc.study", description="Compare recipes at equal compute.", allow_abbrev=False
    )
    parser.add_argument("--config", type=Path, default=ROOT / "config/study.yaml", help="model and data")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES), help="all of them")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="0 1 2")
    parser.add_argument("--runs", type=Path, default=Path("runs/study"), help="folder of the runs")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of study.md and study.png")
    flags: Any = parser.parse_args(arguments)
    runs = [
        Run(recipe, seed, flags.config.resolve(), flags.runs.resolve() / f"{recipe}-{seed}")
        for seed in flags.seeds
        for recipe in flags.recipes
    ]
    flags.runs.mkdir(parents=True, exist_ok=True)
    try:
        make(runs, jobs=num_cores())
        titles = {name: RECIPES[name].title for name in flags.recipes}
        write_report([run.outcome() for run in runs], titles, runs[0].options(), flags.out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # killed, it ends its runs too, as on Ctrl-C
    sys.exit(main())
