"""The fault drill: what it counts as recovered, the messages it waits for, and two of its faults."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.drill import subject
from tests.drill.__main__ import Row, attempt, main, table
from tests.drill.subject import NoFaultError, Subject


class Idle:
    """A subject that nothing happens to."""

    def kill_all(self) -> None:
        pass

    clean = kill_all

    def difference(self) -> str:
        return ""


def test_a_fault_that_did_not_happen_is_tried_again_and_then_counted_as_failed() -> None:
    draws: list[float] = []

    def third_time(_: Subject, rng: random.Random) -> str:
        draws.append(rng.random())
        if len(draws) < 3:
            raise NoFaultError("too soon")
        return "nothing"

    def never(_: Subject, rng: random.Random) -> str:
        raise NoFaultError("too soon")

    row = Row("a fault")
    for fault in (third_time, never):
        attempt(row, fault, Idle(), 0)
    assert (row.tries, row.recovered, row.lost) == (2, 1, ["nothing", "FAILED: too soon"])
    assert len(set(draws)) == 3, "at other moments"


def test_a_try_that_fails_does_not_end_the_drill() -> None:
    row = Row("a fault")
    for error in (ProcessLookupError("gone"), subprocess.CalledProcessError(1, "prlimit"), AssertionError()):

        def fault(_: Subject, rng: random.Random, error: Exception = error) -> str:
            raise error

        attempt(row, fault, Idle(), 0)
    assert (row.tries, row.recovered) == (3, 0)
    assert table([row]).splitlines()[1].split()[:4] == ["a", "fault", "3", "0"]


def test_a_run_that_ends_first_is_no_run_that_survived() -> None:
    ended = Subject.__new__(Subject)
    ended.process = subprocess.Popen([sys.executable, "-c", ""])
    with pytest.raises(NoFaultError):
        ended.wait_until(lambda: False)
    with pytest.raises(NoFaultError):
        ended.wait_for_failure()


@pytest.mark.parametrize("message", subject.MESSAGES)
def test_the_product_logs_the_messages_that_the_drill_waits_for(message: str) -> None:
    assert any(message in path.read_text(encoding="utf-8") for path in Path("misc").rglob("*.py"))


@pytest.mark.slow
def test_a_run_recovers_from_a_kill_during_a_save_and_from_a_full_disk() -> None:
    faults = ["kill -9 of all, during a save", "full disk"]
    assert main(["--seed", "0", "--tries", "1", "--only", *faults]) == 0
