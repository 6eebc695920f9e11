"""Files that are whole or absent: written beside, flushed to the disk, then renamed."""

import contextlib
import errno
import glob
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from options import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


@contextlib.contextmanager
def replacing(path: Path, before_rename: Callable[[Path], None] | None = None) -> Iterator[BinaryIO]:
    """A file to write in place of `path`, which keeps its content until the block has ended well.

    Args:
        before_rename: called with the new file once it is on the disk; an exception keeps the old one.

    Raises:
        OSError: a write failed, as on a full disk; `path` is kept, unless only its folder's flush failed.
    """
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.tmp")  # several processes may write it
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if before_rename:
            before_rename(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def leftovers(path: Path) -> list[Path]:
    """The incomplete files that killed processes left when they wrote `path`, or that others are writing."""
    pattern = glob.escape(path.name)
    return [*path.parent.glob(f"{pattern}.{'[0-9a-f]' * 8}.tmp"), *path.parent.glob(f"{pattern}.tmp")]


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8, completely or not at all; raises OSError as `replacing` does."""
    with replacing(path) as file:
        file.write(text.encode())


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk, as after a rename, where its file system supports it."""
    if os.name == "posix":  # elsewhere a folder cannot be opened
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
        finally:
            os.close(descriptor)


def make_folder(folder: Path, option: str) -> None:
    """Make a folder to write to, with its parents, unless it exists; `option` names it in the error message.

    Raises:
        UserError: it cannot be made or written to.
    """
    try:
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if not there.is_dir():
            raise NotADirectoryError(0, f"'{there}' is no folder")
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError as error:
        raise UserError(
            f"{option}: the folder '{folder}' cannot be made ({error.strerror}); choose another"
        ) from error
    if not writable:
        raise UserError(f"{option}: the folder '{folder}' cannot be written to; choose another")


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Alone among the processes of this machine that name the file `path`, which is made; where the file
    system has no locks, not alone.
    """
    with path.open("wb") as file:
        if fcntl:
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
        yield
