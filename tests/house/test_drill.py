"""The fault drill counts a fault that did not happen as no success, and comes to its table."""

import random
import runpy
import subprocess
import sys
from typing import Any

import pytest


class Idle:
    """A subject that nothing is done to."""

    def kill_all(self) -> None:
        pass

    def difference(self) -> str:
        return ""


@pytest.fixture
def drill(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    return runpy.run_path("tests/drill/__main__.py", run_name="drill")


def test_a_fault_that_did_not_happen_is_tried_again_and_then_counted_as_failed(drill: dict[str, Any]) -> None:
    tries: list[float] = []

    def third_time(_: Idle, rng: random.Random) -> str:
        tries.append(rng.random())
        if len(tries) < 3:
            raise drill["NoFaultError"]("too soon")
        return "nothing"

    def never(_: Idle, rng: random.Random) -> str:
        raise drill["NoFaultError"]("too soon")

    row = drill["Row"]("a fault")
    for fault in (third_time, never):
        drill["attempt"](row, fault, Idle(), 0)
    assert (row.tries, row.recovered, row.lost) == (2, 1, ["nothing", "FAILED: too soon"])
    assert len(set(tries)) == 3, "at other moments"


def test_a_try_that_fails_does_not_end_the_drill(drill: dict[str, Any]) -> None:
    row = drill["Row"]("a fault")
    for error in (ProcessLookupError("gone"), subprocess.CalledProcessError(1, "prlimit"), AssertionError()):

        def fault(_: Idle, rng: random.Random, error: Exception = error) -> str:
            raise error

        drill["attempt"](row, fault, Idle(), 0)
    assert (row.tries, row.recovered) == (3, 0)
    assert drill["table"]([row]).splitlines()[1].split()[:4] == ["a", "fault", "3", "0"]


def test_a_run_that_ends_first_is_no_run_that_survived(drill: dict[str, Any]) -> None:
    subject = drill["Subject"].__new__(drill["Subject"])
    subject.process = subprocess.Popen([sys.executable, "-c", ""])
    with pytest.raises(drill["NoFaultError"]):
        subject.wait_until(lambda: False)
    with pytest.raises(drill["NoFaultError"]):
        subject.wait_cut_off()
