"""Signals that ask a run to stop: it finishes its step, saves, and exits with the status `RESUME_ME`."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = tuple(getattr(signal, n) for n in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, n))
RESUME_ME = getattr(os, "EX_TEMPFAIL", 75)  # "try again later", by sysexits.h
Handler = Callable[[int, FrameType | None], object] | int | None


class Stopped(BaseException):
    """The run ends because a signal asked for it. Its text is the message for the user."""


class StopSignals:
    """SIGTERM, SIGINT (Ctrl-C) and SIGUSR1 (SLURM's warning) while the block runs.

    The first one sets `requested`. After `begin()` it also raises `Stopped` at once, except inside
    `deferred()`. A second Ctrl-C ends the process immediately.
    """

    def __init__(self) -> None:
        self.requested: signal.Signals | None = None
        self._is_deferred = True
        self._process = os.getpid()
        self._previous: dict[signal.Signals, Handler] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            self._previous = {number: signal.signal(number, self._handle) for number in STOP_SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def begin(self) -> None:
        """From here on a signal raises `Stopped`; one that was received before does so now."""
        self._is_deferred = False
        self._raise_requested()

    def ignore(self) -> None:
        """From here on signals are ignored: the run ends already."""
        self._is_deferred = True

    def _handle(self, number: int, _: object) -> None:
        if os.getpid() != self._process:  # a worker that was just forked: its parent receives the signal, too
            return
        is_second = self.requested is not None
        self.requested = signal.Signals(number)
        if is_second and number == signal.SIGINT:
            os._exit(RESUME_ME)
        if not self._is_deferred:
            self._raise_requested()

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """A block that no signal interrupts. It may check `requested` and raise `Stopped` itself."""
        self._raise_requested()  # one whose exception Python dropped, as in a finaliser
        self._is_deferred = True
        try:
            yield
        finally:
            self._is_deferred = False
        self._raise_requested()

    def _raise_requested(self) -> None:
        if self.requested:
            raise Stopped(f"stopped by {self.requested.name}")
