"""Compare recipes at equal compute, several seeds each: `make study`, or python -m misc.study.

Every run is `main.py` in a process of one thread, with as many processes in parallel as there are cores.
Finished runs are kept, interrupted ones resume from their last epoch. The report: `misc/study/report.py`.
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

from tqdm import tqdm

from misc.cli import Parser, exit_status
from misc.process.logs import read_metrics
from misc.process.workers import num_cores
from misc.study.report import Found, Outcome, Part, write_report
from options import Options, UserError, load_options

ROOT = Path(__file__).resolve().parents[2]
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Recipe:
    """A row of the table: its title, and its overrides of the full recipe of `config/study.yaml`."""

    title: str
    overrides: tuple[str, ...]


SIMPLIFIED = ("experiment.citc=false", "experiment.ss=false", "experiment.mvs_image=false")
NO_TRICKS = (
    *(*SIMPLIFIED, "experiment.ritc=false", "model.softlabel_ratio=0", "experiment.dropout=0"),
    *("experiment.image_aug=none", "experiment.text_aug=none", "experiment.back_trans=false"),
)
LOSS_ALONE = (*SIMPLIFIED, "experiment.nitc=false", "experiment.ritc=false")
# From random weights, at the rates of the others: the rates of the papers are for fine-tuning.
PUBLISHED = (*LOSS_ALONE, "experiment.image_aug=irra", "experiment.dropout=0", "experiment.back_trans=false")
# MLM reads all places of a caption, in blocks as wide as the embedding: at its 128 a step takes 3.3 times as
# long as that of TAL alone; RDE's takes 1.4 times.
IRRA = (
    *(*PUBLISHED, "experiment.sdm=true", "experiment.id=true", "experiment.mlm=true"),
    *("experiment.mlm_variant=irra", "experiment.mlm_masks_all=true", "experiment.text_aug=none"),
    *("model.embed_dim=128", "schedule.epoch=2"),
)
RDE = (
    *(*PUBLISHED, "experiment.tal=true", "experiment.tse=true"),
    *("experiment.text_aug=tokens", "experiment.eda_alpha=0.2", "experiment.tse_width=256"),
)
# Random weights cannot tell what is noisy: they begin to learn first. The mixture is fitted to the end.
CCD = (
    *("experiment.ccd=true", "experiment.ccd_first_epoch=3"),
    *("experiment.ccd_max_iter=100", "experiment.ccd_tol=1e-4", "experiment.ccd_reg_covar=1e-3"),
)
# To tell wrong captions takes a model that knows the right ones: more people, and more steps.
NOISE = (
    *(*LOSS_ALONE, "experiment.tal=true", "experiment.tse=true", "experiment.tse_width=256"),
    *("experiment.dropout=0", "experiment.text_aug=none", "data.noise=0.3", "data.batch_size=32"),
    *("data.annotation_file=datasets/demo", "data.image_root=datasets/demo/imgs", "schedule.epoch=5"),
)
# A step of the full recipe puts four views through the image tower, not one, and takes 2.8 times as long.
RECIPES = {
    "no-trick": Recipe("CLIP without tricks", (*NO_TRICKS, "schedule.epoch=6")),
    "simplified": Recipe("TBPS-CLIP, simplified", (*SIMPLIFIED, "schedule.epoch=6")),
    "full": Recipe("TBPS-CLIP, full", ("schedule.epoch=2",)),
    "sdm": Recipe("SDM alone", (*LOSS_ALONE, "experiment.sdm=true", "schedule.epoch=6")),
    "tal": Recipe("TAL alone", (*LOSS_ALONE, "experiment.tal=true", "schedule.epoch=6")),
    "irra": Recipe("IRRA", IRRA),
    "rde": Recipe("RDE", (*RDE, *CCD, "schedule.epoch=4")),
    "rde-noise": Recipe("RDE", (*NOISE, *CCD)),
    "rde-noise-without": Recipe("RDE without consensus division", NOISE),
}


@dataclass(frozen=True)
class Run:
    """One training of one recipe with one seed, in its own folder."""

    recipe: str
    seed: int
    config: Path
    folder: Path

    @property
    def overrides(self) -> list[str]:
        """The overrides on the command line of `main.py`."""
        folder = json.dumps(str(self.folder))
        return [*RECIPES[self.recipe].overrides, f"misc.seed={self.seed}", f"output.dir={folder}"]

    def options(self) -> Options:
        """The options of the run."""
        return load_options(self.config, self.overrides)

    def can_resume(self) -> bool:
        """Whether the folder is new, or holds a run with the same options, finished or not."""
        written, own = self.folder / "options.yaml", self.options()
        try:
            return not written.exists() or replace(load_options(written), output=own.output) == own
        except UserError:  # of another version
            return False

    def is_finished(self) -> bool:
        """Whether the folder holds the results of this run."""
        return (self.folder / "results.json").exists() and self.can_resume()

    def start(self) -> subprocess.Popen[bytes]:
        """Start its process, which resumes an interrupted run."""
        mode = ["--resume"] if self.can_resume() else ["output.overwrite=true"]
        command = [sys.executable, str(ROOT / "main.py"), "--config", str(self.config)]
        with self.console.open("wb") as console:
            return subprocess.Popen(
                [*command, *self.overrides, *mode],
                cwd=ROOT,
                env=os.environ | ONE_THREAD,
                stdout=console,
                stderr=subprocess.STDOUT,
            )

    @property
    def console(self) -> Path:
        """The file with the console output of the process."""
        return self.folder.with_suffix(".txt")

    def outcome(self) -> Outcome:
        """The figures of a finished run, its divisions, and its cost: samples, CPU seconds of the steps."""
        path = self.folder / "metrics.jsonl"
        records = list(read_metrics(path))
        steps = [record for record in records if record["kind"] == "train"]
        if not steps or not all("cpu_seconds" in record for record in steps):
            expected = "cpu_seconds in every line of training, which earlier versions did not write"
            raise UserError(f"study: '{path}': expected {expected}; remove '{self.folder}' to train it again")
        num_samples = steps[-1]["step"] * self.options().data.batch_size
        seconds = sum(record["cpu_seconds"] for record in steps)
        figures = json.loads((self.folder / "results.json").read_text(encoding="utf-8"))["average"]["t2i"]
        found = {
            record["epoch"]: Found(record["noisy_share"], record.get("precision"), record.get("recall"))
            for record in records
            if record["kind"] == "division"
        }
        return Outcome(self.recipe, self.seed, num_samples, seconds, figures["R1"], figures["mAP"], found)


def train(runs: Sequence[Run], jobs: int) -> None:
    """Train the runs that are not finished, `jobs` at a time. Raises UserError if one fails; the others are
    terminated, and resume when the study is started again.
    """
    waiting = [run for run in runs if not run.is_finished()]
    active: dict[Run, subprocess.Popen[bytes]] = {}
    begin, total = time.monotonic(), len(waiting)
    with tqdm(total=len(runs), initial=len(runs) - total, desc="runs", unit="run", disable=None) as bar:
        try:
            while waiting or active:
                while waiting and len(active) < jobs:
                    run = waiting.pop(0)
                    active[run] = run.start()
                time.sleep(0.2)
                for run in [run for run, process in active.items() if process.poll() is not None]:
                    if status := active.pop(run).returncode:
                        output = run.console.read_text(encoding="utf-8", errors="replace")
                        raise UserError(
                            f"study: the run {run.folder.name} ended with status {status} "
                            f"({' / '.join(output.strip().splitlines()[-3:])}); see '{run.console}'"
                        )
                    bar.update()
                    remaining = len(waiting) + len(active)
                    seconds = (time.monotonic() - begin) / (total - remaining) * remaining
                    found = run.outcome()
                    tqdm.write(
                        f"{found.recipe}, seed {found.seed}: R@1 {found.rank1:.2f}, mAP {found.mean_ap:.2f}, "
                        f"{found.seconds:.0f} CPU seconds of training; "
                        f"about {timedelta(seconds=round(seconds))} remaining"
                    )
        finally:
            for process in active.values():
                process.terminate()
            for process in active.values():
                process.wait()


def _part(runs: Sequence[Run], noisy: bool) -> Part | None:
    """The part of the report about the recipes with wrong captions, or about the others."""
    options = {run.recipe: run.options() for run in runs}
    chosen = {name: found for name, found in options.items() if (found.data.noise is not None) == noisy}
    titles = {name: RECIPES[name].title for name in chosen}
    return Part(titles, next(iter(chosen.values()))) if chosen else None


def build_parser() -> Parser:
    """The command line."""
    parser = Parser(prog="python -m misc.study", description="Compare recipes at equal compute.")
    add = parser.add_argument
    add("--config", type=Path, default=ROOT / "config/study.yaml", help="model and data (config/study.yaml)")
    add("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES), help="default: all")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: 0 1 2")
    add("--runs", type=Path, default=Path("runs/study"), help="the folder of the runs (runs/study)")
    add("--out", type=Path, default=Path("docs"), help="the folder for study.md and study.png (docs)")
    return parser


def study(flags: argparse.Namespace) -> int:
    """Train the runs and write the report; returns the exit status."""
    runs = [
        Run(recipe, seed, flags.config.resolve(), flags.runs.resolve() / f"{recipe}-{seed}")
        for seed in flags.seeds
        for recipe in flags.recipes
    ]
    flags.runs.mkdir(parents=True, exist_ok=True)
    try:
        train(runs, jobs=num_cores())
        write_report(
            [run.outcome() for run in runs], *(_part(runs, noisy) for noisy in (False, True)), flags.out
        )
    except KeyboardInterrupt:
        print("interrupted; the same command resumes the study", file=sys.stderr)
        return 130
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 2 for a user error, or 130 after an interrupt."""
    return exit_status(lambda: study(build_parser().parse_args(arguments)))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # terminates its runs as well, as on Ctrl-C
    sys.exit(main())
