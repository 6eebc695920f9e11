"""Files made from others, kept in a folder within a limit, for this process and others."""

import contextlib
import hashlib
import logging
import os
import threading
import uuid
from pathlib import Path

logger = logging.getLogger(__name__)

LIMIT = 256_000_000  # bytes
SHARE_WRITTEN = 1 / 32  # of the limit: what a process writes before it looks what others have written
SUFFIX = ".cached"


def user_cache() -> Path:
    """The folder of the user's thumbnails, which all servers share."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base, "person-search", "thumbnails")


class DiskCache:
    """Contents by name. Each file begins with a checksum, so that a damaged one is not used. The files that
    were not used for the longest time are removed once all of them exceed the limit; several processes
    together may exceed it by what they write between two looks, `SHARE_WRITTEN` of it each.

    Args:
        folder: created, readable by its owner alone; where it cannot be written, nothing is kept.
    """

    def __init__(self, folder: Path, limit: int = LIMIT) -> None:
        self._folder, self._limit = folder, limit
        self._written, self._lock = limit, threading.Lock()  # look at what is there first
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._is_usable = os.access(folder, os.W_OK)
        except OSError:
            self._is_usable = False
        if not self._is_usable:
            logger.warning(f"thumbnails are not cached: '{folder}' cannot be written; set XDG_CACHE_HOME")

    def get(self, name: str) -> bytes | None:
        """The content of this name, or None if there is none."""
        path = self._folder / f"{name}{SUFFIX}"
        try:
            content = path.read_bytes()
            if _checksum(content[16:]) != content[:16]:
                return None
            os.utime(path)
        except OSError:
            return None
        return content[16:]

    def put(self, name: str, content: bytes) -> None:
        """Keep the content, if the disk has room for it."""
        if not self._is_usable:
            return
        path = self._folder / f"{name}{SUFFIX}"
        temporary = path.with_name(f"{uuid.uuid4().hex}{SUFFIX}")  # of a killed process: removed as others
        try:
            temporary.write_bytes(_checksum(content) + content)
            temporary.replace(path)
        except OSError:  # as on a full disk
            with contextlib.suppress(OSError):
                temporary.unlink()
            return
        with self._lock:
            self._written += len(content)
            if self._written > self._limit * SHARE_WRITTEN:
                self._written = 0
                self._shrink()

    def _shrink(self) -> None:
        files = []
        for path in self._folder.glob(f"*{SUFFIX}"):
            with contextlib.suppress(OSError):  # another process removed it
                status = path.stat()
                files.append((status.st_mtime_ns, status.st_size, path))
        excess = sum(size for _, size, _ in files) - self._limit
        for _, size, path in sorted(files):
            if excess <= 0:
                break
            with contextlib.suppress(OSError):
                path.unlink()
            excess -= size


def _checksum(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()
