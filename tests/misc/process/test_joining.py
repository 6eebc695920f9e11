"""Processes that were started by hand, each by its own: one that is silent, one that comes late."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

START = """
import sys, time
import torch
from misc.process import distributed, heartbeat
heartbeat.SOON = 1.0
print("ready", flush=True)
sys.stdin.readline()
"""
WAITS = """
heartbeat.PATIENCE = 3.0
distributed.start(torch.device("cpu"), "gloo", 1)
print("begun", flush=True)
time.sleep(100)
"""
ENDS = """
distributed.start(torch.device("cpu"), "gloo", 1)
print("begun", flush=True)
sys.stdin.readline()
distributed.announce_end()
print(distributed.first_to_report(), flush=True)
os._exit(3)
"""
VOTES = """
distributed.start(torch.device("cpu"), "gloo", 0.1)
vote = distributed.Vote()
print("begun", flush=True)
if distributed.rank() == 1:
    sys.stdin.readline()
vote.cast(1)
try:
    vote.result()
except RuntimeError:
    print("gave up", flush=True)
os._exit(3)
"""
Pair = tuple[subprocess.Popen[str], subprocess.Popen[str]]


def expect(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout.readline() == f"{word}\n", process.communicate()[1]


def suspend(process: subprocess.Popen[str]) -> None:
    """Stop it with all its threads, and return once it has stopped: until then its store may answer."""
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)


@pytest.fixture
def two_of() -> Iterator[Callable[[str], Pair]]:
    """Starts two ranks of a program, the first of which has the store, and waits until both have begun."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = str(sock.getsockname()[1])
    started: list[subprocess.Popen[str]] = []

    def start(program: str) -> Pair:
        place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", "import os" + START + program]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        for rank in "01":
            environment = os.environ | place | {"RANK": rank, "LOCAL_RANK": rank}
            started.append(subprocess.Popen(command, env=environment, text=True, **pipes))
        for process in started:
            expect(process, "ready")
        for process in started:
            process.stdin.write("\n")
            process.stdin.flush()
        for process in started:
            expect(process, "begun")
        return started[0], started[1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_silent_process_with_the_store_is_noticed_as_any_other(two_of: Callable[[str], Pair]) -> None:
    first, second = two_of(WAITS)
    suspend(first)
    _, said = second.communicate(timeout=600)
    assert second.returncode == 1
    assert "error: the store that joins the processes is gone" in said


def test_a_process_can_end_and_say_why_while_the_store_is_silent(two_of: Callable[[str], Pair]) -> None:
    first, second = two_of(ENDS)
    suspend(first)
    said, _ = second.communicate("\n", timeout=600)
    assert second.returncode == 3
    assert said == "True\n"


def test_a_vote_waits_as_long_as_the_timeout_says(two_of: Callable[[str], Pair]) -> None:
    first, _ = two_of(VOTES)
    said, _ = first.communicate(timeout=600)
    assert first.returncode == 3
    assert said == "gave up\n"
