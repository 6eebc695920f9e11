"""Files that are whole or not there: written beside, flushed to the disk, then renamed."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def replacing(
    path: Path, mode: str = "wb", before_rename: Callable[[Path], None] | None = None, **settings: Any
) -> Iterator[IO[Any]]:
    """A file to write in place of `path`, which keeps its content until the block has ended well.

    Args:
        before_rename: called with the new file when it is on the disk; what it raises keeps the old one.
        settings: of `open`, such as `encoding`.

    Raises:
        OSError: the disk takes no more; `path` is as it was, unless all that failed was to flush its folder.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open(mode, **settings) as file:
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


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8, whole or not at all; raises OSError as `replacing` does."""
    with replacing(path, "w", encoding="utf-8") as file:
        file.write(text)


def sync_folder(folder: Path) -> None:
    """Have the disk remember the names in a folder, as after a rename, where its file system can do that."""
    if os.name == "posix":  # elsewhere a folder cannot be opened
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
        finally:
            os.close(descriptor)
