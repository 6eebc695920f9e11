"""The writer of an index."""

import json
import logging
import os
import sqlite3
import uuid
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from misc.process.durable import leftovers, replacing, sync_folder
from misc.search.ranking.engines import build_approximate
from misc.search.storage.changes import Changes
from misc.search.storage.database import (
    APPROXIMATE,
    CHUNK,
    DATABASE,
    EXACT,
    FORMAT,
    SCHEMA,
    Entry,
    Features,
    Header,
    checksums,
    connect,
    connected,
    digest_of,
    header_in,
    images_in,
    reporting_damage,
    reporting_writes,
    without_collector,
)

logger = logging.getLogger(__name__)

MAX_EXACT = 1_000_000  # images
MAX_UNUSED = 0.25  # share of the features
SKIPPED = "skipped.txt"


def new_features_name() -> str:
    """A name for a features file, unlike those of earlier generations."""
    return f"features-{uuid.uuid4().hex[:8]}.f16"


def create(folder: Path, header: Header, entries: Iterable[Entry] = ()) -> None:
    """Create `index.db` with these images, completely or not at all."""
    temporary = folder / f"{DATABASE}.{uuid.uuid4().hex[:8]}.tmp"
    with reporting_writes(folder):
        for file in leftovers(folder / DATABASE):
            file.unlink()
        temporary.touch()
        with closing(connect(temporary)) as database:
            database.execute("PRAGMA journal_mode = MEMORY")  # a kill leaves one file
            database.executescript(SCHEMA)
            _write(database, header, list(entries), ())
        temporary.replace(folder / DATABASE)
        sync_folder(folder)


def _write(
    database: sqlite3.Connection, header: Header, put: Sequence[Entry], removed: Iterable[int]
) -> None:
    """Write a generation, in one transaction."""
    text = json.dumps({"format": FORMAT, **vars(header)})
    columns = ", ".join((*header.columns, "crc"))
    values = ", ".join("?" * (len(header.columns) + 1))
    with database:
        database.execute("BEGIN IMMEDIATE")
        database.executemany("DELETE FROM images WHERE id = ?", ((number,) for number in removed))
        for start in range(0, len(put), CHUNK):
            rows = _rows(put[start : start + CHUNK], len(header.columns))
            database.executemany(f"INSERT OR REPLACE INTO images ({columns}) VALUES ({values})", rows)
        database.execute("DELETE FROM header")
        database.execute("INSERT INTO header VALUES (?, ?)", (text, zlib.crc32(text.encode())))


def _rows(entries: Sequence[Entry], num_columns: int) -> Iterator[tuple[object, ...]]:
    paths = [os.fsencode(entry.path) for entry in entries]  # not every name is text in UTF-8
    ids, slots = (
        np.array(column, np.int64) for column in zip(*(entry[:2] for entry in entries), strict=True)
    )
    missing = np.array([entry.missing_since is not None for entry in entries])
    crcs = checksums(ids, slots, missing, paths)
    for entry, path, crc in zip(entries, paths, crcs, strict=True):
        yield *entry._replace(path=path)[:num_columns], crc


def append_features(path: Path, first: int, features: np.ndarray) -> None:
    """Write (n, E) fp16 features behind the first rows of a file, and flush them to the disk."""
    is_new = not path.exists()
    with path.open("wb" if is_new else "r+b") as file:
        file.seek(first * features[:1].nbytes)  # what lies there was never part of a generation
        file.write(features.tobytes())
        file.flush()
        os.fsync(file.fileno())
    if is_new:
        sync_folder(path.parent)


class Store(Changes):
    """An index opened for writing, by the one process that holds its lock.

    Changes take effect, together, at the next `commit`; the features of removed images stay, unused, until
    `compact`. Raises UserError if the index is damaged.
    """

    others: tuple[Entry, ...] = ()

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with reporting_damage(folder), connected(folder) as database, without_collector():
            self.header = header_in(database)
            images_in(database, self.header)
            rows = database.execute(f"SELECT {', '.join(self.header.columns)} FROM images")
            super().__init__(Entry(*row)._replace(path=os.fsdecode(row[2])) for row in rows)
            self.features.check()
        self._next_id = self.header.next_id
        self._opened = self.header, self.slots()

    @property
    def skipped(self) -> Path:
        """Where the skipped files are listed."""
        return self.folder / SKIPPED

    @staticmethod
    def is_own(path: str) -> bool:
        """As in `MilvusStore`: here one process updates all images."""
        return True

    def slots(self) -> np.ndarray:
        """The slots of the images that are not missing, sorted."""
        present = (entry.slot for entry in self.entries.values() if entry.missing_since is None)
        return np.sort(np.fromiter(present, np.int64))

    @property
    def features(self) -> Features:
        """All rows of features, including appended ones."""
        return Features(self.folder / self.header.features, self.header.num_slots, self.header.embed_dim)

    def append(self, features: np.ndarray) -> range:
        """Write (n, E) fp16 features; returns their slots."""
        first = self.header.num_slots
        with reporting_writes(self.folder):
            append_features(self.features.path, first, features)
        self.header = replace(self.header, num_slots=first + len(features))
        return range(first, first + len(features))

    def new_id(self) -> int:
        """An id for a new image."""
        self._next_id += 1
        return self._next_id - 1

    def num_present(self) -> int:
        """How many images are not missing."""
        return len(self.slots())

    def features_of(self, entries: Sequence[Entry]) -> np.ndarray:
        """The features of n images: (n, E) fp16."""
        return self.features.mapped()[[entry.slot for entry in entries]]

    def reserve(self, number: int) -> None:
        """As in `MilvusStore`: here one process alone gives ids."""

    def compact(self) -> None:
        """Copy the features that are in use to a new file, in the order of the paths."""
        old, name = self.features.mapped(), new_features_name()
        entries = sorted(self.entries.values(), key=lambda entry: entry.path)
        self.header = replace(self.header, features=name, num_slots=0)
        for start in range(0, len(entries), CHUNK):
            part = entries[start : start + CHUNK]
            slots = self.append(old[[entry.slot for entry in part]])
            self.put(entry._replace(slot=slot) for entry, slot in zip(part, slots, strict=True))

    def commit(
        self, kind: str = EXACT, approximate: str = "", digest: str = "", complete: bool = False
    ) -> None:
        """Make the changes a generation; the arguments are values of its header."""
        numbers = {"num_images": len(self.entries), "next_id": self._next_id}
        numbers["generation"] = self.header.generation + 1
        state = {"kind": kind, "approximate": approximate, "digest": digest, "complete": complete}
        header = replace(self.header, **numbers, **state)
        with reporting_writes(self.folder), closing(connect(self.folder / DATABASE)) as database:
            _write(database, header, *self._changes())
        self.header, self._changed = header, set()

    def finish(self, approximate: bool | None) -> str:
        """Make the last generation of an update, unless nothing changed; returns the kind of search:
        approximate if `approximate` (None: above `MAX_EXACT` images).
        """
        if len(self.entries) < (1 - MAX_UNUSED) * self.header.num_slots:
            self.compact()
        slots, name, digest = self.slots(), "", ""
        kind = APPROXIMATE if (len(slots) > MAX_EXACT if approximate is None else approximate) else EXACT
        if kind == APPROXIMATE:
            initial, ranked = self._opened
            if self.header.features == initial.features and np.array_equal(slots, ranked):
                name, digest = initial.approximate, initial.digest
            if not name:
                logger.info("building the approximate index")
                name = f"approximate-{uuid.uuid4().hex[:8]}.faiss"
                with reporting_writes(self.folder), replacing(self.folder / name) as file:
                    build_approximate(self.features.mapped(), slots, file)
                digest = digest_of(self.folder / name)
        state = {"kind": kind, "approximate": name, "digest": digest, "complete": True}
        if self._changed or replace(self.header, **state) != self._opened[0]:
            self.commit(**state)
        self.remove_stale()
        return kind

    def remove_stale(self) -> None:
        """Remove the files of earlier generations, and of kills."""
        kept = {self.header.features, self.header.approximate}
        files = [
            file for pattern in ("features-*", "approximate-*", "*.tmp") for file in self.folder.glob(pattern)
        ]
        for file in (file for file in files if file.name not in kept):
            with suppress(OSError):  # Windows does not remove a file that a reader has open
                file.unlink()
