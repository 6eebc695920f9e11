"""The files of an index: metadata in SQLite, features in a file that generations share.

`index.db` has a header and a row for each image; `features-*.f16` has a row of fp16 features for each slot.
Features are appended and flushed to the disk before a transaction of `index.db` refers to them. That
transaction makes a generation: a kill leaves it or the previous one, and a reader, which reads in one
transaction, too, sees one of them. An approximate index has `approximate-*.faiss` as well.
"""

import gc
import hashlib
import json
import os
import sqlite3
import tokenize
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import NamedTuple, get_origin

import numpy as np

from misc.process.failures import reason_of
from options import UserError

DATABASE, FORMAT = "index.db", 2
EXACT, APPROXIMATE = "exact", "approximate"
# What reading damaged files raises: SQLite, JSON, FAISS, numpy's headers (which are Python literals).
READ_ERRORS = (OSError, ValueError, LookupError, TypeError, EOFError, AttributeError, RuntimeError)
READ_ERRORS += (MemoryError, OverflowError, SyntaxError, tokenize.TokenError, sqlite3.Error)
# What SQLite says where not the content of the file is the problem.
NOT_DAMAGED = ("locked", "unable to open", "readonly", "disk is full", "disk I/O error")
PATIENCE = 600.0  # seconds to wait for a transaction of another process
CHUNK = 65_536  # rows processed at once
SCHEMA = """
CREATE TABLE header (content TEXT NOT NULL, crc INTEGER NOT NULL);
CREATE TABLE images (
    id INTEGER PRIMARY KEY,
    slot INTEGER NOT NULL,
    path BLOB NOT NULL,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    digest BLOB,
    width INTEGER,
    height INTEGER,
    taken TEXT,
    missing_since INTEGER,
    crc INTEGER NOT NULL,
    sighting TEXT
);
"""  # indexes that an earlier version made have no column `sighting`, and no people


class Entry(NamedTuple):
    """An image of the index, or in an index of people one of the people in a photo or a video.

    Attributes:
        id: never used again for another image, so that it can name this one in later generations.
        slot: its row of the features.
        path: relative to the image root; of a part of a file as `Place.path`.
        size, mtime_ns: of the file: bytes, and last modification, as the file system has them.
        digest: BLAKE2b of the content of the file, 16 bytes; None: written by a version that did not
            compute it.
        width, height: in pixels, upright; of a person those of the box.
        taken: local time, as "2024-05-06 07:08:09"; EXIF's, or that of the frame of a video.
        missing_since: seconds since 1970 of the first update that did not find the file.
        sighting: `Sighting.text`; None: not an index of people.
    """

    id: int
    slot: int
    path: str
    size: int
    mtime_ns: int
    digest: bytes | None = None
    width: int | None = None
    height: int | None = None
    taken: str | None = None
    missing_since: int | None = None
    sighting: str | None = None


@dataclass(frozen=True)
class Header:
    """What an index knows about itself.

    Attributes:
        image_root: the folder of the images, absolute.
        checkpoint: the weights file of the encoder that made the features, absolute.
        identity: `Encoder.identity` of that encoder.
        options: its options, as `to_dict` returns them.
        embed_dim: E, the width of the features.
        generation: 0 until there are images.
        kind: `EXACT` or `APPROXIMATE`.
        complete: whether the latest update has finished.
        features: name of the features file, of which the first `num_slots` rows are valid.
        num_images: including missing ones.
        next_id: the first id that was never used.
        approximate: name of the approximate index; "" if there is none.
        digest: `digest_of` that file; "": written by a version that did not compute it.
        people: of an index of people, how they are found; {}: the entries are whole images.
    """

    image_root: str
    checkpoint: str
    identity: str
    options: dict[str, object]
    embed_dim: int
    generation: int = 0
    kind: str = EXACT
    complete: bool = False
    features: str = ""
    num_slots: int = 0
    num_images: int = 0
    next_id: int = 0
    approximate: str = ""
    digest: str = ""
    people: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for each in fields(self):
            value, kind = getattr(self, each.name), get_origin(each.type) or each.type
            if type(value) is not kind or (kind is int and value < 0):
                raise ValueError(f"'{each.name}' of the header is {value!r:.40}")
        if self.embed_dim == 0 or any(Path(name).name != name for name in (self.features, self.approximate)):
            raise ValueError("the header names files of another folder, or no width")

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of `Entry` that the index has."""
        return Entry._fields if self.people else Entry._fields[:-1]


class Features(NamedTuple):
    """(count, width) fp16 features in a file, behind `offset` bytes."""

    path: Path
    count: int
    width: int
    offset: int = 0

    def check(self) -> None:
        """Raise one of `READ_ERRORS` if the file is too short."""
        expected = 2 * self.count * self.width
        if expected and (size := self.path.stat().st_size - self.offset) < expected:
            raise ValueError(f"{self.path.name} has {size} of {expected} bytes")

    def mapped(self) -> np.ndarray:
        """All rows, memory-mapped."""
        self.check()
        if not self.count:  # an empty file cannot be mapped
            return np.zeros((0, self.width), np.float16)
        return np.memmap(self.path, np.float16, "r", self.offset, (self.count, self.width))

    def read_into(self, rows: np.ndarray) -> None:
        """Read all rows into a (count, width) fp16 array."""
        self.check()
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.offset)
            left = memoryview(rows.reshape(-1).view(np.uint8))
            while len(left):
                number = file.readinto(left[: 2 * CHUNK * self.width])
                if not number:
                    raise ValueError(f"{self.path.name} became shorter")
                left = left[number:]


def digest_of(file: Path) -> str:
    """BLAKE2b of the content of a file, in hexadecimal."""
    digest = hashlib.blake2b(digest_size=16)
    with file.open("rb", buffering=0) as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def reporting_damage(folder: Path) -> Iterator[None]:
    """Raise UserError where the block finds that the files of an index cannot be what was written, or cannot
    be read.
    """
    try:
        yield
    except UserError:
        raise
    except READ_ERRORS as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:150]}"
        if isinstance(error, sqlite3.OperationalError) and any(text in str(error) for text in NOT_DAMAGED):
            raise UserError(f"INDEX: '{folder}' cannot be read now ({reason}); try again") from error
        raise UserError(f"INDEX: '{folder}' is damaged ({reason}); delete it and index again") from error


@contextmanager
def reporting_writes(folder: Path) -> Iterator[None]:
    """Raise UserError where the block cannot write."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        reason = getattr(error, "strerror", None) or reason_of(error)
        raise UserError(
            f"INDEX: '{folder}' cannot be written ({reason}); fix that and run the same command again"
        ) from error


@contextmanager
def without_collector() -> Iterator[None]:
    """Make millions of tuples in the block: the garbage collector would look through all of them again and
    again, which takes more than half of the time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def connected(folder: Path) -> Iterator[sqlite3.Connection]:
    """The database of an index, in a read transaction: what it shows does not change in the block."""
    with closing(connect(folder / DATABASE)) as database:
        database.execute("BEGIN")
        yield database


def connect(file: Path) -> sqlite3.Connection:
    address = file.absolute().as_uri() + "?mode=rw"  # "rw": does not create it
    database = sqlite3.connect(address, timeout=PATIENCE, isolation_level=None, uri=True)
    database.execute("PRAGMA trusted_schema = OFF")
    return database


def header_in(database: sqlite3.Connection) -> Header:
    """The header; raises one of `READ_ERRORS` if it is damaged."""
    ((text, crc),) = database.execute("SELECT content, crc FROM header").fetchall()
    if zlib.crc32(text.encode()) != crc:
        raise ValueError("the header has another checksum")
    content = json.loads(text)
    if content.pop("format") != FORMAT:
        raise ValueError("the header is of another format")
    return Header(**content)


def read_header(folder: Path) -> Header:
    """The header of the latest generation; raises UserError if it is damaged."""
    with reporting_damage(folder), connected(folder) as database:
        return header_in(database)


@without_collector()
def images_in(
    database: sqlite3.Connection, header: Header
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """(ids, slots, whether missing, paths) of all images; raises one of `READ_ERRORS` if damaged."""
    columns, paths = [], []
    cursor = database.execute("SELECT id, slot, missing_since IS NOT NULL, crc, path FROM images")
    while rows := cursor.fetchmany(CHUNK):
        *numbers, blobs = zip(*rows, strict=True)
        ids, slots, missing, crcs = (np.array(column, np.int64) for column in numbers)
        joined = b"/\0/".join(blobs)
        if joined.count(b"\0") != len(blobs) - 1 or b"//" in b"/%b/" % joined or b"/../" in b"/%b/" % joined:
            raise ValueError("a path does not lead below the image root")
        if not np.array_equal(checksums(ids, slots, missing, blobs), crcs):
            raise ValueError("an image has another checksum")
        columns.append((ids, slots, missing.astype(bool)))
        paths += os.fsdecode(joined).split("/\0/")
    if len(paths) != header.num_images:
        raise ValueError(f"{len(paths)} of {header.num_images} images")
    empty = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, bool)
    ids, slots, missing = map(np.concatenate, zip(empty, *columns, strict=True))
    ordered = np.sort(slots)
    if len(slots) and (ordered[0] < 0 or ordered[-1] >= header.num_slots or not np.diff(ordered).all()):
        raise ValueError("images share their features, or have none")
    return ids, slots, missing, paths


def checksums(ids: np.ndarray, slots: np.ndarray, missing: np.ndarray, paths: Sequence[bytes]) -> list[int]:
    """CRC-32 of what decides which image has which features; SQLite does not notice changed bytes."""
    ids, slots, missing = (column.astype(np.uint64) for column in (ids, slots, missing))
    starts = (ids * np.uint64(0x9E3779B1) ^ slots * np.uint64(0x85EBCA6B) ^ missing) & np.uint64(0xFFFFFFFF)
    return list(map(zlib.crc32, paths, starts.tolist()))
