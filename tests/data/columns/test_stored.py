"""Large annotations are read once; whatever of them or of their files changes, they are read again."""

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from data import annotations, formats
from data.annotations import load_data
from data.columns import stored
from data.formats import read_splits
from options import UserError, load_options

ITEMS = [
    {"split": split, "id": n, "file_path": f"cam/{split}{n}.jpg", "captions": ["a man", f"{n}"]}
    for split in ("train", "val", "test")
    for n in range(3)
]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What was read, of which all is large."""
    read: list[Path] = []
    inner = formats._read

    def spy(path: Path, *arguments: object) -> object:
        read.append(path)
        return inner(path, *arguments)

    monkeypatch.setattr(formats, "_read", spy)
    monkeypatch.setattr(stored, "MIN_BYTES", 0)
    return read


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a" / "reid_raw.json"
    path.parent.mkdir()
    path.write_text(json.dumps(ITEMS))
    return path


def files(folder: Path) -> set[str]:
    return {path.name for path in (folder / ".columns").iterdir() if path.suffix == ".arrow"}


@pytest.mark.parametrize("name", ["reid_raw.json", ""])
def test_they_are_read_once_for_each_request(file: Path, name: str, reads: list[Path]) -> None:
    path = file.parent / name
    first = read_splits(path)
    assert [record.image for record in first["test"]["en"]] == [f"cam/test{n}.jpg" for n in range(3)]
    assert read_splits(path) == first
    assert read_splits(path)["train"]["en"].file
    assert len(reads) == 1
    assert read_splits(path, ["test"]) == {"test": first["test"]}
    assert read_splits(path, dataset="cuhk-pedes", languages=None) == first
    assert len(reads) == 3
    for _ in range(2):
        read_splits(path)
        read_splits(path, ["test"])
    assert len(reads) == 3
    heard: list[str] = []
    assert read_splits(path, report=lambda kind, message: heard.append(message)) == first
    assert len(reads) == 4, "a check always reads"


@pytest.mark.parametrize("change", ["content", "time", "size", "column file", "entry", "code"])
def test_they_are_read_again_after_a_change(
    file: Path, change: str, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = {split: {"en": list(part["en"])} for split, part in read_splits(file).items()}
    before = files(file.parent)
    if change == "content":
        file.write_text(json.dumps(ITEMS).replace("a man", "one"))
    elif change == "time":
        os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    elif change == "size":
        (column,) = (file.parent / ".columns").glob("*-train-0.arrow")
        column.write_bytes(column.read_bytes()[:-1])
    elif change == "column file":
        (column,) = (file.parent / ".columns").glob("*-train-0.arrow")
        column.write_bytes(bytes(column.stat().st_size))
    elif change == "entry":
        (entry,) = (file.parent / ".columns").glob("*.json")
        entry.write_text("{}")
    else:
        monkeypatch.setattr(stored, "_code", lambda: "other")
    again = read_splits(file)
    assert len(reads) == 2
    assert (again["train"]["en"][0].captions[0] == "one") == (change == "content")
    assert (again == first) == (change != "content")
    after = files(file.parent)
    assert len(after) == len(before) == 3, "those of the earlier state are gone"
    read_splits(file)
    assert len(reads) == 2


def test_small_ones_are_not_kept(file: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "MIN_BYTES", 32 << 20)
    read_splits(file)
    assert not (file.parent / ".columns").exists()


def test_faults_are_raised_each_time_and_nothing_is_kept(file: Path, reads: list[Path]) -> None:
    file.write_text(json.dumps([*ITEMS, {"split": "test", "id": "x", "file_path": "b.jpg", "captions": []}]))
    for _ in range(2):
        with pytest.raises(UserError, match="record 9: field 'id' should be a whole number, found 'x'"):
            read_splits(file)
    assert len(reads) == 2
    assert not files(file.parent)


def test_warnings_are_said_each_time(file: Path, reads: list[Path], caplog: pytest.LogCaptureFixture) -> None:
    item = {"split": "test", "id": -1, "file_path": "b.jpg", "captions": ["nobody"]}
    file.write_text(json.dumps([*ITEMS, item]))
    said = []
    for _ in range(3):
        caplog.clear()
        read_splits(file)
        said.append([(r.name, r.message) for r in caplog.records if r.levelno == logging.WARNING])
    assert len(reads) == 1
    assert said[0] == said[1] == said[2] != []
    assert "1 captions of person id -1, nobody, are not used" in said[0][0][1]


def test_where_nothing_can_be_written_they_are_read_each_time(
    file: Path, reads: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    (file.parent / ".columns").write_text("a file is in the way")
    first = read_splits(file)
    assert read_splits(file) == first
    assert len(reads) == 2
    assert "cannot be written" in caplog.text


def test_processes_that_start_together_read_once(file: Path, tmp_path: Path) -> None:
    script = (
        "import sys\nfrom data import formats\nfrom data.columns import stored\n"
        "stored.MIN_BYTES = 0\ninner = formats._read\n"
        "def spy(*a):\n    open(sys.argv[2], 'a').write('x')\n    return inner(*a)\n"
        "formats._read = spy\nprint([r.image for r in formats.read_splits(sys.argv[1])['train']['en']])\n"
    )
    log = tmp_path / "log"
    command = [sys.executable, "-c", script, str(file), str(log)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(4)]
    outputs = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0] * 4
    assert outputs == [f"{[f'cam/train{n}.jpg' for n in range(3)]}\n".encode()] * 4
    assert log.read_text() == "x"


def test_folders_of_images_are_listed_again_once_they_change(
    file: Path, tmp_path: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "imgs"
    (root / "cam").mkdir(parents=True)
    for item in ITEMS:
        (root / str(item["file_path"])).touch()
    listed: list[Path] = []
    inner = annotations._names
    monkeypatch.setattr(annotations, "_names", lambda folder: listed.append(folder) or inner(folder))
    options = load_options({}, [f"data.annotation_file={file}", f"data.image_root={root}"])
    load_data(options)
    load_data(options)
    assert len(listed) == 2, "the folder is too new to be sure of it"
    past = os.stat(root / "cam").st_mtime_ns - 10_000_000_000
    os.utime(root / "cam", ns=(past, past))
    load_data(options)
    load_data(options)
    assert len(listed) == 3
    (root / "cam/train1.jpg").unlink()
    with pytest.raises(UserError, match=r"lists 1 images that are not under .*train1.jpg"):
        load_data(options)
    os.utime(root / "cam", ns=(past, past))  # as it was, but for the file
    other = load_options({}, [f"data.annotation_file={file}", f"data.image_root={tmp_path / 'gone'}"])
    with pytest.raises(UserError, match="no folder"):
        load_data(other)
    shutil.rmtree(root)
    with pytest.raises(UserError, match="no folder"):
        load_data(options)
