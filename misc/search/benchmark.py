"""The figures of docs/search.md: python -m misc.search.benchmark [--images N ...] [--indexing FILE DIR]

Features are drawn: unit vectors c of 10,000 centres, and around them (c + 0.7 u) / |c + 0.7 u| with u a
random unit vector, so that two of a centre have a cosine near 0.67; queries are drawn as the images are. With
--indexing it measures, instead, how much of the encoder's pure forward throughput an index run reaches.
"""

import argparse
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from misc.cli import Parser, exit_status
from misc.search import store
from misc.search.encoder import Encoder, load_encoder
from misc.search.engines import build_approximate
from misc.search.index import APPROXIMATE, EXACT, Index, approximate_file
from misc.search.store import Segment
from misc.search.update import update_index
from misc.search.walk import Found, decode, find_images

WIDTH, CENTRES, NOISE, K, QUERIES = 512, 10_000, 0.7, 10, 100


def draw(rng: np.random.Generator, centres: np.ndarray, count: int) -> np.ndarray:
    """(count, D) fp16 features around centres drawn at random."""
    block = unit(rng.standard_normal((count, WIDTH), np.float32))
    return unit(centres[rng.integers(len(centres), size=count)] + NOISE * block).astype(np.float16)


def unit(rows: np.ndarray) -> np.ndarray:
    """The rows, normalised."""
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def write_index(folder: Path, features: np.ndarray, kind: str) -> float:
    """An index of these features, as an update writes it; returns the seconds that IVF-PQ took."""
    head = {"image_root": str(folder), "checkpoint": "", "identity": "", "options": {}}
    images = [Found(f"camera_{row % 8}/{row:012d}.jpg", 10_000, row) for row in range(len(features))]
    segment = Segment(folder, "1")
    segment.write(images, lambda file: np.save(file, features))
    began = time.perf_counter()
    if kind == APPROXIMATE:
        build_approximate(segment.features(*features.shape), approximate_file(folder, 1))
    store.write_head(folder, {**head, "embed_dim": WIDTH, "generation": 1, "kind": kind})
    return time.perf_counter() - began


def milliseconds(work: Callable[[np.ndarray], object], queries: np.ndarray) -> float:
    """The median time of one query, each asked alone."""
    times = []
    for query in queries:
        began = time.perf_counter()
        work(query[None])
        times.append(time.perf_counter() - began)
    return 1e3 * statistics.median(times)


def measure(count: int) -> None:
    """Print the rows of the table for so many images."""
    rng = np.random.default_rng(0)
    centres = unit(rng.standard_normal((CENTRES, WIDTH), np.float32))
    features = np.concatenate(
        [draw(rng, centres, min(store.CHUNK, count - s)) for s in range(0, count, store.CHUNK)]
    )
    queries = draw(rng, centres, QUERIES).astype(np.float32)
    exact = None
    for kind in (EXACT, APPROXIMATE):
        with tempfile.TemporaryDirectory() as folder:
            building = write_index(Path(folder), features, kind)
            began = time.perf_counter()
            index = Index.open(Path(folder))
            index.search(queries[:1], K)
            loading = time.perf_counter() - began
            size = sum(file.stat().st_size for file in Path(folder).iterdir()) / features.nbytes
            one = milliseconds(lambda query, index=index: index.search(query, K), queries)
            _, rows = index.search(queries, K)
            exact = rows if exact is None else exact
            recall = np.mean([len(set(a) & set(b)) / K for a, b in zip(rows, exact, strict=True)])
            figures = f"{one:.1f} ms | {recall:.3f} | {size:.2f} | {loading:.1f} s | {building:.0f} s"
            print(f"| {count:,} | {kind} | {figures} |", flush=True)


def measure_indexing(encoder: Encoder, image_root: Path, count: int, rounds: int = 5) -> None:
    """Print what an index run takes beside the pure forward pass of the same images, in turns."""
    shares = []
    with tempfile.TemporaryDirectory() as place:
        root = Path(place, "images")
        found = sorted(itertools.islice(find_images(image_root, Path(place), {}), count))
        root.mkdir()
        for number, image in enumerate(found):
            os.symlink((image_root / image.path).absolute(), root / f"{number}{Path(image.path).suffix}")
        paths = [image.path for image in find_images(root, Path(place), {})]
        settings = (encoder.processor, encoder.batch_size, encoder.on_gpu)
        batches = [batch.pixels for batch in decode(root, paths, *settings)]
        list(encoder.encode_batches(batches[:1]))
        for turn in range(rounds):
            began = time.perf_counter()
            list(encoder.encode_batches(batches))
            forward = time.perf_counter() - began
            began = time.perf_counter()
            update = update_index(encoder, root, Path(place, f"index {turn}"))
            indexing = time.perf_counter() - began
            shares.append(forward / indexing)
            print(
                f"{update.encoded} images: forward {forward:.1f} s, index {indexing:.1f} s, {shares[-1]:.1%}"
            )
    print(f"share of the pure forward throughput: {statistics.median(shares):.1%}, median of {rounds}")


def build_parser() -> Parser:
    """The command line."""
    parser = Parser(prog="python -m misc.search.benchmark", description=__doc__)
    parser.add_argument(
        "--images", type=int, nargs="+", default=[100_000, 1_000_000], help="sizes of indices"
    )
    parser.add_argument(
        "--indexing", type=Path, nargs=2, metavar=("CHECKPOINT", "IMAGE_ROOT"), help="see above"
    )
    return parser


def run(flags: argparse.Namespace) -> None:
    """Measure what the flags ask for, a row of a table for each size."""
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    if flags.indexing:
        checkpoint, image_root = flags.indexing
        measure_indexing(load_encoder(checkpoint), image_root, flags.images[0])
        return
    print("| images | search | one query | recall@10 | size / raw fp16 | opening | building |")
    print("|---|---|---|---|---|---|---|")
    for count in flags.images:
        measure(count)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, or 2 with one line for what the user can mend."""
    return exit_status(lambda: run(build_parser().parse_args(arguments)))


if __name__ == "__main__":
    sys.exit(main())
