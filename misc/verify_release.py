"""Verify that a checkpoint released with TBPS-CLIP reproduces its published figures:

    python -m misc.verify_release --benchmark cuhk-pedes --checkpoint FILE [--recipe simplified]

Runs the evaluation of main.py. Exit status 0: all four figures within 0.1; 1: not all; 2: user error.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import config
from misc.cli import Parser, exit_status
from misc.study.published import FACTS

FIGURES = ("R1", "R5", "R10", "mAP")
TOLERANCE = 0.1
RECIPES = {"full": FACTS["TBPS-CLIP"], "simplified": FACTS["TBPS-CLIP simplified"]}
PUBLISHED = {
    recipe: {name: tuple(figures) for name, figures in facts.sets.items()}
    for recipe, facts in RECIPES.items()
}


def build_parser() -> Parser:
    """The command line."""
    parser = Parser(prog="python -m misc.verify_release", description=__doc__)
    add = parser.add_argument
    add("--benchmark", required=True, choices=tuple(PUBLISHED["full"]), help="the data set")
    add("--checkpoint", type=Path, required=True, metavar="FILE", help="the file released for it")
    add("--recipe", choices=tuple(PUBLISHED), default="full", help="of the checkpoint (default: full)")
    add("--annotations", type=Path, metavar="PATH", help="data.annotation_file (default: as in config/)")
    add("--images", type=Path, metavar="DIR", help="data.image_root (default: as in config/)")
    add("--output-dir", type=Path, metavar="DIR", help="output.dir (default: runs/verify/BENCHMARK-RECIPE)")
    add("overrides", nargs="*", metavar="key.path=value", help="such as misc.device=cpu")
    return parser


def compare_figures(measured: dict[str, float], published: Sequence[float]) -> tuple[bool, str]:
    """Whether each figure, rounded to two decimals, is within the tolerance; and a table of the figures."""
    rows, meets = ["            published   measured   difference"], True
    for name, expected in zip(FIGURES, published, strict=True):
        value = round(measured[name], 2)
        difference = round(value - expected, 2)
        mark = "" if abs(difference) <= TOLERANCE else "   not met"
        meets = meets and not mark
        rows.append(f"{name:<8}{expected:>13.2f}{value:>11.2f}{difference:>+13.2f}{mark}")
    return meets, "\n".join(rows)


def run(flags: argparse.Namespace) -> int:
    """Evaluate and compare; returns 0, 1 if figures are not met, or the status of a failed evaluation."""
    from main import main as run_main

    folder = Path(flags.output_dir or f"runs/verify/{flags.benchmark}-{flags.recipe}")
    arguments = ["--config", str(config.FOLDER / f"{flags.benchmark}.yaml"), "--output-dir", str(folder)]
    arguments += ["--evaluate", str(flags.checkpoint)]
    if flags.annotations:  # the authors' files, or curated ones
        arguments += [f"data.annotation_file={json.dumps(str(flags.annotations))}", "data.dataset=auto"]
    if flags.images:
        arguments.append(f"data.image_root={json.dumps(str(flags.images))}")
    if status := run_main([*arguments, *flags.overrides]):
        return status
    measured = json.loads((folder / "results.json").read_text(encoding="utf-8"))["average"]["t2i"]
    meets, table = compare_figures(measured, PUBLISHED[flags.recipe][flags.benchmark])
    verdict = "meets" if meets else "does not meet"
    print(f"\n{flags.benchmark}, {flags.recipe} recipe, text to image, percent\n{table}")
    print(f"verdict: {flags.checkpoint} {verdict} the published figures within {TOLERANCE}")
    return int(not meets)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return exit_status(lambda: run(build_parser().parse_intermixed_args(arguments)))


if __name__ == "__main__":
    sys.exit(main())
