"""Images read from single files, and from shards: python -m misc.benchmark.reading

Writes images and shards of them, then reads each in the order of training, one after another: the file alone,
and decoded; from the page cache, and from the disk where this process may drop the caches (root on Linux).
"""

import argparse
import io
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from data.columns.choices import Choices
from data.formats import read_splits
from data.images.contained import read_content
from data.images.decode import load_image
from data.sampler import TrainSampler
from data.shards.fetch import Preparer
from data.shards.order import ShardSampler
from data.shards.write import Shape, write_shards
from misc.benchmark.report import header
from misc.cli import Parser, exit_status
from options import UserError

DROP = Path("/proc/sys/vm/drop_caches")
SIZE = (384, 128)  # height and width of the images
REPEATS = 5
COLUMNS = [("files", 14), ("shards", 14), ("ratio", 8)]

Read = Callable[[Path], object]


READS: dict[str, Read] = {"read": read_content, "decode": load_image}


def write_images(folder: Path, number: int, num_bytes: int) -> None:
    """Images of noise that JPEG makes about that large, and their annotations, unless they are there."""
    if (folder / "all.json").exists():
        return
    rng, quality = np.random.default_rng(0), 20
    noise = rng.integers(0, 256, (*SIZE, 3), np.uint8)
    while len(_jpeg(noise, quality)) < num_bytes and quality < 95:
        quality += 1
    for start in range(0, number, 1000):
        (folder / f"imgs/{start // 1000}").mkdir(parents=True, exist_ok=True)
    names = [f"{index // 1000}/{index}.jpg" for index in range(number)]
    for index, name in enumerate(names):
        (folder / "imgs" / name).write_bytes(_jpeg(np.roll(noise, index, axis=index % 2), quality))
    fields = {"split": "train", "captions": ["a person"]}
    items = [{**fields, "id": index, "file_path": name} for index, name in enumerate(names)]
    (folder / "all.json").write_text(json.dumps(items))


def _jpeg(pixels: np.ndarray, quality: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def rate(folder: Path, sampler: TrainSampler, choices: Choices, read: Read) -> float:
    """Images a second, of an epoch."""
    started = time.perf_counter()
    for keys in sampler:
        for _, index in keys:
            read(folder / choices[index][0][0].image)
    return len(choices) / (time.perf_counter() - started)


def run(flags: argparse.Namespace) -> None:
    """Print the rates; raises UserError."""
    if min(flags.images, flags.bytes) < 1000:
        raise UserError("--images, --bytes: expected at least 1000")
    folder, shards = flags.folder / "files", flags.folder / "shards"
    write_images(folder, flags.images, flags.bytes)
    shards.mkdir(exist_ok=True)
    found = {"train": read_splits(folder / "all.json")["train"]}
    write_shards(found, folder / "imgs", shards, Shape(num_images=flags.per_shard), workers=1)
    of_files = Choices(list(found["train"].values()), False)
    of_shards = Choices(list(read_splits(shards)["train"].values()), False)
    names, numbers = of_shards.files()
    window = ShardSampler(numbers, 10_000, 8, Preparer(shards, names, None), 64, 0, drop_last=False)
    shuffle = TrainSampler(len(of_files), 64, 0, drop_last=False)
    size = sum(file.stat().st_size for file in (folder / "imgs").rglob("*.jpg")) / flags.images
    print(f"{flags.images} images of {size / 1000:.1f} kB, images a second, the median of {REPEATS} epochs")
    print(f"{'':20s}" + header(COLUMNS).lstrip())
    for place in ("cache", "disk"):
        if place == "disk" and not os.access(DROP, os.W_OK):
            print(f"disk: not measured, {DROP} cannot be written to")
            continue
        for name, read in READS.items():
            pairs = []
            for epoch in range(-1, REPEATS):  # the first one fills the page cache
                rates = []
                for one, root, choices in ((shuffle, folder / "imgs", of_files), (window, shards, of_shards)):
                    if place == "disk":
                        os.sync()
                        DROP.write_text("3")
                    one.set_epoch(epoch + 1)
                    rates.append(rate(root, one, choices, read))
                pairs += [rates] if epoch >= 0 else []
            files, tars = (statistics.median(values) for values in zip(*pairs, strict=True))
            ratio = statistics.median(tar / file for file, tar in pairs)
            print(f"{name} from {place:13s}"[:20].ljust(20) + f"{files:14,.0f}{tars:14,.0f}{ratio:8.2f}")


def build_parser() -> Parser:
    """The command line."""
    parser = Parser(prog="python -m misc.benchmark.reading", description=__doc__)
    add = parser.add_argument
    add("--images", type=int, default=8000, help="(8000)")
    add("--bytes", type=int, default=20_000, help="of an image, about (20000)")
    add("--per-shard", type=int, default=1000, help="images of a shard (1000)")
    add("--folder", type=Path, default=Path("runs/bench/reading"), help="on the disk (runs/bench/reading)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, or 2 and an error line for a user error."""
    return exit_status(lambda: run(build_parser().parse_args(arguments)))


if __name__ == "__main__":
    sys.exit(main())
