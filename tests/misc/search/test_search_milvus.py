"""An index in Milvus, by milvus-lite: it answers as one in a folder does, and is never wrong."""

import argparse
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data.images.decode import load_image
from misc.search.__main__ import main
from misc.search.encoder import Encoder
from misc.search.index import Index
from misc.search.indexing import encoding
from misc.search.indexing.update import update_index
from misc.search.ranking import milvus as ranking
from misc.search.ranking.answer import answer
from misc.search.ranking.filters import Filters
from misc.search.ranking.queries import Query
from misc.search.storage import milvus, milvus_store
from misc.search.storage.places import MilvusPlace, index_place
from options import UserError
from tests.helpers.search import image_folder, save_image, small_encoder

pytest.importorskip("milvus_lite", reason="needs Milvus: pip install pymilvus milvus-lite")
pytest.importorskip("pymilvus", reason="needs Milvus: pip install pymilvus milvus-lite")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[MilvusPlace]:
    """A new file of milvus-lite."""
    place = MilvusPlace(str(tmp_path / "index.db"), "images")
    yield place
    milvus.connect(place).close()
    milvus.connect.cache_clear()


def assert_right(encoder: Encoder, index: Index, paths: list[str]) -> None:
    """Each row of an index has the feature of its image, and there are no others."""
    assert index.paths == sorted(paths)
    expected = encoder.encode_images([load_image(index.image_root / path) for path in index.paths])
    assert index.features_of(range(len(paths))) == pytest.approx(expected.numpy(), abs=2e-3)


def test_an_address_is_a_server_and_a_collection_or_a_file() -> None:
    place = index_place("milvus:http://host:19530/people")
    assert place == MilvusPlace("http://host:19530", "people")
    assert (str(place), place.folder) == ("milvus:http://host:19530/people", None)
    assert (str(index_place("a/b.db")), index_place("runs/index")) == ("a/b.db", Path("runs/index"))
    for text in ("milvus:", "milvus:http://host", "milvus:host/people", "milvus:http://host/my-images"):
        with pytest.raises(argparse.ArgumentTypeError, match="expected milvus:http"):
            index_place(text)


ROOT = Path(__file__).parents[3]
FILTERS = (Filters(), Filters(folder="b"), Filters(pattern="*2.png"), Filters(min_size=(8, 16)))


@pytest.mark.parametrize("limit", [16_384, 4])
def test_it_ranks_filters_and_counts_as_an_index_in_a_folder(
    limit: int, encoder: Encoder, index: Index, place: MilvusPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = update_index(encoder, index.image_root, place)
    assert (found.new, found.total, found.kind) == (10, 10, "exact")
    stored = Index.open(place)
    assert_right(encoder, stored, index.paths)
    assert (stored.header.complete, stored.num_missing) == (True, 0)
    assert stored.ids.tolist() == index.ids.tolist()
    assert stored.facts.of([3]) == index.facts.of([3])
    monkeypatch.setattr(ranking, "MAX_HITS", limit)
    monkeypatch.setattr(ranking, "MAX_IDS", 3)
    query = Query(texts=(("a man in a red coat", 1.0),), more=(4,))
    for filters in FILTERS:
        for k, min_score in ((1, None), (3, -1.0), (20, None), (2, 0.1)):
            asked = {"k": k, "filters": filters, "min_score": min_score, "group": True}
            one, other = (answer(each, encoder, query, **asked) for each in (index, stored))
            assert [result.path for result in one.results] == [result.path for result in other.results]
            scores = [[result.score for result in each.results] for each in (one, other)]
            assert scores[0] == pytest.approx(scores[1], abs=1e-4)
            assert (one.matching, one.passing, one.total) == (other.matching, other.passing, other.total)


def test_the_commands_take_an_address(
    encoder: Encoder, images: Path, place: MilvusPlace, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "clip.mp4").touch()
    command = ["index", str(encoder.checkpoint), str(images), "--out", str(place), "data.test_batch_size=4"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "11 found = 0 kept + 0 moved + 0 copied + 10 new + 0 changed + 1 skipped" in out
    assert (images.parent / "index.db.skipped.txt").read_text().startswith("clip.mp4\ta video")
    assert main(["query", str(place), "a man", "-k", "3"]) == 0
    assert len(capsys.readouterr().out.strip().splitlines()) > 3
    assert main([*command, "--approximate"]) == 2
    assert "--approximate" in capsys.readouterr().err


def test_renamed_copied_and_missing_images_are_not_encoded_again(
    encoder: Encoder, images: Path, place: MilvusPlace
) -> None:
    assert update_index(encoder, images, place).new == 10
    generation = Index.open(place).header.generation
    assert update_index(encoder, images, place).kept == 10
    assert Index.open(place).header.generation == generation, "nothing changed"
    (images / "a" / "00.png").rename(images / "moved.png")
    shutil.copy(images / "a" / "02.png", images / "copy \udcff.png")
    os.utime(images / "a" / "04.png", (1, 1))
    (images / "b").rename(images.parent / "away")
    save_image(images / "a" / "06.png", 99)
    found = update_index(encoder, images, place)
    assert (found.kept, found.moved, found.copied, found.new, found.changed) == (3, 1, 1, 0, 1)
    assert (found.total, found.missing) == (6, 5)
    paths = ["a/02.png", "a/04.png", "a/06.png", "a/08.png", "moved.png", "copy \udcff.png"]
    assert_right(encoder, Index.open(place), paths)
    (images.parent / "away").rename(images / "b")
    found = update_index(encoder, images, place)
    assert (found.kept, found.encoded, found.missing) == (11, 0, 0)
    shutil.rmtree(images / "b")
    found = update_index(encoder, images, place, prune=True)
    assert (found.total, found.missing, found.dropped) == (6, 0, 5)
    assert_right(encoder, Index.open(place), paths)
    next_id = Index.open(place).header.next_id
    save_image(images / "new.png", 100)
    assert update_index(encoder, images, place).new == 1
    stored = Index.open(place)
    assert stored.ids[stored.paths.index("new.png")] == next_id >= 11, "no id is used twice"


def test_a_kill_at_any_write_leaves_right_rows_and_the_next_run_ends_as_one_undisturbed(
    encoder: Encoder, images: Path, place: MilvusPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "SECONDS_PER_PART", 0.0)
    update_index(encoder, images, place)
    client, writes = milvus.connect(place), []
    for number in range(1, 20):
        order = sorted(file.relative_to(images) for file in images.rglob("*.png"))
        target = images / f"kill{number}.png"
        (images / order[0]).rename(target)  # moved
        save_image(images / order[1], 1000 + number)  # changed
        save_image(images / f"new{number}.png", 2000 + number)
        (images / order[2]).unlink()
        with monkeypatch.context() as patch:
            writes.clear()
            for name in ("upsert", "delete", "flush"):
                patch.setattr(client, name, limited(getattr(client, name), number, writes))
            try:
                update_index(encoder, images, place, prune=True)
                break
            except KeyboardInterrupt:
                pass
        stored = Index.open(place)
        features = dict(zip(stored.paths, stored.features_of(range(len(stored.paths))), strict=True))
        for path, feature in features.items():
            file = images / path
            if file.exists() and path != str(order[1]):  # of which the index may have the previous content
                expected = encoder.encode_images([load_image(file)]).numpy()[0]
                assert feature == pytest.approx(expected, abs=2e-3), (number, path)
        update_index(encoder, images, place, prune=True)
        stored = Index.open(place)
        assert (stored.header.complete, stored.num_missing) == (True, 0)
        assert_right(encoder, stored, [str(f.relative_to(images)) for f in images.rglob("*.png")])
    assert number > 4


def limited(write: Any, number: int, writes: list[str]) -> Any:
    """The write, which is a kill from that of this number on."""

    def counted(*arguments: Any, **settings: Any) -> Any:
        writes.append(write.__name__)
        if len(writes) >= number:
            raise KeyboardInterrupt
        return write(*arguments, **settings)

    return counted


def test_what_is_no_index_of_this_model_is_refused(
    encoder: Encoder, images: Path, place: MilvusPlace, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="contains no index"):
        Index.open(place)
    client = milvus.connect(place)
    client.create_collection("images", dimension=4)
    with pytest.raises(UserError, match="a collection of another program"):
        update_index(encoder, images, place)
    client.drop_collection("images")
    update_index(encoder, images, place)
    with pytest.raises(UserError, match="by another model"):
        update_index(small_encoder(tmp_path, seed=1), images, place)
    other = image_folder(tmp_path / "other", 3)
    for number, file in enumerate(sorted(other.rglob("*.png"))):
        save_image(file, 500 + number)
    with pytest.raises(UserError, match="none of the 10 images"):
        update_index(encoder, other, place)
    for content in ("", "{", "[]", '{"format": 2}', '{"format": 3}', '{"format": 2, "more": 1}'):
        row = {"id": milvus.HEADER_ID, "vector": [0.0, 1.0], "content": content}
        client.upsert("images_header", [row])
        with pytest.raises(UserError, match="is damaged"):
            Index.open(place)


def test_the_packages_that_it_needs_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "milvus_lite", None)
    with pytest.raises(UserError, match="pip install pymilvus milvus-lite"):
        Index.open(MilvusPlace(str(tmp_path / "other.db"), "images"))
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(UserError, match=r"pip install pymilvus$"):
        Index.open(MilvusPlace("http://127.0.0.1:1", "images"))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of a server, without the collection."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    command = [sys.executable, "-m", "milvus_lite", "server", "--data-dir", str(tmp_path / "server")]
    with subprocess.Popen([*command, "--port", str(port)], stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.1)
        yield f"milvus:http://127.0.0.1:{port}/"
        process.terminate()


def started(encoder: Encoder, images: Path, address: str, world: int) -> list["subprocess.Popen[str]"]:
    """Processes that index into it, as torchrun starts them."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    command = [sys.executable, "-m", "misc.search", "index", str(encoder.checkpoint), str(images)]
    command += ["--out", address, "data.test_batch_size=4"]
    meeting = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | (meeting if world > 1 else {})
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": images.parent}
    ranks = [environment | ({"RANK": str(rank)} if world > 1 else {}) for rank in range(world)]
    return [subprocess.Popen(command, env=each, **piped) for each in ranks]


@pytest.mark.slow
def test_machines_share_the_images_and_a_second_run_is_refused(
    encoder: Encoder, images: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = index_place(f"{server}people")
    first = started(encoder, images, str(place), world=2)
    outputs = [process.communicate()[0] for process in first]
    assert [process.returncode for process in first] == [0, 0], outputs
    assert "10 found = 0 kept + 0 moved + 0 copied + 10 new" in outputs[0]
    stored = Index.open(place)
    assert (stored.header.complete, len(set(stored.ids))) == (True, 10)
    assert_right(encoder, stored, [str(f.relative_to(images)) for f in images.rglob("*.png")])
    for file in sorted(images.rglob("*.png"))[:5]:
        file.rename(images / f"renamed {file.name}")
    save_image(images / "new.png", 77)
    again = started(encoder, images, str(place), world=3)
    outputs = [process.communicate()[0] for process in again]
    assert "11 images, 1 encoded" in outputs[0]
    stored = Index.open(place)
    assert_right(encoder, stored, [str(f.relative_to(images)) for f in images.rglob("*.png")])
    monkeypatch.chdir(images.parent)  # where skipped files are listed
    client = milvus.connect(place)
    with milvus_store.locked(client, place), pytest.raises(UserError, match="is being updated by another"):
        update_index(encoder, images, place)
    (killed,) = started(encoder, images, str(place), world=1)
    while not client.query("people_header", filter="id >= 1000", output_fields=["id"]):
        assert killed.poll() is None
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert update_index(encoder, images, place).kept == 11
    client.close()
    milvus.connect.cache_clear()
