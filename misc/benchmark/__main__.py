"""What the parts of this code take, in time and memory: python -m misc.benchmark [--only NAME,...]

Each part runs in a process of its own: once to warm up, then a few times; before and after each time the
machine's speed in bare matrix products of the same sizes is measured. MFU is the share of that speed that the
needed arithmetic reaches: it compares between machines, and between quiet and busy hours of one.
"""

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path
from typing import Any

from main import CONFIG, Parser, exit_status
from misc.benchmark.child import in_child, measure_part, prepare
from misc.benchmark.parts import AGAINST, FOR_GPUS, PARTS, Settings, chosen
from misc.benchmark.report import comparison, header, read_report, table_row, write_report
from options import UserError, load_options


def build_parser() -> Parser:
    """The command line."""
    width = max(map(len, PARTS)) + 2
    parts = "\n".join(f"  {name:{width}}{meaning}" for name, meaning in PARTS.items())
    parser = Parser(prog="python -m misc.benchmark", description=__doc__, epilog=f"parts:\n{parts}")
    add = parser.add_argument
    add("--only", metavar="NAME,...", help="parts, or groups of them such as step (all)")
    add("--quick", action="store_true", help="a small model and little data: whether it works, no figures")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="misc.device")
    add("--precision", choices=("auto", "fp32", "bf16", "fp16"), default="auto", help="misc.precision")
    add("--batch-size", type=int, metavar="N", help="training samples of a step (8; on a GPU 80)")
    add("--repeats", type=int, metavar="N", help="times that each part is measured (5; quick: 2)")
    add("--annotations", type=Path, metavar="FILE", help="a data set in place of rendered people")
    add("--images", type=Path, metavar="DIR", help="its image root")
    add("--out", type=Path, default=Path("runs/bench/bench.json"), metavar="FILE", help="all figures as JSON")
    add("--compare", type=Path, metavar="FILE", help="an earlier --out, to print ratios against")
    add("overrides", nargs="*", metavar="key.path=value", help="options over those of every part")
    return parser


def settings_of(flags: argparse.Namespace) -> Settings:
    """The settings that the flags make; raises UserError where they make no sense."""
    for name in ("batch_size", "repeats"):
        value = getattr(flags, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')}: expected at least 1, found {value}")
    if (flags.annotations is None) != (flags.images is None):
        raise UserError("--annotations and --images go together: give both, or none for rendered people")
    load_options(CONFIG / "config.yaml", flags.overrides)  # a mistake there is said before the work begins
    same = ("device", "precision", "batch_size", "repeats", "quick", "annotations", "images")
    flags.repeats = flags.repeats or (2 if flags.quick else 5)
    return Settings(**{name: getattr(flags, name) for name in same}, overrides=tuple(flags.overrides))


def measured(settings: Settings, name: str) -> dict[str, Any]:
    """The row of a part, or why there is none."""
    try:
        return in_child(measure_part, settings, name)
    except BrokenProcessPool:
        return {"why": "failed: its process was killed (too little memory?)"}


def run(flags: argparse.Namespace) -> None:
    """Measure the parts one after another, printing and keeping each row as soon as there is one."""
    names, settings = chosen(flags.only), settings_of(flags)
    before = read_report(flags.compare) if flags.compare else None
    try:
        flags.out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out: '{flags.out}' cannot be written ({error.strerror}); name another") from error
    machine = in_child(prepare, settings, names)
    print(", ".join(f"{key} {value}" for key, value in machine.items() if value), flush=True)
    print(header(), flush=True)
    parts: dict[str, Any] = {}
    for name in names:
        if name in FOR_GPUS and not machine["gpu"]:
            parts[name] = {"why": "skipped: it is for GPUs"}
        else:
            parts[name] = measured(settings, name)
        print(table_row(name, parts[name]), flush=True)
        write_report(flags.out, machine, asdict(settings), parts)
    first = {name: parts[plain] for name, plain in AGAINST.items() if {name, plain} <= parts.keys()}
    if first:
        print("\nagainst the same work as one would write it first:")
        print(*comparison(first, parts), sep="\n")
    if before:
        print(f"\nagainst '{flags.compare}':")
        print(*comparison(before["parts"], parts), sep="\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, or 2 with one line for what the user can mend."""
    return exit_status(lambda: run(build_parser().parse_intermixed_args(arguments)))


if __name__ == "__main__":
    sys.exit(main())
