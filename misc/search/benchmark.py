"""The measurements of docs/search.md: python -m misc.search.benchmark [--images N ...] [--indexing FILE DIR]

Features are synthetic: unit vectors c of 10,000 centres, and around them (c + 0.7 u) / |c + 0.7 u| with u a
random unit vector, so that two of a centre have a cosine near 0.67; queries come from the same distribution.
With --milvus they are written to a new index in Milvus, and searched there.
With --indexing it measures, instead, the throughput of an index run relative to the encoder's forward pass.
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
from typing import TypeVar

import numpy as np
import torch

from misc.cli import Parser, exit_status
from misc.search.encoder import Encoder, load_encoder
from misc.search.index import Index
from misc.search.indexing.decoding import decode
from misc.search.indexing.update import update_index
from misc.search.indexing.walk import find_images
from misc.search.ranking.engines import Selection, build_approximate
from misc.search.ranking.filters import Filters
from misc.search.storage.database import APPROXIMATE, CHUNK, EXACT, Entry, Header
from misc.search.storage.milvus_store import writing
from misc.search.storage.places import MilvusPlace, index_place
from misc.search.storage.store import Store, create, new_features_name
from options import UserError

WIDTH, NUM_CENTRES, NOISE, K, NUM_QUERIES, NUM_ROUNDS = 512, 10_000, 0.7, 10, 100, 5
FILTERS = Filters(pattern="*[1-9].jpg", min_size=(64, 128), since="1970-01-02")  # nine of ten images pass

T = TypeVar("T")


def timed(work: Callable[..., T], *arguments: object) -> tuple[float, T]:
    """Call a function with these arguments; returns the seconds that it took and what it returned."""
    started = time.perf_counter()
    result = work(*arguments)
    return time.perf_counter() - started, result


def sample(rng: np.random.Generator, centres: np.ndarray, count: int) -> np.ndarray:
    """(count, WIDTH) fp16 features around random centres."""
    noise = normalise(rng.standard_normal((count, WIDTH), np.float32))
    return normalise(centres[rng.integers(len(centres), size=count)] + NOISE * noise).astype(np.float16)


def normalise(rows: np.ndarray) -> np.ndarray:
    """The rows, divided by their norms."""
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def write_index(folder: Path, features: np.ndarray, kind: str) -> float:
    """Write an index of these features, as an update does; returns the seconds that building IVF-PQ took."""
    create(folder, Header(str(folder), "", "", {}, WIDTH, features=new_features_name()))
    store = Store(folder)
    for row in store.append(features):
        path = f"camera_{row % 8}/{row:012d}.jpg"
        store.put([Entry(store.new_id(), row, path, 10_000, 10**18 + row, row.to_bytes(16, "big"), 64, 128)])
    started, name = time.perf_counter(), ""
    if kind == APPROXIMATE:
        name = "approximate-1.faiss"
        with (folder / name).open("wb") as file:
            build_approximate(features, store.slots(), file)
    building = time.perf_counter() - started
    store.commit(kind, name, complete=True)
    return building


def sampled(count: int) -> tuple[np.ndarray, np.ndarray]:
    """The (count, WIDTH) fp16 features, and (NUM_QUERIES, WIDTH) fp32 queries."""
    rng = np.random.default_rng(0)
    centres = normalise(rng.standard_normal((NUM_CENTRES, WIDTH), np.float32))
    chunks = [min(CHUNK, count - start) for start in range(0, count, CHUNK)]
    features = np.concatenate([sample(rng, centres, size) for size in chunks])
    return features, sample(rng, centres, NUM_QUERIES).astype(np.float32)


def measure_milvus(count: int, place: MilvusPlace) -> None:
    """Print the row of the table for this number of images in Milvus."""
    features, queries = sampled(count)
    started = time.perf_counter()
    with writing(place, Header("/", "", "", {}, WIDTH)) as store:
        if store.entries:
            raise UserError(f"--milvus: '{place}' contains an index; name a new one")
        store.reserve(count)
        for start in range(0, count, CHUNK):
            for row in store.append(features[start : start + CHUNK]):
                path = f"camera_{row % 8}/{row:012d}.jpg"
                store.put([Entry(store.new_id(), row, path, 10_000, row, row.to_bytes(16, "big"), 64, 128)])
            store.commit()
        store.finish(None)
    seconds = time.perf_counter() - started
    opening, index = timed(Index.open, place)
    opening += timed(index.search, queries[:1], K)[0]
    latency = 1e3 * statistics.median(timed(index.search, query[None], K)[0] for query in queries)
    _, rows = index.search(queries, K)
    exact = np.argsort(-(queries @ features.astype(np.float32).T), axis=1)[:, :K]
    recall = np.mean([len(set(a) & set(b)) / K for a, b in zip(index.ids[rows], exact, strict=True)])
    print(
        f"| {count:,} | Milvus | {latency:.1f} ms | | | {recall:.3f} | | {opening:.1f} s | {seconds:.0f} s |"
    )


def measure_search(count: int) -> None:
    """Print the rows of the table for this number of images."""
    features, queries = sampled(count)
    exact = None
    for kind in (EXACT, APPROXIMATE):
        with tempfile.TemporaryDirectory() as folder:
            building = write_index(Path(folder), features, kind)
            opening, index = timed(Index.open, Path(folder))
            opening += timed(index.search, queries[:1], K)[0]
            size = sum(file.stat().st_size for file in Path(folder).iterdir()) / features.nbytes
            selecting, selection = timed(index.select, FILTERS)
            latency, filtered = measure_queries(index, queries, selection)
            _, rows = index.search(queries, K)
            exact = rows if exact is None else exact
            recall = np.mean([len(set(a) & set(b)) / K for a, b in zip(rows, exact, strict=True)])
            filtering = f"{filtered:.1f} ms | {selecting:.1f} s"
            figures = f"{recall:.3f} | {size:.2f} | {opening:.1f} s | {building:.0f} s"
            print(f"| {count:,} | {kind} | {latency:.1f} ms | {filtering} | {figures} |", flush=True)


def measure_queries(index: Index, queries: np.ndarray, selection: Selection) -> tuple[float, float]:
    """The median milliseconds of single queries, of all images and of selected ones, in turns."""
    times = [
        (timed(index.search, query[None], K)[0], timed(index.search, query[None], K, selection)[0])
        for query in queries
    ]
    return tuple(1e3 * statistics.median(column) for column in zip(*times, strict=True))


def measure_indexing(encoder: Encoder, image_root: Path, count: int) -> None:
    """Print the durations of an index run and of the forward pass alone on the same images, in turns."""
    shares = []
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary, "images")
        found = sorted(itertools.islice(find_images(image_root, Path(temporary), {}), count))
        root.mkdir()
        for number, image in enumerate(found):
            os.symlink((image_root / image.path).absolute(), root / f"{number}{Path(image.path).suffix}")
        paths = [image.path for image in find_images(root, Path(temporary), {})]
        settings = (encoder.processor, encoder.batch_size, encoder.on_gpu)
        batches = [batch.pixels for batch in decode(root, paths, *settings) if batch.indices]
        list(encoder.encode_batches(batches[:1]))
        for turn in range(NUM_ROUNDS):
            forward, _ = timed(list, encoder.encode_batches(batches))
            indexing, update = timed(update_index, encoder, root, Path(temporary, f"index {turn}"))
            shares.append(forward / indexing)
            print(
                f"{update.encoded} images: forward {forward:.1f} s, index {indexing:.1f} s, {shares[-1]:.1%}"
            )
    print(f"share of the forward throughput: {statistics.median(shares):.1%}, median of {NUM_ROUNDS}")


def build_parser() -> Parser:
    """The command line."""
    parser = Parser(prog="python -m misc.search.benchmark", description=__doc__)
    sizes = {"type": int, "nargs": "+", "metavar": "N"}
    parser.add_argument("--images", **sizes, help="numbers of images (100000 1000000)")
    milvus = "measure an index in Milvus instead, a new one: milvus:http://HOST:PORT/NAME, or NAME.db"
    parser.add_argument("--milvus", type=index_place, metavar="INDEX", help=milvus)
    files = {"type": Path, "nargs": 2, "metavar": ("CHECKPOINT", "IMAGE_ROOT")}
    parser.add_argument("--indexing", **files, help="measure indexing instead")
    return parser


def run(flags: argparse.Namespace) -> None:
    """Measure indexing, or print a table with rows for each number of images."""
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    if flags.indexing:
        checkpoint, image_root = flags.indexing
        if len(flags.images or ()) > 1:
            raise UserError("--images: expected one number with --indexing")
        measure_indexing(load_encoder(checkpoint), image_root, *(flags.images or [100_000]))
        return
    if flags.milvus and not (isinstance(flags.milvus, MilvusPlace) and len(flags.images or ()) == 1):
        raise UserError("--milvus: expected an address of Milvus, and one number with --images")
    print("| images | search | one query | filtered | filter | recall@10 | size / raw | opening | building |")
    print("|---|---|---|---|---|---|---|---|---|")
    for count in flags.images or (100_000, 1_000_000):
        if flags.milvus:
            measure_milvus(count, flags.milvus)
        else:
            measure_search(count)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status, 2 for a user error."""
    return exit_status(lambda: run(build_parser().parse_args(arguments)))


if __name__ == "__main__":
    sys.exit(main())
