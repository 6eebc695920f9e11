"""Shards that are elsewhere: each is copied once, whole, and only copies are ever removed."""

import functools
import http.server
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from data.annotations import load_data
from data.shards.__main__ import main as write
from data.shards.fetch import AHEAD, Fetcher, Preparer
from main import main
from options import UserError, load_options
from tests.helpers.tiny_config import write_config
from tests.helpers.whole_runs import read_metrics, status_and_error, timeless

END = bytes(1024)
COUNTS = Path("/proc/self/io")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "there"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.tar").write_bytes(f"shard {number}".encode().ljust(512, b"\0") + END)
    (folder / "cut.tar").write_bytes(b"x" * 700)
    return folder


@pytest.fixture
def server(source: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    handler = functools.partial(Quiet, directory=str(source))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/{{}}"
        running.shutdown()


def test_a_shard_is_copied_from_a_server_or_a_command(source: Path, server: str, tmp_path: Path) -> None:
    for number, address in enumerate((server, f"pipe:cat {source}/{{}}")):
        fetcher = Fetcher(tmp_path / f"here {number}", address)
        assert [fetcher.ensure("2.tar"), fetcher.ensure("2.tar")] == [True, False]
        assert (fetcher.folder / "2.tar").read_bytes() == (source / "2.tar").read_bytes()


@pytest.mark.parametrize("kind", ["server", "command"])
@pytest.mark.parametrize("name", ["cut.tar", "none.tar"])
def test_what_is_not_there_or_cut_short_is_one_line(
    kind: str, name: str, source: Path, server: str, tmp_path: Path
) -> None:
    fetcher = Fetcher(
        tmp_path / "here", server if kind == "server" else f"pipe:cat {source}/{{}} 2>/dev/null"
    )
    with pytest.raises(UserError, match=rf"data\.shards: '{name}' cannot be copied from '.*'") as caught:
        fetcher.ensure(name)
    assert "\n" not in str(caught.value)
    assert not [file for file in fetcher.folder.iterdir() if not file.name.startswith(".")]


def test_the_copies_needed_last_are_kept_and_other_files_stay(source: Path, tmp_path: Path) -> None:
    fetcher = Fetcher(tmp_path / "here", f"pipe:cat {source}/{{}}", kept=2)
    fetcher.folder.mkdir()
    (fetcher.folder / "own.tar").write_bytes(END)
    for name in ("0.tar", "1.tar", "2.tar"):
        fetcher.touch(name)
    assert sorted(file.name for file in fetcher.folder.glob("*.tar")) == ["1.tar", "2.tar", "own.tar"]
    fetcher.touch("1.tar")
    fetcher.touch("3.tar")
    assert sorted(file.name for file in fetcher.folder.glob("*.tar")) == ["1.tar", "3.tar", "own.tar"]


def test_a_preparer_copies_in_the_background_and_leaves_errors_to_others(
    source: Path, tmp_path: Path
) -> None:
    fetcher = Fetcher(tmp_path / "here", f"pipe:cat {source}/{{}} 2>/dev/null")
    prepare = Preparer(fetcher.folder, ["none.tar", "1.tar"], fetcher)
    prepare([0, 1])
    while not (fetcher.folder / "1.tar").exists():
        pass


@pytest.mark.skipif(not COUNTS.exists(), reason="the system does not count what a process reads")
def test_a_preparer_reads_the_whole_shard(tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(bytes(10 * AHEAD + 1))
    before = bytes_read()
    Preparer(tmp_path, ["0.tar"], None)([0])
    while bytes_read() - before <= 10 * AHEAD:
        time.sleep(0.01)


def bytes_read() -> int:
    """By this process, since it began."""
    return int(COUNTS.read_text().split("rchar:")[1].split()[0])


def test_a_run_on_shards_that_are_elsewhere_is_that_on_shards_here(people: Path, tmp_path: Path) -> None:
    there, index = tmp_path / "there", tmp_path / "index"
    command = [str(people), str(people / "imgs"), "--out", str(there), "--per-shard", "3", "--workers", "1"]
    assert write(command) == 0
    shutil.copytree(there, index, ignore=shutil.ignore_patterns("*.tar"))
    order = {"sampler": "shards", "shuffle_window": 6, "shard_streams": 2, "batch_size": 8}
    places = {
        "here": {"annotation_file": str(there), "image_root": str(there)},
        "elsewhere": {
            "annotation_file": str(index),
            "image_root": str(tmp_path / "copies"),
            "shards": f"pipe:cat {there}/{{}}",
            "num_workers": 2,
            "shards_kept": 4,
        },
    }
    for name, place in places.items():
        changes = {"data": order | place, "output": {"dir": str(tmp_path / name)}, "schedule": {"epoch": 2}}
        assert main(["--config", str(write_config(tmp_path / f"{name}.yaml", people, 16, **changes))]) == 0
    here, elsewhere = (timeless(read_metrics(tmp_path / name)) for name in places)
    assert here == elsewhere
    copies = sorted(file.name for file in (tmp_path / "copies").glob("train*.tar"))
    assert len(copies) == 4 < len([*there.glob("train*.tar")])


def test_too_few_copies_to_keep_are_refused(people: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert write([str(people), str(people / "imgs"), "--out", str(out), "--workers", "1"]) == 0
    data = {"annotation_file": str(out), "image_root": str(out), "sampler": "shards", "shards_kept": 15}
    data |= {"shards": f"pipe:cat {out}/{{}}"}
    changes = {"data": data, "output": {"dir": str(tmp_path / "run")}}
    status, said = status_and_error(
        ["--config", str(write_config(tmp_path / "a.yaml", people, 16, **changes))]
    )
    assert status == 2
    assert "15 copies are fewer than twice data.shard_streams (8)" in said


def test_without_the_address_the_missing_shards_are_said(people: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert write([str(people), str(people / "imgs"), "--out", str(out), "--workers", "1"]) == 0
    for file in out.glob("*.tar"):
        file.unlink()
    places = [f"data.annotation_file={out}", f"data.image_root={out}"]
    with pytest.raises(UserError, match=r"lists \d+ images that are not under"):
        load_data(load_options({}, places))
