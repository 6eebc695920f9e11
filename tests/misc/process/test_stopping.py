"""A run that is stopped anywhere resumes, and ends as if it had not been stopped."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from main import main
from misc.checkpoints import read as checkpoint
from misc.checkpoints import saver
from misc.evaluation.evaluator import Evaluator
from misc.training.engine import Trainer
from tests.helpers.gloo import run_in_processes
from tests.helpers.tiny_config import write_tiny
from tests.helpers.whole_runs import (
    assert_mentions,
    assert_same_runs,
    content,
    ended,
    error_line,
    losses,
    read_metrics,
    say_pid,
    torchrun,
    write_program,
)

STEPS = 10  # of an epoch: 40 samples in batches of 4
Run = Callable[..., int]
COMMON = ["data.batch_size=4", "experiment.dropout=0.3", "log.print_period=3"]


@pytest.fixture(scope="module")
def whole(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of two epochs that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole")
    assert main(["--config", str(write_tiny(folder / "tiny.yaml", people, folder / "run")), *COMMON]) == 0
    return folder / "run"


@pytest.fixture
def parted(tmp_path: Path) -> Path:
    """The folder of those of `run`."""
    return tmp_path / "run"


@pytest.fixture
def run(config: Path) -> Run:
    return lambda *more: main(["--config", str(config), *COMMON, *more])


@contextmanager
def in_step(number: int, act: Callable[[], Any]) -> Iterator[None]:
    """Something happens in a step, counted from 1."""
    original = Trainer.train_step

    def train_step(self: Trainer, *arguments: Any) -> None:
        if self.step + 1 == number:
            act()
        original(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "train_step", train_step)
        yield


def send(number: signal.Signals) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("name", "step"),
    [("SIGTERM", 4), ("SIGINT", 9), ("SIGUSR1", STEPS), ("SIGTERM", STEPS + 1), ("SIGINT", 2 * STEPS)],
)
def test_a_signal_lets_the_step_end_and_saves(
    run: Run, whole: Path, parted: Path, capsys: pytest.CaptureFixture[str], name: str, step: int
) -> None:
    with in_step(step, send(getattr(signal, name))):
        assert run() == 75
    error = capsys.readouterr().err.strip()
    assert error.startswith(f"stopped by {name}")
    assert "\n" not in error
    saved = content(parted / checkpoint.LAST)["step"]
    assert saved in (step, step + 1)  # the ranks agree on an end while the next step is computed
    torch.rand(1)  # whatever the process drew in between
    assert run("--resume") == 0
    assert_same_runs(whole, parted)


def test_a_signal_during_the_evaluation_loses_no_step(
    run: Run, whole: Path, parted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "encode", lambda _: os.kill(os.getpid(), signal.SIGTERM))
        assert run() == 75
    state = content(parted / checkpoint.LAST)
    assert (state["step"], state["epoch"]) == (STEPS, 0)
    assert run("--resume") == 0
    assert_same_runs(whole, parted)


def test_signals_do_what_they_did_once_the_run_is_over(run: Run) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
    assert run("schedule.epoch=1") == 0
    after = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
    assert after == before


class CrashError(Exception):
    pass


def crash() -> None:
    raise CrashError


@pytest.mark.parametrize("period", ["4", "0.000000001 minutes"])
def test_a_run_that_dies_goes_on_from_its_last_checkpoint_inside_the_epoch(
    run: Run, whole: Path, parted: Path, period: str
) -> None:
    with in_step(STEPS + 8, crash), pytest.raises(CrashError):
        run(f"log.checkpoint_period={period}")
    state = content(parted / checkpoint.LAST)
    assert state["step"] == (STEPS + 6 if period == "4" else STEPS + 7)
    assert run("--resume") == 0
    assert_same_runs(whole, parted)


def test_workers_go_on_with_the_same_samples(run: Run, whole: Path, parted: Path) -> None:
    with in_step(5, send(signal.SIGINT)):
        assert run("data.num_workers=2") == 75
    assert run("data.num_workers=1", "--resume") == 0
    assert_same_runs(whole, parted)


def test_a_crash_does_not_wait_for_the_workers(config: Path, tmp_path: Path) -> None:
    crash = "from misc.training.engine import Trainer\nTrainer.train_step = lambda *_: 1 / 0"
    program = write_program(tmp_path / "program.py", crash)
    command = [sys.executable, program, "--config", str(config), "data.num_workers=2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().endswith("ZeroDivisionError: division by zero")


def test_a_run_that_dies_after_its_evaluation_reports_it_once(
    run: Run, whole: Path, parted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    def save(state: dict[str, Any], *_: Any) -> None:
        assert state["epoch"] == 1  # the evaluation's lines are in the log
        raise CrashError

    with monkeypatch.context() as patch:
        patch.setattr(saver, "save_best", save)
        with pytest.raises(CrashError):
            run()
    assert [line["kind"] for line in read_metrics(parted)].count("eval") == 2
    assert run("--resume") == 0
    assert_same_runs(whole, parted)


def test_a_damaged_last_checkpoint_is_passed_over_for_the_one_before(
    run: Run, whole: Path, parted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with in_step(STEPS + 8, crash), pytest.raises(CrashError):
        run("log.checkpoint_period=2")
    last = parted / checkpoint.LAST
    damaged = bytearray(last.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    last.write_bytes(damaged)
    assert run("log.checkpoint_period=2", "--resume") == 0
    assert "passed over" in (parted / "log.txt").read_text()
    assert_same_runs(whole, parted)


def full(monkeypatch: pytest.MonkeyPatch, steps: range) -> None:
    """A disk that takes no checkpoint of these steps."""

    def refusing(original: Callable[..., None]) -> Callable[..., None]:
        def save(state: dict[str, Any], *arguments: Any) -> None:
            if state["step"] in steps and not room:
                raise OSError(28, "No space left on device")
            original(state, *arguments)

        return save

    room: list[int] = []
    for name in ("save_best", "save_last"):
        monkeypatch.setattr(saver, name, refusing(getattr(saver, name)))
    monkeypatch.setattr(saver.time, "sleep", room.append)


def test_a_full_disk_costs_neither_the_run_nor_its_best_epoch(
    run: Run, whole: Path, parted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = content(whole / checkpoint.BEST)["step"]
    for steps in (range(3, best + 1), range(best, best + 1), range(2 * STEPS, 2 * STEPS + 1)):
        with monkeypatch.context() as patch:
            full(patch, steps)
            assert run("log.checkpoint_period=3", "output.overwrite=true") == 0
        assert "No space left on device" in (parted / "log.txt").read_text()
        assert_same_runs(whole, parted)


def test_a_disk_that_stays_full_ends_with_what_there_is(
    run: Run, whole: Path, parted: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        full(patch, range(STEPS + 1, 2 * STEPS + 1))
        patch.setattr(saver.time, "sleep", lambda _: None)
        assert run("log.checkpoint_period=3") == 2
    assert_mentions(error_line(capsys), "output.dir", "step 10", "free some space")
    assert run("--resume") == 0
    assert_same_runs(whole, parted)


def test_a_run_that_could_not_save_does_not_say_that_it_has(
    run: Run, parted: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for steps, said in (
        (range(4, 9), f"the last checkpoint is '{parted / checkpoint.LAST}' of step 3"),
        (range(9), f"the checkpoints in '{parted}' are unchanged since the run began"),
        (range(0), f"saved in '{parted}'"),
    ):
        with monkeypatch.context() as patch, in_step(5, send(signal.SIGTERM)):
            full(patch, steps)
            assert run("log.checkpoint_period=3", "output.overwrite=true") == 75
        error = capsys.readouterr().err.strip()
        assert f": {said}; resume with the same command and --resume auto" in error
        assert ("saved in" in error) == (not steps)


def test_training_ends_when_patience_does(run: Run, parted: Path, tmp_path: Path) -> None:
    flat = ["schedule.lr=1e-12", "schedule.lr_start=0", "schedule.lr_end=0"]
    flat += ["schedule.patience=2", "schedule.epoch=6"]
    last, other = parted / checkpoint.LAST, tmp_path / "other"
    assert run(*flat) == 0
    state, before = content(last), last.read_bytes()
    assert (state["best"]["epoch"], state["epoch"]) == (1, 3)
    assert run(*flat, "--resume") == 0
    assert last.read_bytes() == before
    assert run(*flat, "--resume", str(last), "--output-dir", str(other)) == 0  # has no best epoch yet
    assert content(other / checkpoint.LAST)["best"]["epoch"] == 4


def test_every_nth_epoch_and_the_last_are_evaluated_and_one_is_the_best(run: Run, parted: Path) -> None:
    assert run("eval.period=2", "schedule.epoch=5") == 0
    records = [json.loads(line) for line in (parted / "metrics.jsonl").read_text().splitlines()]
    evaluated = [record for record in records if record["kind"] == "eval" and record["split"] == "val"]
    assert [record["epoch"] for record in evaluated] == [2, 4, 5]
    best = max(evaluated, key=lambda record: (record["average"]["t2i"]["R1"], -record["epoch"]))
    assert content(parted / checkpoint.BEST)["epoch"] == best["epoch"]
    assert content(parted / checkpoint.LAST)["best"]["epoch"] == best["epoch"]


def test_a_run_of_one_process_goes_on_in_two_with_half_the_batch(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--config", str(config), "log.checkpoint_period=2", "experiment.dropout=0"]
    one, folder = ["data.batch_size=8"], tmp_path / "run"
    assert main([*common, *one]) == 0
    whole = losses(folder)
    with in_step(4, send(signal.SIGTERM)):
        assert main([*common, *one, "output.overwrite=true"]) == 75
    capsys.readouterr()
    assert run_in_processes(main, 2, tmp_path, [*common, "data.batch_size=4", "--resume"]) == [0, 0]
    assert "checkpoint is of 1 processes, not 2" in (folder / "log.txt").read_text(encoding="utf-8")
    assert losses(folder) == pytest.approx(whole, rel=1e-3)  # no dropout here: the same but for sums' order

    assert main([*common, "data.batch_size=3", "--resume"]) == 2
    error = error_line(capsys)
    assert error.startswith("error: data.batch_size")
    assert_mentions(error, "8 samples (4 on each of 2", "3 (3 on each of 1", "set data.batch_size=8")


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_when_a_process_is_killed_the_other_ends_and_names_it(
    config: Path, tmp_path: Path, victim: int
) -> None:
    pids = tmp_path / "pids"
    pids.mkdir()
    program = write_program(tmp_path / "program.py", say_pid(pids))
    changes = ("schedule.epoch=1000", "data.batch_size=4", "log.checkpoint_period=1")
    process = torchrun("--config", str(config), *changes, program=program)
    end = time.monotonic() + 600
    while not (tmp_path / "run" / "metrics.jsonl").exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "the run did not begin"
        time.sleep(0.05)
    os.kill(int((pids / str(victim)).read_text()), signal.SIGKILL)
    error, output = ended(process)
    assert error.startswith(f"error: process {victim} (on ")
    assert f"pid {(pids / str(victim)).read_text()}) is gone" in error
    assert "Traceback" not in output.split("error: process")[0]


def test_an_error_on_one_process_ends_both_with_its_message_alone(
    config: Path, people: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(people, data)
    records = sorted((data / "imgs").rglob("*.jpg"))
    for path in records[::5]:
        path.write_bytes(path.read_bytes()[:200])
    arguments = [f"data.annotation_file={data}", f"data.image_root={data}/imgs", "data.batch_size=1"]
    error, output = ended(torchrun("--config", str(config), *arguments))
    assert "cannot be read" in error
    assert "rank0]: Traceback" not in output
    assert "rank1]: Traceback" not in output
