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


def assert_same(first: Any, second: Any) -> None:
    """To the last bit."""
    assert type(first) is type(second)
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_same(first[key], second[key])
    elif isinstance(first, list):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_same(one, other)
    else:
        assert first == second


def assert_same_runs(first: Path, second: Path) -> None:
    """The weights, the optimiser, the random states, the log and the figures of two runs are the same."""
    for name in ("checkpoint_last.pth", "checkpoint_best.pth"):
        assert_same(content(first / name), content(second / name))
    assert timeless(read_metrics(first)) == timeless(read_metrics(second))
    ends = [json.loads((folder / "results.json").read_text()) for folder in (first, second)]
    assert ends[0]["languages"] == ends[1]["languages"]


def torchrun(
    *arguments: str, launcher: tuple[str, ...] = (), program: str = "main.py"
) -> subprocess.Popen[str]:
    """`program` in two gloo processes, a group of its own that a test can kill whole."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    return subprocess.Popen(
        [*command, *launcher, program, *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
