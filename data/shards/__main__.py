"""Command line: `python -m data.shards ANNOTATIONS IMAGES --out DIR`."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from data.annotations import missing_images
from data.formats import read_splits
from data.shards.write import Shape, write_shards
from misc.cli import Parser, exit_status
from misc.process.durable import make_folder
from misc.process.workers import num_cores
from options import UserError


def build_parser() -> Parser:
    """The command line."""
    description = "Write a data set as tar files, which training reads in order: data.sampler=shards."
    parser = Parser(prog="python -m data.shards", description=description)
    add = parser.add_argument
    add("annotations", type=Path, help="annotation file, or folder, of any format of data.annotation_file")
    add("images", type=Path, help="folder that image paths are relative to")
    add("--out", type=Path, required=True, help="the folder; a run that was ended is continued")
    size = (
        "resize the images, as training with this data.image_size does (their files are copied as they are)"
    )
    add("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help=size)
    add("--quality", type=int, default=95, help="of JPEG, 1 to 100, of images that are resized (95)")
    add("--per-shard", type=int, default=10_000, help="images of a shard (10000)")
    add("--seed", type=int, default=0, help="of the order of the training images (0)")
    add("--skip", action="store_true", help="leave out images that cannot be read, at most 1 %% of a split")
    add("--workers", type=int, help="processes (one per core)")
    return parser


def run(flags: argparse.Namespace) -> None:
    """Write the shards and print what was written; raises UserError."""
    workers = num_cores() if flags.workers is None else flags.workers
    numbers = {"--quality": flags.quality, "--per-shard": flags.per_shard, "--workers": workers}
    numbers |= dict(zip(("--size HEIGHT", "--size WIDTH"), flags.size or (), strict=False))
    for name, number in numbers.items():
        if number < 1 or (name == "--quality" and number > 100):
            raise UserError(
                f"{name}: expected a number from 1{' to 100' * (name == '--quality')}, found {number}"
            )
    size = tuple(flags.size) if flags.size else None
    shape = Shape(size, flags.quality, flags.per_shard, flags.seed, flags.skip)
    found = {split: part for split, part in read_splits(flags.annotations, languages=None).items() if part}
    if not found:
        raise UserError(f"'{flags.annotations}' has no train, val or test split")
    images = {name for part in found.values() for name in next(iter(part.values())).images()}
    if (missing := missing_images(images, flags.images)) and not flags.skip:
        raise UserError(
            f"{len(missing)} of {len(images)} images are not under '{flags.images}' (first: '{missing[0]}'). "
            "Check the folder, or leave out at most 1 % with --skip"
        )
    make_folder(flags.out, "--out")
    started = time.perf_counter()
    num_bad = write_shards(found, flags.images, flags.out, shape, workers, progress=sys.stderr.isatty())
    seconds, total = (
        time.perf_counter() - started,
        sum(file.stat().st_size for file in flags.out.glob("*.tar")),
    )
    left_out = f", without {num_bad} that cannot be read" if num_bad else ""
    print(f"{len(images)} images{left_out} are in {flags.out}: {total / 1e6:,.1f} MB, {seconds:.0f} s.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, or 2 and an error line for a user error."""
    return exit_status(lambda: run(build_parser().parse_args(arguments)))


if __name__ == "__main__":
    sys.exit(main())
