"""Command line: `python -m data.synthetic --out DIR --identities N --seed S`, or with `--scenes N`."""

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

OF_SINGLE_PERSONS = {  # flags that other sets have no use for, and their defaults
    **dict.fromkeys(("identities", "val_identities", "test_identities")),
    "images_per_identity": 3,
    "captions": "full",
}


def build_parser() -> Parser:
    """The command line."""
    description = (
        "Generate the embedded data set of rendered pedestrians, or street photos and videos of several."
    )
    parser = Parser(prog="python -m data.synthetic", description=description)
    add = parser.add_argument
    add("--out", type=Path, required=True, help="the folder; an earlier synthetic set in it is replaced")
    add("--identities", type=int, help="number of people, all splits together, each alone in the images")
    photos = "number of street photos of 2 to 7 people, at least 4; the second half is the test split"
    add("--scenes", type=int, help=photos)
    add("--videos", type=int, help="number of short videos of 3 people who walk past each other, at least 2")
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
    workers = num_cores() if flags.workers is None else flags.workers
    if workers < 1:
        raise UserError(f"--workers: expected at least 1, found {workers}")
    make = people if flags.scenes is None and flags.videos is None else scenes
    started = time.perf_counter()
    try:
        written, what, number = make(flags, workers)
    except OSError as error:
        raise UserError(f"--out: cannot write there ({error}); check rights and free space") from error
    seconds = time.perf_counter() - started
    if written:
        print(f"Wrote {what} to {flags.out}: {number / seconds:.0f} images/s.")
    else:
        print(f"Nothing to do: {flags.out} holds these {what} already.")


def people(flags: argparse.Namespace, workers: int) -> tuple[bool, str, int]:
    """Images of single persons: whether they were written, what they are, and how many."""
    if flags.identities is None:
        raise UserError("--identities: expected the number of people, or --scenes with that of photos")
    count = flags.identities
    tenth = max(1, count // 10)
    val, test = (tenth if n is None else n for n in (flags.val_identities, flags.test_identities))
    parameters = Parameters(
        count, flags.seed, val, test, flags.images_per_identity, flags.domain, flags.captions
    )
    written = generate(flags.out, parameters, workers, progress=sys.stderr.isatty())
    splits = f"{count - val - test} train, {val} val, {test} test"
    number = parameters.num_images
    return written, f"{number} images of {count} people ({splits})", number


def scenes(flags: argparse.Namespace, workers: int) -> tuple[bool, str, int]:
    """Street photos and videos, as `people` returns it."""
    from data.synthetic.photos import plan, videos, write

    for name, default in OF_SINGLE_PERSONS.items():
        if getattr(flags, name) != default:
            raise UserError(
                f"--{name.replace('_', '-')} has no meaning with --scenes and --videos; leave one of them out"
            )
    parameters = plan.Parameters(flags.scenes or 0, flags.videos or 0, flags.seed, flags.domain)
    written = write.generate(flags.out, parameters, workers, progress=sys.stderr.isatty())
    what = [
        f"{number} {name}" for number, name in ((flags.scenes, "photos"), (flags.videos, "videos")) if number
    ]
    if flags.videos and not videos.has_films():
        what[-1] += " (as frames alone; for .mp4 files: pip install av)"
    number = parameters.scenes + parameters.videos * videos.NUM_FRAMES
    return written, " and ".join(what), number


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, or 2 and an error line for a user error."""
    return exit_status(lambda: run(build_parser().parse_args(arguments)))


if __name__ == "__main__":
    sys.exit(main())
