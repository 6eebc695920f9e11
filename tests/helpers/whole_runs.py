"""Whole runs of the main job in the tests: what they leave behind, and how two of them compare."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def timeless(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key != "samples_per_second"} for line in lines]


def content(path: Path) -> dict[str, Any]:
    """A checkpoint but for the options, which name the folder."""
    loaded = torch.load(path, weights_only=True)
    return {key: value for key, value in loaded.items() if key != "options"}


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
    ends = [json.loads((folder / "results.json").read_text()) for folder in (first, second)]
    assert_same(ends[0]["languages"], ends[1]["languages"], "results.json")


def torchrun(
    *arguments: str, launcher: tuple[str, ...] = (), program: str | None = None
) -> subprocess.Popen[str]:
    """The main job, or `program`, in two gloo processes: a group that a test can kill as a whole."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *launcher]
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
