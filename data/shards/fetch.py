"""Shards that are elsewhere: copied under the image root when they are needed."""

import logging
import os
import queue
import shlex
import shutil
import subprocess
import threading
import urllib.parse
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from data.images.contained import BLOCK
from misc.process.durable import alone, replacing
from misc.process.failures import reason_of
from options import UserError

logger = logging.getLogger(__name__)

PIPE = "pipe:"
ATTEMPTS = 3
TIMEOUT = 60  # seconds without a byte
AHEAD = 1 << 22  # bytes read at once


@dataclass(frozen=True)
class Fetcher:
    """Copies shards from an address to a folder, each once for all processes of the machine.

    Args:
        address: with {} in the place of the shard's name: an URL, or `pipe:` and a shell command that writes
            the shard to its standard output.
        kept: the most copies that are kept of those made with such a limit, the ones that were needed last;
            None: all.
    """

    folder: Path
    address: str
    kept: int | None = None

    def ensure(self, name: str) -> bool:
        """Copy a shard unless it is there; returns whether it was not. Raises UserError where that fails."""
        file = self.folder / name
        if file.exists():
            return False
        self.folder.mkdir(parents=True, exist_ok=True)
        with alone(self._mark(file)):
            if not file.exists():
                self._copy(file)
                self._drop_others(file)
        return True

    def touch(self, name: str) -> None:
        """Copy a shard unless it is there, and count it among those that were needed last."""
        if not self.ensure(name):
            os.utime(self.folder / name)

    def _mark(self, file: Path) -> Path:
        """A file beside a copy, locked while it is made; it tells those that may be removed from others."""
        return file.with_name(f".{file.name}.{'kept' if self.kept is None else 'copy'}")

    def _copy(self, file: Path) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with replacing(file, _check_end) as stream:
                    self._write(file.name, stream)
                return
            except (OSError, subprocess.SubprocessError) as error:
                reason = reason_of(error)
                logger.warning("shard '%s', attempt %d of %d: %s", file.name, attempt, ATTEMPTS, reason)
        raise UserError(
            f"data.shards: '{file.name}' cannot be copied from '{self.address}' ({reason:.150}). Check the "
            "address, the network and the free space"
        )

    def _write(self, name: str, stream: BinaryIO) -> None:
        if self.address.startswith(PIPE):
            command = self.address[len(PIPE) :].replace("{}", shlex.quote(name))
            subprocess.run(command, shell=True, check=True, stdout=stream, stdin=subprocess.DEVNULL)
            return
        url = self.address.replace("{}", urllib.parse.quote(name))
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
            shutil.copyfileobj(response, stream, 1 << 20)

    def _drop_others(self, newest: Path) -> None:
        """Remove copies beyond `kept`. Who reads one meanwhile has it open, or copies it again."""
        if self.kept is None:
            return
        copies = [file for file in self.folder.glob("*.tar") if self._mark(file).exists() and file != newest]
        times: dict[Path, int] = {}
        for file in copies:
            try:
                times[file] = file.stat().st_mtime_ns
            except FileNotFoundError:  # another process removes them, too
                continue
        for file in sorted(times, key=times.__getitem__)[: max(0, len(times) + 1 - self.kept)]:
            file.unlink(missing_ok=True)


class Preparer:
    """Has shards copied, and read into memory, before samples of them are needed; in a thread of its own.

    What goes wrong is left to those who need the samples.
    """

    def __init__(self, folder: Path, names: Sequence[str], fetcher: Fetcher | None) -> None:
        self.folder, self.names, self.fetcher = folder, names, fetcher
        self._numbers: queue.SimpleQueue[int] | None = None

    def __call__(self, numbers: Sequence[int]) -> None:
        """Prepare the shards of these numbers among `names`, in this order."""
        if self._numbers is None:  # not before the workers are forked
            self._numbers = queue.SimpleQueue()
            threading.Thread(target=self._work, daemon=True).start()
        for number in numbers:
            self._numbers.put(number)

    def _work(self) -> None:
        while True:
            name = self.names[self._numbers.get()]
            try:
                if self.fetcher:
                    self.fetcher.touch(name)
                _read_ahead(self.folder / name)
            except (OSError, UserError):
                continue


def _read_ahead(file: Path) -> None:
    """Read a file in order, so that the system keeps it, rather than the samples of the window one by one.

    Linux follows the advice to do so itself (`posix_fadvise`) for a few megabytes at most.
    """
    buffer = bytearray(AHEAD)
    with file.open("rb", buffering=0) as stream:
        while stream.readinto(buffer):
            pass


def _check_end(file: Path) -> None:
    """Raise OSError unless a file ends as tar files do."""
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - BLOCK))
        if stream.read() != bytes(BLOCK):
            raise OSError("what came is no whole tar file")
