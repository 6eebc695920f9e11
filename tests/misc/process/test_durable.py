"""What a disk does not take at once, or not at all: files stay whole, and the log's lines come later."""

import errno
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from misc.process import logs
from misc.process.durable import leftovers, replacing, write_text
from misc.process.logs import RunLog
from tests.helpers.whole_runs import read_metrics


def full(*_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def refuse_folders(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Lets every flush of a folder fail with an error of this number."""
    original = os.fsync

    def plant(number: int) -> None:
        def fsync(descriptor: int) -> None:
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                raise OSError(number, os.strerror(number))
            original(descriptor)

        monkeypatch.setattr(os, "fsync", fsync)

    return plant


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_flushes_no_folders_takes_files(
    number: int, refuse_folders: Callable[[int], None], tmp_path: Path
) -> None:
    refuse_folders(number)
    write_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "new"


def test_a_folder_that_cannot_be_flushed_holds_the_new_file(
    refuse_folders: Callable[[int], None], tmp_path: Path
) -> None:
    write_text(tmp_path / "a", "old")
    refuse_folders(errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        write_text(tmp_path / "a", "new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "new")]


def test_lines_that_a_full_disk_held_back_are_written_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunLog(tmp_path, step=0, epoch=0)
    with monkeypatch.context() as patch:
        patch.setattr(logs, "_append", full)
        run.write({"kind": "train", "step": 1, "loss": 2.0})
        run.write({"kind": "train", "step": 2, "loss": 1.0})
    assert read_metrics(tmp_path) == []
    run.close()
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2]


def test_lines_that_are_lost_with_a_full_disk_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logs, "_append", full)
    run = RunLog(tmp_path, step=0, epoch=0)
    run.write({"kind": "train", "step": 1, "loss": 2.0})
    run.close()
    assert f"the last lines of '{tmp_path / 'metrics.jsonl'}' are lost: 1 (No space left" in caplog.text


DAMAGES = {
    "cut": lambda line: line[:20],
    "zeros": lambda line: bytes(len(line)),
    "no UTF-8": lambda line: line.replace(b"nitc", b"ni\xffc"),
    "nested": lambda line: b"[" * 100_000,
    "no object": lambda line: b"7",
    "no kind": lambda line: line.replace(b'"kind"', b'"kinf"'),
    "another kind": lambda line: line.replace(b'"train"', b'"trbin"'),
    "no step": lambda line: line.replace(b'"step"', b'"stfp"'),
    "a step of another type": lambda line: line.replace(b'"step": 1', b'"step": "'),
    "a value of another type": lambda line: line.replace(b"0.5", b'"a"'),
}


def step_record(step: int) -> dict[str, Any]:
    return {"kind": "train", "epoch": 1, "step": step, "steps_per_epoch": 9, "lr": 0.1, "loss": 2.0} | {
        "parts": {"nitc": 0.5}
    }


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_resumed_run_leaves_damaged_lines_out_and_names_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[bytes], bytes]
) -> None:
    lines = [json.dumps(step_record(step)).encode() for step in (1, 1, 2, 3)]
    lines[1] = damage(lines[1])
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join([*lines, b""]))
    RunLog(tmp_path, step=2, epoch=0).close()
    assert read_metrics(tmp_path) == [step_record(1), step_record(2)]
    assert f"'{tmp_path / 'metrics.jsonl'}': damaged, and left out: line 2" in caplog.text
    RunLog(tmp_path, step=2, epoch=0).close()
    assert len(caplog.records) == 1


def test_two_processes_that_write_a_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    with replacing(tmp_path / "a") as one, replacing(tmp_path / "a") as other:
        one.write(b"one")
        other.write(b"other")
        assert len(leftovers(tmp_path / "a")) == 2
    assert (tmp_path / "a").read_bytes() == b"one"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
