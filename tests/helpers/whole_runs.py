"""Whole runs of the main job in the tests: what they leave behind, and how two of them compare."""

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from main import main
from options import Options, to_dict


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def train_lines(folder: Path) -> list[dict[str, Any]]:
    return [line for line in read_metrics(folder) if line["kind"] == "train"]


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in train_lines(folder)]


def results_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    """What is new on standard error: one line, that of a user error."""
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    return line


def status_and_error(arguments: list[str]) -> tuple[int, str]:
    """What the main job returns, and what it writes to standard error."""
    with contextlib.redirect_stderr(io.StringIO()) as written:
        status = main(arguments)
    return status, written.getvalue()


def ended(process: subprocess.Popen[str]) -> tuple[str, str]:
    """The one user error in the output of a process, once it has ended, and the whole output."""
    output, _ = process.communicate(timeout=600)
    lines = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, output
    return lines[0], output


def assert_mentions(text: str, *words: str) -> None:
    missing = [word for word in words if word not in text]
    assert not missing, f"{missing} not in: {text}"


def timeless(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    times = {"samples_per_second", "seconds", "cpu_seconds", "peak_bytes"}
    return [{key: value for key, value in line.items() if key not in times} for line in lines]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def content(path: Path) -> dict[str, Any]:
    """A checkpoint but for the options, which name the folder, and the clocks."""
    loaded = torch.load(path, weights_only=True)
    for of_rank in loaded["ranks"]:
        del of_rank["meter"]["spent"]
    return {key: value for key, value in loaded.items() if key != "options"}


def checkpoint_state(step: float) -> dict[str, Any]:
    """What a checkpoint holds, of a model of one tensor, in which every number is the step."""
    names = ("optimizer", "scaler", "best", "ranks", "steps_per_epoch", "skipped_steps", "bad_images")
    progress = {"epoch": step, "step": step, "options": to_dict(Options())}
    return {"model": {"w": torch.full((2,), step)}} | progress | {name: {} for name in names}


def assert_same(first: Any, second: Any, where: str = "") -> None:
    """To the last bit."""
    assert type(first) is type(second), where
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), where
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            assert_same(first[key], second[key], f"{where} {key}")
    elif isinstance(first, list):
        assert len(first) == len(second), f"{where}: {len(first)} and {len(second)}"
        for number, (one, other) in enumerate(zip(first, second, strict=True)):
            assert_same(one, other, f"{where} {number}")
    else:
        assert first == second, f"{where}: {first} and {second}"


def assert_same_runs(first: Path, second: Path) -> None:
    """The weights, the optimiser, the random states, the log and the figures of two runs are the same."""
    for name in ("checkpoint_last.pth", "checkpoint_best.pth"):
        assert_same(content(first / name), content(second / name), name)
    assert_same(timeless(read_metrics(first)), timeless(read_metrics(second)), "metrics.jsonl")
    assert_same(results_of(first)["languages"], results_of(second)["languages"], "results.json")


def torchrun(
    *arguments: str,
    launcher: tuple[str, ...] = ("--standalone", "--nproc_per_node=2"),
    program: str | None = None,
) -> subprocess.Popen[str]:
    """The main job, or `program`, in two gloo processes: a group that a test can kill as a whole."""
    command = [sys.executable, "-m", "torch.distributed.run", *launcher]
    return subprocess.Popen(
        [*command, *([program] if program else ["-m", "tests.helpers.fast_main"]), *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def write_program(path: Path, lines: str) -> str:
    """main.py with some `lines` before it, such as a fault to plant; returns the path as a text."""
    start = f"import os, sys\nsys.path.insert(0, {os.getcwd()!r})\n"
    end = "from main import main\nif __name__ == '__main__':\n    sys.exit(main())\n"
    path.write_text(f"{start}{lines}\n{end}")
    return str(path)


def say_pid(folder: Path) -> str:
    """Lines that write the process's number into the file `folder`/RANK."""
    return f"open(os.path.join({str(folder)!r}, os.environ['RANK']), 'w').write(str(os.getpid()))\n"
