"""Several processes and one index: one writes, others read, and any of them may be killed."""

import json
import logging
import os
import random
import shutil
import signal
import sqlite3
import time
import zlib
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import faiss
import numpy as np
import pytest

from data.images.decode import load_image
from misc.checkpoints.lock import LOCK, locked
from misc.search.__main__ import main
from misc.search.encoder import Encoder
from misc.search.index import Index
from misc.search.indexing import encoding
from misc.search.indexing.update import update_index
from misc.search.ranking import engines
from misc.search.storage.database import digest_of
from misc.search.web.page import Page
from options import UserError
from tests.helpers.search import ask, image_folder, running, save_image


def in_child(work: Callable[[], object], report: Path) -> int:
    """Start a process that does this, and writes "done" or what was raised to `report`; returns its id."""
    child = os.fork()
    if child == 0:
        try:
            work()
            report.write_text("done")
        except BaseException as error:
            report.write_text(f"{type(error).__name__}: {error}")
        finally:
            os._exit(0)
    return child


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A generation for each batch, decoded in the process itself."""
    monkeypatch.setattr(encoding, "SECONDS_PER_PART", 0)
    monkeypatch.setattr("misc.search.indexing.decoding.num_cores", lambda: 0)


def assert_right(encoder: Encoder, folder: Path) -> Index:
    """Each image of the root has a row, and each row has the feature of its image."""
    index = Index.open(folder)
    files = [index.image_root / path for path in index.paths]
    assert sorted(files) == sorted(index.image_root.rglob("*.png"))
    expected = encoder.encode_images([load_image(file) for file in files]).numpy()
    assert index.features_of(range(len(files))) == pytest.approx(expected, abs=1e-3)
    return index


@pytest.mark.parametrize("pairs", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_of_two_runs_at_once_one_writes_and_kills_leave_an_index_that_the_next_completes(
    pairs: int, encoder: Encoder, tmp_path: Path, parts: None
) -> None:
    rng, images = random.Random(pairs), image_folder(tmp_path / "images", 40 if pairs == 2 else 400)
    started = time.monotonic()
    update_index(encoder, images, tmp_path / "undisturbed")
    seconds = time.monotonic() - started
    expected = Index.open(tmp_path / "undisturbed")
    outcomes: list[str] = []
    for pair in range(pairs):
        folder = tmp_path / f"index {pair}"
        for _ in range(4):
            reports = [tmp_path / f"report {number}" for number in range(2)]
            for report in reports:
                report.unlink(missing_ok=True)
            work = partial(update_index, encoder, images, folder)
            children = [in_child(work, report) for report in reports]
            for child in rng.sample(children, 2):
                time.sleep(rng.uniform(0, seconds / 3))
                os.kill(child, signal.SIGKILL)
            for child in children:
                os.waitpid(child, 0)
            outcomes += [report.read_text() if report.exists() else "killed" for report in reports]
        update_index(encoder, images, folder)
        index = Index.open(folder)
        rows = range(len(index.paths))
        assert index.paths == expected.paths
        assert index.features_of(rows).tobytes() == expected.features_of(rows).tobytes()
        assert not (folder / LOCK).exists()
    assert_right(encoder, folder)
    refused = [outcome for outcome in outcomes if outcome not in ("done", "killed", "")]
    assert all("is in use by process" in outcome for outcome in refused), refused
    print({kind: outcomes.count(kind) for kind in ("done", "killed", "")}, len(refused), "refused")


def test_a_second_run_names_the_first_in_one_line(
    encoder: Encoder, images: Path, index_folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    reading, writing = os.pipe()

    def hold() -> None:
        with locked(index_folder, "INDEX", "--out"):
            os.write(writing, b"1")
            time.sleep(600)

    child = in_child(hold, tmp_path / "report")
    os.read(reading, 1)
    command = ["index", str(encoder.checkpoint), str(images), "--out", str(index_folder)]
    assert main(command) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"error: INDEX: '{index_folder}' is in use by process {child} on ")
    assert "choose another folder with --out" in line
    assert main(["query", str(index_folder), "a man"]) == 0
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert main(command) == 0, "the lock of a process that is gone is taken over"


def named_image(folder: Path, content: int, number: int) -> Path:
    return folder / f"{content:02d}" / f"{number}.png"


def change(rng: random.Random, images: Path, away: Path) -> None:
    """Rename, copy, touch, remove or bring back an image; its folder tells its content."""
    files = sorted(images.rglob("*.png"))
    file, kind = rng.choice(files), rng.choice(["rename", "copy", "touch", "away", "back"])
    target = file.with_name(f"{rng.randrange(10**6)}.png")
    if kind == "rename":
        file.rename(target)
    elif kind == "copy" and len(files) < 40:
        shutil.copyfile(file, target)
    elif kind == "touch":
        os.utime(file)
    elif kind == "away" and len(files) > 10:
        file.rename(away / f"{file.parent.name} {file.name}")
    elif kind == "back" and list(away.iterdir()):
        content, _, name = rng.choice(sorted(file.name for file in away.iterdir())).partition(" ")
        (away / f"{content} {name}").rename(images / content / name)


@pytest.mark.parametrize("updates", [20, pytest.param(2000, marks=pytest.mark.slow)])
def test_queries_beside_updates_see_whole_generations_and_no_damage(
    updates: int, encoder: Encoder, tmp_path: Path, parts: None
) -> None:
    images, away, folder = tmp_path / "images", tmp_path / "away", tmp_path / "index"
    away.mkdir()
    for content in range(20):
        save_image(named_image(images, content, 0), content)
    update_index(encoder, images, folder)
    index = Index.open(folder)
    features = {path[:2]: index.features_of([row])[0] for row, path in enumerate(index.paths)}

    def write() -> None:
        rng = random.Random(updates)
        for number in range(updates):
            for _ in range(rng.randrange(1, 4)):
                change(rng, images, away)
            found = update_index(encoder, images, folder, prune=number % 10 == 9)
            assert found.kept + found.moved + found.copied + found.new == found.total == found.found

    child = in_child(write, tmp_path / "report")
    seen, opened, queries = set(), 0, np.eye(3, encoder.embed_dim, dtype=np.float32)
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        index = Index.open(folder)
        opened += 1
        seen.add(index.header.generation)
        scores, rows = index.search(queries, 5)
        for query, own_scores, own_rows in zip(queries, scores, rows, strict=True):
            expected = [query @ features[index.paths[row][:2]].astype(np.float32) for row in own_rows]
            assert own_scores == pytest.approx(expected, abs=1e-5)
    assert (tmp_path / "report").read_text() == "done"
    print(f"{opened} queries saw {len(seen)} of {Index.open(folder).header.generation} generations")
    assert_right(encoder, folder)


def test_a_search_of_the_page_uses_the_latest_generation_and_older_results_keep_their_images(
    encoder: Encoder, images: Path, index_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    update_index(encoder, images, index_folder)
    page = Page(Index.open(index_folder), encoder)
    before, last = page.index, page.index.paths[-1]
    with running(page) as address:
        number = int(before.ids[before.row_of(9)])
        _, thumbnail = ask(f"{address}/api/images/{number}/thumbnail")
        save_image(images / "0.png", 50)  # becomes the first row
        (images / "a" / "00.png").unlink()
        update_index(encoder, images, index_folder)
        answer = json.loads(ask(f"{address}/api/search", {"text": "a man"})[1])
        assert sorted(result["path"] for result in answer["results"]) == page.index.paths
        assert "0.png" in page.index.paths
        assert ask(f"{address}/api/images/{number}/thumbnail")[1] == thumbnail
        assert page.index.paths[page.index.row_of(number)] == last
        status, error = ask(f"{address}/api/images/{before.ids[0]}/thumbnail")
        assert (status, b"search again" in error) == (404, True)
        (index_folder / "index.db").write_bytes(b"damaged")
        with caplog.at_level(logging.WARNING):
            status, error = ask(f"{address}/api/search", {"text": "a man"})
        assert (status, b"is damaged" in error) == (503, True)
        assert ask(f"{address}/api/images/{number}/thumbnail")[1] == thumbnail
        assert "previous update" in caplog.text


@pytest.fixture(scope="module")
def built(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An approximate index of few images."""
    folder, threads = tmp_path_factory.mktemp("approximate"), faiss.omp_get_max_threads()
    image_folder(folder / "images", 310)
    faiss.omp_set_num_threads(1)  # on a busy machine, threads wait for each other
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engines, "MIN_APPROXIMATE", 300)
        update_index(encoder, folder / "images", folder / "index", approximate=True)
    faiss.omp_set_num_threads(threads)
    return folder / "index"


@pytest.fixture
def approximate(built: Path, tmp_path: Path) -> tuple[Path, "faiss.IndexIVFPQ"]:
    """The file of an approximate index, and its content."""
    (file,) = Path(shutil.copytree(built, tmp_path / "index")).glob("approximate-*.faiss")
    return file, faiss.read_index(str(file))


def other_width(index: "faiss.IndexIVFPQ") -> faiss.Index:
    index.d *= 2
    return index


def other_ids(change: Callable[[np.ndarray], np.ndarray]) -> Callable[["faiss.IndexIVFPQ"], faiss.Index]:
    """The same index with other ids."""

    def crafted(index: "faiss.IndexIVFPQ") -> faiss.Index:
        for number in range(index.nlist):
            size = index.invlists.list_size(number)
            ids = faiss.rev_swig_ptr(index.invlists.get_ids(number), size)
            ids[:] = change(ids)
        return index

    return crafted


def flat(index: "faiss.IndexIVFPQ") -> faiss.Index:
    other = faiss.IndexFlatIP(index.d)
    other.add(np.zeros((310, index.d), np.float32))
    return other


CRAFTED = {
    "of another kind": flat,
    "of another width": other_width,
    "with ids out of range": other_ids(lambda ids: ids + 10**6),
    "with negative ids": other_ids(lambda ids: ids - 5),
    "with an id twice": other_ids(lambda ids: np.maximum(ids, 1)),
}


@pytest.mark.parametrize("craft", CRAFTED)
def test_a_crafted_approximate_index_is_damaged(
    craft: str, approximate: tuple[Path, "faiss.IndexIVFPQ"], capsys: pytest.CaptureFixture[str]
) -> None:
    file, index = approximate
    assert main(["query", str(file.parent), "a man", "--json"]) == 0
    faiss.write_index(CRAFTED[craft](index), str(file))
    with closing(sqlite3.connect(file.parent / "index.db")) as database, database:
        (text,) = database.execute("SELECT content FROM header").fetchone()
        text = json.dumps(json.loads(text) | {"digest": digest_of(file)})
        database.execute("UPDATE header SET content = ?, crc = ?", (text, zlib.crc32(text.encode())))
    capsys.readouterr()
    assert main(["query", str(file.parent), "a man"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "is damaged" in line


@pytest.mark.parametrize("count", [30, pytest.param(1000, marks=pytest.mark.slow)])
def test_damaged_bytes_of_an_approximate_index_are_reported(
    count: int, approximate: tuple[Path, "faiss.IndexIVFPQ"]
) -> None:
    rng, (file, _) = random.Random(count), approximate
    whole = file.read_bytes()
    damaged = bytearray(whole)
    damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
    contents = [bytes(damaged), whole + b"\0", b"", rng.randbytes(len(whole))]
    contents += [whole[: rng.randrange(len(whole))] for _ in range(count)]
    for content in contents:
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"is damaged .*index again"):
            Index.open(file.parent)
    file.write_bytes(whole)
    assert len(Index.open(file.parent).paths) == 310


@pytest.mark.parametrize("count", [30, pytest.param(1000, marks=pytest.mark.slow)])
def test_damaged_bytes_of_an_index_never_give_a_wrong_row(
    count: int, encoder: Encoder, index: Index, index_folder: Path
) -> None:
    rng = random.Random(count)
    whole = (index_folder / "index.db").read_bytes()
    right = dict(zip(index.paths, index.features_of(range(10)).tolist(), strict=True))
    refused = 0
    for _ in range(count):
        damaged = bytearray(whole)
        for _ in range(rng.choice([1, 1, 10])):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        size = len(damaged) if rng.random() < 0.8 else rng.randrange(len(damaged))
        (index_folder / "index.db").write_bytes(damaged[:size])
        try:
            found = Index.open(index_folder)
        except UserError:
            refused += 1
        else:
            assert dict(zip(found.paths, found.features_of(range(10)).tolist(), strict=True)) == right
    assert refused
    print(f"{refused} of {count} refused")
