"""Heartbeats between the processes of a run: one that is gone is named, and the others end."""

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

PERIOD = 1.0  # seconds between two heartbeats of a process
SOON = 5.0  # seconds without one, after which a process counts as gone if an error has occurred
GRACE = 15.0  # seconds for a process to notice that another one has ended the run
PATIENCE = 40.0  # seconds without a heartbeat, after which a process counts as gone
HEAD_START = 2.0  # seconds that rank 0 has to report an end before another process does
ENDED = "ended"
T = TypeVar("T")


class Store(Protocol):
    """The part of a torch.distributed store that a heartbeat uses."""

    def get(self, key: str) -> bytes: ...
    def set(self, key: str, value: str) -> None: ...
    def add(self, key: str, value: int) -> int: ...
    def multi_get(self, keys: list[str]) -> list[bytes]: ...


class Heartbeat:
    """A thread that exchanges heartbeats with the others through the store, and one that watches their age.

    The watching thread ends the process itself, since a rank that waits in a collective for one that is gone
    cannot be interrupted otherwise (with NCCL until its timeout). It makes no calls to the store: with the
    machine of the store gone, they neither return nor fail for minutes. The store, shared by all processes,
    needs a connection of its own: waiting blocks it.
    """

    def __init__(self, store: Store, rank: int, world_size: int) -> None:
        self._store, self._rank = store, rank
        self._others = [other for other in range(world_size) if other != rank]
        self._heard: dict[int, tuple[str, float]] = {}
        self._answered = time.monotonic()  # when the store last did
        self._count, self._has_ended = 0, False
        self._lock, self._has_stopped = threading.Lock(), threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._beat, self._watch)]

    def start(self) -> None:
        """Wait for the first heartbeat of every process, then start the threads."""
        self._beat_once()
        for other in self._others:
            self._heard[other] = (self._store.get(f"alive/{other}").decode(), time.monotonic())
        self._answered = time.monotonic()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the threads."""
        self._has_stopped.set()
        for thread in self._threads:
            thread.join(2 * PERIOD)

    def is_first(self) -> bool:
        """Whether this process tells the user why the run ends: none has before, or the store is gone.

        Rank 0 decides for all, so its words count: the others let it come first for `HEAD_START` seconds.
        """
        end, told = time.monotonic() + HEAD_START, None
        while self._rank != 0 and time.monotonic() < end:
            before, told = told, self._ask(lambda: self._store.add("told", 0), default=None)
            # Where rank 0 has the store, an answer and then none means that rank 0 has ended.
            if told or 0 in self._ended() or (told is None and before == 0):
                return False
            if told is None:
                return True
            time.sleep(PERIOD / 20)
        return self._ask(lambda: self._store.add("told", 1) == 1, default=True)

    def announce_end(self) -> None:
        """Tell the others that this process ends the run."""
        self._has_ended = True
        self._ask(self._beat_once, default=None)

    def _ask(self, question: Callable[[], T], default: T) -> T:
        """What the store answers within `SOON` seconds, else `default`."""
        answers = []

        def ask() -> None:
            with self._lock, contextlib.suppress(RuntimeError):
                answers.append(question())

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        thread.join(SOON)
        return answers[0] if answers else default

    def await_cause(self, seconds: float = 12.0) -> str | None:
        """Why a collective failed: a sentence on the process that ended or is gone; None: all are alive."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if ended := self._ended():
                return f"process {ended[0]} ended the run: its message says why"
            if gone := self._gone(SOON):
                return gone
            time.sleep(PERIOD / 4)
        return None

    def await_others(self, seconds: float = 8.0) -> str | None:
        """A sentence on a process that is gone without notice; None: the others end as well, or continue."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and len(self._ended()) < len(self._others):
            if gone := self._gone(SOON):
                return gone
            time.sleep(PERIOD / 4)
        return None

    def _ended(self) -> list[int]:
        return [other for other, (message, _) in self._heard.items() if message.startswith(ENDED)]

    def _gone(self, patience: float) -> str | None:
        """A sentence on a process without a heartbeat for longer than `patience` seconds."""
        now = time.monotonic()
        if now - self._answered > patience:
            return "the store that joins the processes is gone, and with it torchrun or process 0"
        for other, (message, since) in self._heard.items():
            if now - since > patience and not message.startswith(ENDED):
                where = message.partition(" ")[2]
                return f"process {other} ({where}) is gone: no heartbeat for {now - since:.0f} s"
        return None

    def _beat_once(self) -> None:
        self._count += 1
        state = ENDED if self._has_ended else str(self._count)
        self._store.set(f"alive/{self._rank}", f"{state} on {socket.gethostname()}, pid {os.getpid()}")

    def _beat(self) -> None:
        while not self._has_stopped.wait(PERIOD):
            self._exchange()

    def _watch(self) -> None:
        waited, was_gone = 0.0, None
        while not self._has_stopped.wait(PERIOD):
            if self._ended() and not self._has_ended:
                waited += PERIOD
                if waited > GRACE:  # the main thread waits for the process that ended
                    os._exit(1)
            gone = self._gone(PATIENCE)
            if gone and was_gone and not self._has_stopped.is_set():
                if self.is_first():
                    print(f"error: {gone}", file=sys.stderr, flush=True)
                os._exit(1)
            was_gone = gone  # twice in a row: a process that was suspended must first read the heartbeats

    def _exchange(self) -> None:
        with self._lock, contextlib.suppress(RuntimeError):
            self._beat_once()
            messages = self._store.multi_get([f"alive/{other}" for other in self._others])
            self._answered = now = time.monotonic()
            for other, message in zip(self._others, map(bytes.decode, messages), strict=True):
                if message != self._heard[other][0]:
                    self._heard[other] = (message, now)
