"""Time and memory of the parts of this code: python -m misc.benchmark [--only NAME,...]

Each part runs in its own process: one warm-up run, then the measured ones. The speed of bare matrix products
of the same sizes is measured before and after each of them. "of peak" is the share of that speed which the
required arithmetic reaches; it is comparable between machines, and between idle and busy hours of one.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path

import config
from misc.benchmark.child import measure_part, prepare, run_in_child
from misc.benchmark.parts import BASELINES, GPU_ONLY, PARTS, Settings, select_parts
from misc.benchmark.report import Row, comparison, header, read_report, table_row, write_report
from misc.cli import Parser, exit_status
from options import UserError, load_options

logger = logging.getLogger(__name__)


def build_parser() -> Parser:
    """The command line."""
    width = max(map(len, PARTS)) + 2
    parts = "\n".join(f"  {name:{width}}{meaning}" for name, meaning in PARTS.items())
    parser = Parser(prog="python -m misc.benchmark", description=__doc__, epilog=f"parts:\n{parts}")
    add = parser.add_argument
    add("--only", metavar="NAME,...", help="parts, or groups of parts such as step (default: all)")
    add("--quick", action="store_true", help="a small model and little data, as a functional check")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="misc.device")
    add("--precision", choices=("auto", "fp32", "bf16", "fp16"), default="auto", help="misc.precision")
    add("--batch-size", type=int, metavar="N", help="training samples per step (default: 8; 80 on a GPU)")
    add("--repeats", type=int, metavar="N", help="measured runs of each part (default: 5; with --quick 2)")
    add("--annotations", type=Path, metavar="FILE", help="a data set (default: rendered people)")
    add("--images", type=Path, metavar="DIR", help="the image root of --annotations")
    add("--out", type=Path, default=Path("runs/bench/bench.json"), metavar="FILE", help="results as JSON")
    add("--compare", type=Path, metavar="FILE", help="the --out of an earlier run; prints ratios to it")
    add("overrides", nargs="*", metavar="key.path=value", help="options that override those of every part")
    return parser


def settings_of(flags: argparse.Namespace) -> Settings:
    """The settings of the command line; raises UserError for invalid ones."""
    for name in ("batch_size", "repeats"):
        value = getattr(flags, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')}: expected at least 1, found {value}")
    if (flags.annotations is None) != (flags.images is None):
        raise UserError("--annotations and --images go together: give both, or none for rendered people")
    load_options(config.FOLDER / "config.yaml", flags.overrides)  # mistakes, before any work
    same = ("device", "precision", "batch_size", "quick", "annotations", "images")
    repeats = flags.repeats or (2 if flags.quick else 5)
    return Settings(
        **{name: getattr(flags, name) for name in same}, repeats=repeats, overrides=tuple(flags.overrides)
    )


def warn_of_unused(flags: argparse.Namespace, names: Sequence[str]) -> None:
    """Warn of flags that none of the parts `names` reads."""
    with_data = {name for name in names if not name.startswith(("metrics.", "start.", "baseline.metrics"))}
    with_batches = {name for name in with_data if not name.startswith(("tokens.", "evaluate.", "baseline.c"))}
    if flags.annotations and not with_data:
        logger.warning("--annotations and --images have no effect on these parts: they read no data set")
    if flags.batch_size and not with_batches:
        logger.warning("--batch-size has no effect on these parts: they make no training batch")


def measure_in_child(settings: Settings, name: str, has_gpu: bool) -> Row:
    """The row of a part, or the reason why it has none."""
    if name in GPU_ONLY and not has_gpu:
        return {"why": "skipped: it is for GPUs"}
    try:
        return run_in_child(measure_part, settings, name)
    except BrokenProcessPool:
        return {"why": "failed: its process was killed (out of memory?)"}


def run(flags: argparse.Namespace) -> None:
    """Measure the parts one after another; each row is printed and saved as soon as it is measured."""
    names, settings = select_parts(flags.only), settings_of(flags)
    warn_of_unused(flags, names)
    earlier = read_report(flags.compare) if flags.compare else None
    try:
        flags.out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out: '{flags.out}' cannot be written ({error.strerror}); name another") from error
    machine = run_in_child(prepare, settings, names)
    print(", ".join(f"{key} {value}" for key, value in machine.items() if value), flush=True)
    print(header(), flush=True)
    parts: dict[str, Row] = {}
    for name in names:
        parts[name] = measure_in_child(settings, name, has_gpu=bool(machine["gpu"]))
        print(table_row(name, parts[name]), flush=True)
        write_report(flags.out, machine, asdict(settings), parts)
    baselines = {name: parts[own] for name, own in BASELINES.items() if {name, own} <= parts.keys()}
    if baselines:
        print("\ncompared with the baseline (misc/benchmark/baseline.py), step.rde with step.tal:")
        print(*comparison(baselines, parts), sep="\n")
    if earlier:
        print(f"\ncompared with '{flags.compare}':")
        print(*comparison(earlier["parts"], parts), sep="\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, or 2 and an error line for a user error."""
    return exit_status(lambda: run(build_parser().parse_intermixed_args(arguments)))


if __name__ == "__main__":
    sys.exit(main())
