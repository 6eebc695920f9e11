"""Command line: `python -m data.synthetic --out DIR --identities N --seed S`."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from data.synthetic.captions import CAPTIONS
from data.synthetic.domains import DOMAINS
from data.synthetic.write import Parameters, generate
from misc.cli import Parser, exit_status
from misc.process.workers import num_cores
from options import UserError


def build_parser() -> Parser:
    """The command line."""
    description = "Generate the embedded data set of rendered pedestrians."
    parser = Parser(prog="python -m data.synthetic", description=description)
    add = parser.add_argument
    add("--out", type=Path, required=True, help="the folder; an earlier synthetic set in it is replaced")
    add("--identities", type=int, required=True, help="number of people, all splits together")
    add("--seed", type=int, default=0, help="the same seed gives the same bytes (0)")
    add("--val-identities", type=int, help="people of the validation split (a tenth of all)")
    add("--test-identities", type=int, help="people of the test split (a tenth of all)")
    images = "images of each person, each by another camera (3, at most 8)"
    add("--images-per-identity", type=int, default=3, help=images)
    looks = (
        "cameras, places, drawing, clothes and wording; campus: small pale crops and short captions; mall: "
    )
    looks += "large warm crops and long captions (street)"
    add("--domain", default="street", choices=DOMAINS, help=looks)
    kinds = (
        "full: two captions of an image, each with a paraphrase; web: one, short and noisy like an alt text, "
    )
    kinds += "every tenth says nothing about the person (full)"
    add("--captions", default="full", choices=CAPTIONS, help=kinds)
    add("--workers", type=int, help="processes (one per core)")
    return parser


def run(flags: argparse.Namespace) -> None:
    """Generate the set and print what was written; raises UserError."""
    count, out = flags.identities, flags.out
    tenth = max(1, count // 10)
    val, test = (tenth if n is None else n for n in (flags.val_identities, flags.test_identities))
    workers = num_cores() if flags.workers is None else flags.workers
    if workers < 1:
        raise UserError(f"--workers: expected at least 1, found {workers}")
    parameters = Parameters(
        count, flags.seed, val, test, flags.images_per_identity, flags.domain, flags.captions
    )
    started = time.perf_counter()
    try:
        written = generate(out, parameters, workers, progress=sys.stderr.isatty())
    except OSError as error:
        raise UserError(f"--out: cannot write there ({error}); check rights and free space") from error
    seconds, images = time.perf_counter() - started, parameters.num_images
    people = f"{count} people ({count - val - test} train, {val} val, {test} test)"
    if written:
        print(f"Wrote {images} images of {people} to {out}: {images / seconds:.0f} images/s.")
    else:
        print(f"Nothing to do: {out} holds these {images} images of {people} already.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, or 2 and an error line for a user error."""
    return exit_status(lambda: run(build_parser().parse_args(arguments)))


if __name__ == "__main__":
    sys.exit(main())
