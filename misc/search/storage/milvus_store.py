"""The writer of an index in Milvus; several machines can write to one, each the images of its share."""

import json
import os
import random
import socket
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from misc.process import distributed
from misc.search.storage import milvus
from misc.search.storage.changes import Changes
from misc.search.storage.database import EXACT, Entry, Header
from misc.search.storage.milvus import FIRST_LOCK, ROWS_AT_ONCE, header_collection, reporting
from misc.search.storage.places import MilvusPlace
from model.protocol import JsonObject
from options import UserError

if TYPE_CHECKING:
    from pymilvus import MilvusClient

PERIOD, PATIENCE = 5.0, 20.0  # seconds between signs of life of a writer, and until it counts as gone


class MilvusStore(Changes):
    """An index in Milvus opened for writing, as `Store`. In a world of several processes each has one, for
    the entries of its share.

    Attributes:
        entries: {id: image} of the share of this process, with the changes.
        others: the other images of the index.
    """

    def __init__(self, client: "MilvusClient", place: MilvusPlace) -> None:
        self.client, self.folder = client, place
        self.header = milvus.read_header(client, place)
        everything = milvus.read_entries(client, place, self.header)
        super().__init__(entry for entry in everything if self.is_own(entry.path))
        self.others = [entry for entry in everything if not self.is_own(entry.path)]
        self._opened = self.header
        self._new: dict[int, np.ndarray] = {}
        self._num_appended, self._next_id = 0, self.header.next_id

    @staticmethod
    def is_own(path: str) -> bool:
        """Whether an image of this path is in the share of this process."""
        return zlib.crc32(os.fsencode(path)) % distributed.world_size() == distributed.rank()

    @property
    def skipped(self) -> Path:
        """Where the skipped files are listed."""
        name = f"{self.folder.collection}.skipped.txt"
        return Path(name if self.folder.folder is None else f"{self.folder.folder}.skipped.txt")

    def num_present(self) -> int:
        """How many images of the share are not missing."""
        return sum(entry.missing_since is None for entry in self.entries.values())

    def features_of(self, entries: Sequence[Entry]) -> np.ndarray:
        """The features of n images: (n, E) fp32."""
        ids = [entry.id for entry in entries]
        return milvus.features_of(self.client, self.folder, ids, self.header.embed_dim)

    def reserve(self, number: int) -> None:
        """Reserve ids for so many new images of this process, and tell readers that an update goes on.
        Collective.
        """
        wanted = distributed.gather_objects((number, bool(self._changed)))
        if not any(map(any, wanted)):
            return
        most, world = max(count for count, _ in wanted), distributed.world_size()
        first = self.header.next_id + (distributed.rank() - self.header.next_id) % world
        self._next_id = first  # an id tells by whom it was given
        self.header = replace(self.header, next_id=self.header.next_id + (most + 1) * world, complete=False)
        if distributed.is_main():
            milvus.write_header(self.client, self.folder, self.header)
        distributed.wait_for_all()

    def append(self, features: np.ndarray) -> range:
        """Keep (n, E) fp16 features for the next commit; returns their slots."""
        slots = range(self._num_appended, self._num_appended + len(features))
        self._num_appended = slots.stop
        self._new |= zip(slots, features, strict=True)
        return slots

    def new_id(self) -> int:
        """An id for a new image."""
        self._next_id += distributed.world_size()
        return self._next_id - distributed.world_size()

    def commit(self) -> None:
        """Write the changes, what is removed first: else another image could have its path meanwhile."""
        if not self._changed:
            return
        put, removed = self._changes()
        whole = [entry for entry in put if entry.slot in self._new]
        partial = [entry for entry in put if entry.slot not in self._new]
        with reporting(self.folder):
            for start in range(0, len(removed), ROWS_AT_ONCE):
                self.client.delete(self.folder.collection, ids=removed[start : start + ROWS_AT_ONCE])
            self._upsert(list(map(milvus.scalars_of, partial)), partial_update=True)
            self._upsert([milvus.scalars_of(e) | {"vector": self._new[e.slot].tolist()} for e in whole])
        for entry in whole:
            self.entries[entry.id] = entry._replace(slot=-1)
        self._changed, self._new = set(), {}
        if distributed.is_main():
            self.header = replace(self.header, generation=self.header.generation + 1)
            milvus.write_header(self.client, self.folder, self.header)

    def _upsert(self, rows: Sequence[JsonObject], **settings: bool) -> None:
        for start in range(0, len(rows), ROWS_AT_ONCE):
            self.client.upsert(self.folder.collection, list(rows[start : start + ROWS_AT_ONCE]), **settings)

    def finish(self, approximate: bool | None) -> str:
        """Make the last generation of an update; returns the kind of search. Collective."""
        if approximate:
            raise UserError("--approximate: an index in Milvus is searched exactly; omit the flag")
        self.commit()
        totals = distributed.gather_objects((len(self.entries), self._next_id))
        num_images, next_id = sum(total for total, _ in totals), max(last for _, last in totals)
        header = replace(self.header, complete=True, num_images=num_images, next_id=next_id)
        if distributed.is_main() and header != self._opened:
            with reporting(self.folder):
                self.client.flush(self.folder.collection)
            self.header = replace(header, generation=header.generation + 1)
            milvus.write_header(self.client, self.folder, self.header)
        distributed.wait_for_all()
        return EXACT


@contextmanager
def writing(place: MilvusPlace, header: Header) -> Iterator[MilvusStore]:
    """Open an index for writing, which is created with this header if there is none. Collective; raises
    UserError if another run writes to it.
    """
    client = milvus.connect(place)
    if distributed.is_main() and not milvus.exists(client, place):
        milvus.create(client, place, header)
    distributed.wait_for_all()
    with locked(client, place):
        yield MilvusStore(client, place)


@contextmanager
def locked(client: "MilvusClient", place: MilvusPlace) -> Iterator[None]:
    """Keep other runs out. Each writes a row, then reads those of others: of two, at least one sees the other
    one's. A writer renews its row; one that does not is gone. A file is open in one process only.
    """
    if place.folder is not None or not distributed.is_main():
        problem = distributed.broadcast_object(None)
        if problem:
            raise UserError(problem)
        yield
        return
    name, number = header_collection(place), random.SystemRandom().randrange(FIRST_LOCK, 2**62)
    own = {"host": socket.gethostname(), "pid": os.getpid()}
    has_ended = threading.Event()

    def beat(count: int) -> None:
        row = {"id": number, "vector": [1.0, 0.0], "content": json.dumps(own | {"beat": count})}
        client.upsert(name, [row])

    def go_on() -> None:
        count = 1
        while not has_ended.wait(PERIOD):
            with suppress(Exception):  # what the update itself writes fails, too, and says why
                beat(count)
            count += 1

    thread = threading.Thread(target=go_on, daemon=True)
    with reporting(place):
        beat(0)
    thread.start()
    try:
        problem = distributed.broadcast_object(_other_writer(client, place, number))
        if problem:
            raise UserError(problem)
        yield
    finally:
        has_ended.set()
        thread.join()
        with suppress(UserError), reporting(place):
            client.delete(name, ids=[number])


def _other_writer(client: "MilvusClient", place: MilvusPlace, own: int) -> str | None:
    """What to tell the user of another run that writes to the index; the rows of runs that ended are
    removed.
    """
    name = header_collection(place)

    def others() -> dict[int, str]:
        with reporting(place):
            found = client.query(name, filter=f"id >= {FIRST_LOCK}", output_fields=["id", "content"])
        return {row["id"]: row["content"] for row in found if row["id"] != own}

    before = others()
    if before and not all(_has_ended(content) for content in before.values()):
        time.sleep(PATIENCE)
    after = others()
    for number, content in after.items():
        if before.get(number) != content:
            return (
                f"INDEX: '{place}' is being updated by another run ({content:.150}); wait until it has ended"
            )
    if after:
        with reporting(place):
            client.delete(name, ids=list(after))
    return None


def _has_ended(content: str) -> bool:
    """Whether the writer of a row was a process of this machine that is gone."""
    with suppress(ValueError, LookupError, TypeError, PermissionError):
        holder = json.loads(content)
        if holder["host"] == socket.gethostname():
            try:
                os.kill(holder["pid"], 0)
            except ProcessLookupError:
                return True
    return False
