"""What an index knows of its images besides their features: read when a query first asks for it."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from misc.search.storage.database import CHUNK, Entry, connected, reporting_damage

IDS_AT_ONCE = 1000
TAKEN = "CAST(replace(replace(replace(taken, '-', ''), ':', ''), ' ', '') AS INTEGER)"


class Columns(NamedTuple):
    """Facts of N images, in the order of rows; 0: not known.

    Attributes:
        modified: (N,) int64, of the file, in seconds since 1970.
        taken: (N,) int64, EXIF's local time, 2024-05-06 07:08:09 as 20240506070809.
        width, height: (N,) int64, in pixels, upright.
    """

    modified: np.ndarray
    taken: np.ndarray
    width: np.ndarray
    height: np.ndarray


class Detail(NamedTuple):
    """Facts of one image, as `Entry` has them; None: not known."""

    width: int | None = None
    height: int | None = None
    taken: str | None = None
    digest: bytes | None = None
    sighting: str | None = None


class Facts(Protocol):
    """What is known of the images of an index; raises UserError if it cannot be read."""

    @property
    def columns(self) -> Columns:
        """Facts of all images."""
        ...

    def of(self, ids: Sequence[int]) -> dict[int, Detail]:
        """Facts of the images with these ids."""
        ...


class DatabaseFacts:
    """Facts in `index.db`. They may be those of a later generation than the features: of an image that an
    update has removed meanwhile nothing is known.

    Args:
        ids: of N images.
        columns: those that the index has.
    """

    def __init__(self, folder: Path, ids: np.ndarray, columns: Sequence[str]) -> None:
        self._folder, self._ids = folder, ids
        self._known = ", ".join(name for name in Detail._fields if name in columns)

    @cached_property
    def columns(self) -> Columns:
        """As `Facts.columns`."""
        # SQLite computes what takes Python long: a million images take a second.
        query = (
            f"SELECT id, mtime_ns / 1000000000, coalesce({TAKEN}, 0), coalesce(width, 0), "
            "coalesce(height, 0) FROM images"
        )
        order = np.argsort(self._ids)
        columns = np.zeros((4, len(order)), np.int64)
        with reporting_damage(self._folder), connected(self._folder) as database:
            cursor = database.execute(query)
            while rows := cursor.fetchmany(CHUNK):
                ids, *block = np.array(rows, np.int64).T
                places = np.searchsorted(self._ids, ids, sorter=order)
                known = places < len(order)
                known[known] = self._ids[order[places[known]]] == ids[known]
                columns[:, order[places[known]]] = np.array(block)[:, known]
        return Columns(*columns)

    def of(self, ids: Sequence[int]) -> dict[int, Detail]:
        """As `Facts.of`."""
        details: dict[int, Detail] = {}
        with reporting_damage(self._folder), connected(self._folder) as database:
            for start in range(0, len(ids), IDS_AT_ONCE):
                part = [int(number) for number in ids[start : start + IDS_AT_ONCE]]
                marks = ", ".join("?" * len(part))
                query = f"SELECT id, {self._known} FROM images WHERE id IN ({marks})"
                details |= {number: Detail(*facts) for number, *facts in database.execute(query, part)}
        return details


class LegacyFacts:
    """Facts of the images of an index of format 1: when their files were modified."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        modified = np.array([entry.mtime_ns // 10**9 for entry in entries], np.int64)
        self.columns = Columns(modified, *np.zeros((3, len(entries)), np.int64))

    def of(self, ids: Sequence[int]) -> dict[int, Detail]:
        """As `Facts.of`."""
        return {}
