"""Command line: `python -m data.synthetic --out DIR --identities N --seed S`."""

import argparse
import sys
import time
from pathlib import Path
from typing import NoReturn

from data.synthetic.write import Parameters, generate
from misc.process.workers import num_cores
from options import UserError


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n")


def build_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = Parser(
        prog="python -m data.synthetic", description="Writes the embedded data set of rendered pedestrians."
    )
    add = parser.add_argument
    add(
        "--out",
        type=Path,
        required=True,
        help="folder to write to; an earlier synthetic set in it is replaced",
    )
    add("--identities", type=int, required=True, help="number of people, all splits together")
    add("--seed", type=int, default=0, help="the same seed gives the same bytes (0)")
    add("--val-identities", type=int, help="people of the validation split (a tenth of all)")
    add("--test-identities", type=int, help="people of the test split (a tenth of all)")
    add(
        "--images-per-identity", type=int, default=3, help="images of each, by as many cameras (3, at most 8)"
    )
    add("--workers", type=int, help="processes (one for each core)")
    return parser


def main() -> int:
    """Writes the set; returns the exit status."""
    options = build_parser().parse_args()
    tenth = max(1, options.identities // 10)
    val, test = (tenth if n is None else n for n in (options.val_identities, options.test_identities))
    workers = num_cores() if options.workers is None else options.workers
    started = time.perf_counter()
    try:
        if workers < 1:
            raise UserError(f"--workers: expected at least 1, found {workers}")
        parameters = Parameters(options.identities, options.seed, val, test, options.images_per_identity)
        written = generate(options.out, parameters, workers, progress=sys.stderr.isatty())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: --out: cannot write there ({error}); check rights and free space", file=sys.stderr)
        return 2
    seconds = time.perf_counter() - started
    people = f"{options.identities} people ({options.identities - val - test} train, {val} val, {test} test)"
    if written:
        speed = parameters.num_images / seconds
        print(f"Wrote {parameters.num_images} images of {people} to {options.out}: {speed:.0f} images/s.")
    else:
        print(f"Nothing to do: {options.out} holds these {parameters.num_images} images of {people} already.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
