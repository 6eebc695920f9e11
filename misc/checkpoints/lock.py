"""The lock of an output folder: one run at a time writes to it."""

import contextlib
import errno
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from misc.process import distributed
from misc.process.durable import make_folder
from options import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

logger = logging.getLogger(__name__)

LOCK = "run.lock"
PERIOD, PATIENCE = 5.0, 20.0  # seconds between two signs of life; without one for that long a holder is gone
PAUSE = 1.0  # seconds for another process that begins at the same time to write its name


@contextlib.contextmanager
def locked(folder: Path, option: str = "output.dir", flag: str = "--output-dir") -> Iterator[None]:
    """Make the folder, and keep other runs out of it until the block ends. Collective: rank 0 has the lock.
    `option` names the folder in messages, and `flag` is how to choose another.

    The file `run.lock` names its holder. The kernel locks the file until the process ends, in whatever way.
    Some file systems have no locks, or none between machines. So the holder also writes the file every few
    seconds, and counts as gone there once it does not.

    Raises:
        UserError: another run holds the lock, or the folder cannot be written to.
    """
    new = [path for path in (folder, *folder.parents) if not os.path.exists(path)]
    descriptor, problem = -1, None
    if distributed.is_main():
        try:
            make_folder(folder, option)
            descriptor = _acquire(folder / LOCK, option, flag)
        except UserError as error:
            problem = str(error)
        except OSError as error:
            reason = f"'{folder / LOCK}' cannot be written ({error.strerror}); choose another folder"
            problem = f"{option}: {reason} with {flag}"
    if problem := distributed.broadcast_object(problem):
        raise UserError(problem)
    if not distributed.is_main():
        yield
        return
    has_ended = threading.Event()
    thread = threading.Thread(target=_beat, args=(descriptor, has_ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        has_ended.set()
        thread.join()
        _release(descriptor, folder / LOCK)
        with contextlib.suppress(OSError):  # it is not empty: a run has written to it
            for path in new:
                path.rmdir()


def is_held(folder: Path) -> bool:
    """Whether a process of this machine holds the lock of a folder."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder / LOCK, os.O_RDWR)
        try:
            return _lock(descriptor) is False
        finally:
            os.close(descriptor)
    return False


def _acquire(path: Path, option: str, flag: str) -> int:
    """A descriptor of the locked file, with the name of this process; raises UserError as `locked` does."""
    gone, own = "", json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": _now()})
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        is_locked = _lock(descriptor)
        if is_locked is False and not _read(descriptor):
            time.sleep(PAUSE)  # its new holder is about to write its name
        holder, is_removed = _read(descriptor), not _is_at(descriptor, path)
        is_of_host = _parsed(holder).get("host") == socket.gethostname()
        is_free = is_locked is not False and (holder in ("", gone) or (is_locked and is_of_host))
        if is_free and not is_removed:
            break
        os.close(descriptor)  # gives up the lock; so would closing any other descriptor of the file
        if is_removed:  # by its last holder, which ended just now
            continue
        if is_locked is False or _is_alive(path, option):
            raise UserError(_in_use(path, holder, option, flag))
        gone = holder
    if holder:
        logger.info(f"{option}: {_name(holder)} ended without removing '{path}': this run takes it over")
    _write(descriptor, own)
    if is_locked is None:
        time.sleep(PAUSE)
        if (holder := _read(descriptor)) != own:
            os.close(descriptor)
            raise UserError(_in_use(path, holder, option, flag))
    return descriptor


def _lock(descriptor: int) -> bool | None:
    """Whether the kernel has locked the file for this process; None where the file system has no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.lockf(
            descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB
        )  # unlike flock, no lock of the loaders' workers
    except OSError as error:
        return False if error.errno in (errno.EACCES, errno.EAGAIN) else None
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the file still has this name: its last holder may just have removed it."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _is_alive(path: Path, option: str) -> bool:
    """Whether the holder writes the file within the next seconds."""
    begin, end = _last_written(path), time.monotonic() + PATIENCE
    if begin:
        logger.info(f"{option}: waiting {PATIENCE:.0f} s to see whether the holder of '{path}' is alive")
    while begin and time.monotonic() < end:
        time.sleep(PERIOD / 5)
        if _last_written(path) not in (None, begin):
            return True
    return False


def _last_written(path: Path) -> int | None:
    """The time, in nanoseconds, as the file's own machine has it; None where there is no file."""
    try:
        with path.open("rb") as file:  # NFS asks its server only when a file is opened
            return os.fstat(file.fileno()).st_mtime_ns
    except FileNotFoundError:
        return None


def _beat(descriptor: int, has_ended: threading.Event) -> None:
    own = _read(descriptor)
    while not has_ended.wait(PERIOD):
        with contextlib.suppress(OSError):  # a full disk
            _write(descriptor, own)


def _release(descriptor: int, path: Path) -> None:
    """Remove the file, unless it is another one by now, and give up the lock."""
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)  # Windows does not remove an open file
        if _is_at(descriptor, path):
            path.unlink()
    os.close(descriptor)


def _read(descriptor: int) -> str:
    os.lseek(descriptor, 0, os.SEEK_SET)
    return os.read(descriptor, 1000).decode("utf-8", "replace")


def _write(descriptor: int, text: str) -> None:
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, text.encode())
    os.ftruncate(descriptor, len(text.encode()))


def _now() -> str:
    return datetime.now().astimezone().isoformat(" ", "seconds")


def _parsed(holder: str) -> dict[str, object]:
    try:
        parsed = json.loads(holder)
    except (ValueError, RecursionError):
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _name(holder: str) -> str:
    known = _parsed(holder)
    if not known:
        return "another process"
    return "process {} on {} (since {})".format(*(known.get(name, "?") for name in ("pid", "host", "since")))


def _in_use(path: Path, holder: str, option: str, flag: str) -> str:
    return (
        f"{option}: '{path.parent}' is in use by {_name(holder)}: choose another folder with {flag}, "
        f"or wait until that run ends (if it is gone, remove '{path}')"
    )
