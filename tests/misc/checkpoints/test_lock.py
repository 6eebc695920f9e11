"""One run at a time writes to an output folder; what a dead one left is free."""

import contextlib
import errno
import json
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from main import main
from misc.checkpoints import lock
from misc.checkpoints.lock import LOCK, locked
from misc.process import distributed
from options import UserError
from tests.helpers.gloo import run_in_processes
from tests.helpers.whole_runs import assert_mentions, error_line, files

FORK = multiprocessing.get_context("fork")  # at once, where a new process would import torch first


def hold(folder: Path, connection: Connection, leave_worker: bool = False) -> None:
    """Hold the lock until the connection ends, which a worker of this process outlives."""
    with locked(folder):
        if leave_worker and (worker := os.fork()) == 0:
            time.sleep(600)
        connection.send(worker if leave_worker else None)
        with contextlib.suppress(EOFError):
            connection.recv()


@contextlib.contextmanager
def held(folder: Path) -> Iterator[multiprocessing.Process]:
    """Another process holds the lock of the folder."""
    ours, theirs = FORK.Pipe()
    process = FORK.Process(target=hold, args=(folder, theirs))
    process.start()
    try:
        ours.recv()
        yield process
    finally:
        ours.send(None)
        process.join()


def test_a_second_run_is_refused_before_it_changes_anything(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    with held(run) as holder:
        (run / "metrics.jsonl").write_text("of the first\n")
        before = files(run)
        for more in (["output.overwrite=true"], ["--resume"], ["--resume", str(run / "checkpoint_last.pth")]):
            assert main(["--config", str(config), *more]) == 2
            error = error_line(capsys)
            assert_mentions(error, "output.dir", f"process {holder.pid} on {socket.gethostname()}")
            assert re.search(r"since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d", error)
            assert files(run) == before
    assert main(["--config", str(config), "output.overwrite=true", "schedule.epoch=1"]) == 0
    assert not (run / LOCK).exists()


def test_an_evaluation_keeps_out_of_a_folder_in_use_and_beside_a_training(
    config: Path, finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--config", str(config), "--evaluate", str(finished_run / "checkpoint_best.pth")]
    with held(tmp_path / "run"):
        assert main(arguments) == 2
        assert "in use" in error_line(capsys)
        (tmp_path / "run" / "options.yaml").touch()
        assert main(arguments) == 0
    assert (tmp_path / "run" / "evaluation" / "results.json").exists()


def test_a_killed_run_leaves_its_folder_free_at_once_even_to_its_workers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = FORK.Pipe()
    process = FORK.Process(target=hold, args=(tmp_path, theirs, True))
    process.start()
    worker = ours.recv()
    try:
        process.kill()
        process.join()
        assert (tmp_path / LOCK).exists()
        caplog.set_level("INFO")
        with locked(tmp_path):
            assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
        assert f"process {process.pid} on " in caplog.text
    finally:
        os.kill(worker, signal.SIGKILL)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("PERIOD", 0.05), ("PATIENCE", 0.5), ("PAUSE", 0.05)):
        monkeypatch.setattr(lock, name, value)


@pytest.mark.parametrize("left", [json.dumps({"host": "elsewhere", "pid": 7}), "{", "[" * 900, "\xff\0"])
def test_a_holder_on_another_machine_is_gone_once_it_gives_no_sign_of_life(
    tmp_path: Path, quick: None, left: str
) -> None:
    (tmp_path / LOCK).write_text(left, "latin-1")
    with locked(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_a_holder_on_another_machine_that_gives_signs_of_life_keeps_the_folder(
    tmp_path: Path, quick: None
) -> None:
    holder, has_ended = json.dumps({"host": "elsewhere", "pid": 7, "since": "noon"}), threading.Event()
    (tmp_path / LOCK).write_text(holder)

    def write_again() -> None:
        while not has_ended.wait(0.01):
            os.utime(tmp_path / LOCK)

    thread = threading.Thread(target=write_again)
    thread.start()
    try:
        with pytest.raises(UserError) as refused, locked(tmp_path):
            pass
    finally:
        has_ended.set()
        thread.join()
    assert_mentions(str(refused.value), "process 7 on elsewhere", "since noon", f"remove '{tmp_path / LOCK}'")
    assert (tmp_path / LOCK).read_text() == holder


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_locks_of_the_file_system_signs_of_life_count(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(lock.fcntl, "lockf", refuse)
    with locked(tmp_path):
        with pytest.raises(UserError, match=f"process {os.getpid()} on "), locked(tmp_path):
            pass
        assert (tmp_path / LOCK).exists()
    assert not list(tmp_path.iterdir())


def test_a_folder_that_another_run_has_taken_over_is_left_alone(tmp_path: Path) -> None:
    with locked(tmp_path):
        (tmp_path / LOCK).unlink()  # as the message says where a run is gone
        (tmp_path / LOCK).write_text("another's")
    assert (tmp_path / LOCK).read_text() == "another's"


def test_a_run_that_ends_just_now_is_not_named_as_the_holder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, ask = [False], lock._lock

    def ask_too_early(descriptor: int) -> bool | None:
        if answers:
            (tmp_path / LOCK).unlink()  # its holder, meanwhile
            return answers.pop()
        return ask(descriptor)

    monkeypatch.setattr(lock, "PAUSE", 0.0)
    monkeypatch.setattr(lock, "_lock", ask_too_early)
    with locked(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


def test_a_refused_run_leaves_no_folder_behind(config: Path, tmp_path: Path) -> None:
    command = ["--config", str(config), "data.annotation_file=nowhere"]
    (tmp_path / "mine").mkdir()
    assert main([*command, "--output-dir", str(tmp_path / "mine" / "new" / "run")]) == 2
    assert not list((tmp_path / "mine").iterdir())


@pytest.mark.parametrize("plant", [Path.mkdir, lambda path: path.symlink_to("nowhere/x")])
def test_a_lock_that_cannot_be_written_is_a_user_error(tmp_path: Path, plant: Any) -> None:
    plant(tmp_path / LOCK)
    with pytest.raises(UserError, match=r"output\.dir.*run\.lock"), locked(tmp_path):
        pass


def refusals(folder: str) -> str:
    try:
        with locked(Path(folder)):
            return f"held, {distributed.gather_objects((Path(folder) / LOCK).exists())}"
    except UserError as error:
        return str(error)


def test_all_processes_of_a_run_end_with_the_same_refusal(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert run_in_processes(refusals, 2, tmp_path, str(run)) == ["held, [True, True]"] * 2
    with held(run) as holder:
        first, second = run_in_processes(refusals, 2, tmp_path, str(run))
    assert first == second
    assert f"process {holder.pid} " in first


@pytest.mark.slow
def test_of_two_runs_started_together_one_trains_and_the_other_says_why_not(
    config: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "tests.helpers.fast_main", "--config", str(config), "schedule.epoch=1"]
    for number in range(2):
        out = tmp_path / f"out-{number}"
        both = [
            subprocess.Popen([*command, "--output-dir", str(out)], stderr=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        errors = {process.communicate(timeout=600)[1]: process.returncode for process in both}
        assert sorted(errors.values()) == [0, 2], errors
        (line,) = [text for text, status in errors.items() if status == 2]
        assert line.startswith("error: output.dir: ")
        assert line.count("\n") == 1
        assert (out / "results.json").exists()
        assert not list(out.glob("*.tmp"))
