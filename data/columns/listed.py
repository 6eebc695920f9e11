"""Folders of images that were looked through before, and have not changed since."""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from data.columns.records import Records
from data.images.contained import split_path
from misc.process.durable import write_text

TICK = 2_000_000_000  # nanoseconds: a file system may give two changes within it one time


class Listed:
    """Whether the images of stored records were all there, in folders as they are now.

    A folder's time changes with the names in it. Where no records are stored, nothing is remembered.

    Args:
        parts: the records of all splits, in one language.
    """

    def __init__(self, parts: Sequence[Records], root: Path) -> None:
        self.parts, self.root = parts, root
        words = [os.path.abspath(root), *(records.digest() for records in parts if records.file)]
        key = hashlib.sha256("\0".join(words).encode(errors="surrogateescape")).hexdigest()[:16]
        self.file = next((part.file.with_name(f"images-{key}.json") for part in parts if part.file), None)

    def is_current(self) -> bool:
        """Whether nothing has changed since `note`."""
        try:
            noted = json.loads(self.file.read_bytes()) if self.file else None
            return noted is not None and noted == self._times(noted)
        except (OSError, ValueError):
            return False

    def times(self) -> dict[str, int]:
        """The time of change of each folder, or file of images; {} where nothing is remembered, or one is
        not there.
        """
        if self.file is None:
            return {}
        names = dict.fromkeys(split_path(image)[0] for part in self.parts for image in part.images())
        try:
            return self._times(names)
        except OSError:
            return {}

    def note(self, times: dict[str, int]) -> None:
        """Remember that all images were there, looked for after `times`; not where a folder is new."""
        if self.file and times and max(times.values()) < time.time_ns() - TICK:
            try:
                write_text(self.file, json.dumps(times))
            except OSError:
                return  # it only saves time

    def _times(self, names: Iterable[str]) -> dict[str, int]:
        return {name: os.stat(self.root / name).st_mtime_ns for name in names}
