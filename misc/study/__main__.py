"""Compare recipes over data sets and seeds: `make study`, or python -m misc.study [--plan FILE].

Every run is main.py in a process of its own, as many at once as there are GPUs or cores. Finished runs are
kept, interrupted ones resume. The report comes from stored outcomes: --report FILE makes it again from them.
"""

import argparse
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from misc.cli import Parser, exit_status
from misc.study.expand import pretraining_run, training_runs, transfer_runs
from misc.study.outcome import Stored, machine, outcome_of
from misc.study.plan import Plan, narrowed, quickened, read_plan, with_variants
from misc.study.report import write_report
from misc.study.runs import FINISHED, ROOT, Job, devices, run_all
from options import UserError


def build_parser() -> Parser:
    """The command line."""
    parser = Parser(prog="python -m misc.study", description=__doc__)
    add = parser.add_argument
    add("--plan", type=Path, default=ROOT / "config/studies/small.yaml", help="config/studies/small.yaml")
    add("--recipes", nargs="+", metavar="NAME", help="of the plan (all)")
    add("--sets", nargs="+", metavar="NAME", help="to train on (all that the plan trains on)")
    add("--seeds", nargs="+", type=int, help="(those of the plan)")
    add("--noise", nargs="+", type=float, metavar="SHARE", help="of wrong captions, 0: none (the plan's)")
    variant = "a further recipe: its name, that of the recipe that it changes, section.name=value ..."
    add("--variant", nargs="+", action="append", default=[], metavar="WORD", help=variant)
    add("--processes", type=int, default=1, help="of each training, on as many GPUs (1)")
    add("--runs", type=Path, help="the folder of the runs (runs/study; with --quick runs/study-quick)")
    add("--out", type=Path, help="the folder for study.md and study/ (that of the runs)")
    add("--quick", action="store_true", help="the plan's short form, which shows the shape of the report")
    add("--dry-run", action="store_true", help="print the runs, their states, expected costs and commands")
    rate = "what a GPU, or core, does in a second, for the hours of --dry-run (40; an A40's peak is 150)"
    add("--tflops", type=float, default=40.0, help=rate)
    equal = "measure the steps of all recipes in turn, and print the epochs that take this long; run nothing"
    add("--calibrate", type=float, metavar="SECONDS", help=equal)
    add("--report", type=Path, metavar="FILE", help="make the report of this study/runs.jsonl, run nothing")
    return parser


def plan_of(flags: argparse.Namespace) -> Plan:
    """The plan that the flags ask for."""
    plan = with_variants(read_plan(flags.plan), flags.variant)
    if flags.quick:
        plan = quickened(plan)
    for number in flags.seeds or ():
        if number < 0:
            raise UserError(f"--seeds: expected numbers from 0, found {number}")
    for share in flags.noise or ():
        if not 0 <= share < 1:
            raise UserError(f"--noise: expected shares from 0 to below 1, found {share:g}")
    if flags.tflops <= 0:
        raise UserError(f"--tflops: expected a number above 0, found {flags.tflops:g}")
    if flags.processes < 1:
        raise UserError(f"--processes: expected at least 1, found {flags.processes}")
    return narrowed(plan, flags.recipes, flags.sets, flags.seeds, flags.noise)


def study(flags: argparse.Namespace) -> int:
    """Run what is not finished and write the report; returns the exit status."""
    plan = plan_of(flags)
    folder = (flags.runs or Path("runs/study-quick" if flags.quick else "runs/study")).resolve()
    out = flags.out or folder
    if flags.report:
        write_report(plan, flags.report, out)
        return 0
    first = pretraining_run(plan, folder)
    others = [*training_runs(plan, folder, flags.processes), *transfer_runs(plan, folder)]
    jobs = [Job(run) for run in ([first] if first else []) + others]
    is_cpu = all(job.options.misc.device == "cpu" for job in jobs)  # reads all options before any run starts
    if flags.dry_run:
        print_runs(jobs, flags.tflops)
        return 0
    if flags.calibrate:
        of_recipe: dict[str, Job] = {}  # the first run of each
        for job in jobs:
            if job.run.trained_on:
                of_recipe.setdefault(job.run.recipe, job)
        print_calibration(of_recipe, flags.calibrate)
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if first:
            run_all(jobs[:1], devices(is_cpu, first.processes), _line)
            if jobs[0].state() != FINISHED:
                raise UserError(f"study: the pretraining failed ({_line(jobs[0])}); see '{jobs[0].console}'")
        run_all(jobs[bool(first) :], devices(is_cpu, flags.processes), _line)
    except KeyboardInterrupt:
        print("interrupted; the same command resumes the study", file=sys.stderr)
        return 130
    outcomes = [outcome_of(job) for job in jobs]
    write_report(plan, Stored(machine(), outcomes), out)
    failed = [one for one in outcomes if one.failure]
    print(
        f"Wrote {out / 'study.md'} and {out / 'study'}: {len(outcomes)} runs, {len(failed)} of them failed."
    )
    return 1 if failed else 0


def print_runs(jobs: Sequence[Job], tflops: float) -> None:
    """Print each run, its state, its expected cost and its command, and what all that are to do will take."""
    from misc.study.expected import expected_cost

    hours, unknown = 0.0, 0
    for job in jobs:
        state, cost = job.state(), "an evaluation"
        if not job.run.evaluates:
            found = expected_cost(job.options)
            cost = f"{found.epochs} epochs of {found.samples or 'unknown'} samples"
            cost += f", {found.flops / 1e15:,.1f} PFLOP, {found.hours(tflops):,.2f} h" if found.flops else ""
            hours += found.hours(tflops) * (state != FINISHED)
            unknown += not found.flops
        print(f"{state}: {job.run.name} ({cost})\n  {shlex.join(job.command())}", flush=True)
    rest = f", and {unknown} runs whose cost is not known" if unknown else ""
    print(f"Expected, of what is not finished: {hours:,.1f} h of one device at {tflops:g} TFLOP/s{rest}")


def print_calibration(jobs: dict[str, Job], seconds: float) -> None:
    """Print what an epoch of each recipe takes, and the numbers of epochs of about equal cost."""
    from misc.study.calibrate import equal_epochs, measure_steps

    costs = measure_steps({name: job.options for name, job in jobs.items()})
    chosen = equal_epochs(costs, seconds)
    for name, cost in costs.items():
        total = chosen[name] * cost.epoch
        print(
            f"{name:20s} {cost.epoch:8.2f} s an epoch of {cost.steps} steps (middle half ±"
            f"{50 * cost.spread:.0f} %)   schedule.epoch={chosen[name]:<4d} {total:8.1f} s"
        )


def _line(job: Job) -> str:
    """What is printed of a run that ended."""
    found = outcome_of(job)
    if found.failure:
        return f"{found.name}: {found.failure}; see '{job.console}'"
    figures = found.figures[job.run.tested_on]
    cost = f", {found.cost.seconds:.0f} s of training" if found.cost else ""
    return f"{found.name}: R@1 {figures['R1']:.2f}, mAP {figures['mAP']:.2f}{cost}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0; 1 if a run failed; 2 for a user error; 130 after an
    interrupt.
    """
    return exit_status(lambda: study(build_parser().parse_args(arguments)))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # terminates its runs as well, as on Ctrl-C
    sys.exit(main())
