"""Records in columns: an Arrow table in memory, or in a file that the processes of a machine share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data.types import NOBODY, Record

Rows = npt.NDArray[np.int64]

BATCH = 1 << 16  # records that are converted at once

FACTS = b"facts"  # of the whole table, in the metadata of its schema: what takes reading all of it to tell

_TEXTS = pa.large_list(pa.large_string())
SCHEMA = pa.schema(  # the fields of `Record`, but for the language, which all of a table share
    {
        "image": pa.large_string(),
        "person_id": pa.int64(),
        "captions": _TEXTS,
        "back_translations": _TEXTS,
        "rewrites": pa.large_list(pa.large_list(_TEXTS)),
        "noisy": pa.large_list(pa.bool_()),
    }
)


class Records(Sequence[Record]):
    """The records of a split in one language, made when they are looked up; equal to a list of them.

    Args:
        table: of `SCHEMA`.
        rows: those of the table that there are, in this order; None: all.
        file: that the table is mapped from, and that another process maps too; None: it gets a copy.
    """

    def __init__(
        self, table: pa.Table, language: str, rows: Rows | None = None, file: Path | None = None
    ) -> None:
        self.table, self.language, self.rows, self.file = table, language, rows, file

    @classmethod
    def open(cls, file: Path, language: str, rows: Rows | None = None) -> Records:
        """The records of an Arrow file; raises OSError or pyarrow.ArrowException where it is none."""
        with pa.memory_map(str(file)) as mapped:
            return cls(pa.ipc.open_file(mapped).read_all(), language, rows, file)

    def __reduce__(self) -> tuple[object, ...]:
        if self.file:
            return Records.open, (self.file, self.language, self.rows)
        table = self.table if self.rows is None else self.table.take(pa.array(self.rows))
        return Records, (table, self.language)

    @classmethod
    def of(cls, records: Iterable[Record], language: str) -> Records:
        """The columns of records, all of one language."""
        if isinstance(records, Records):
            return records
        source = iter(records)
        parts = iter(lambda: list(islice(source, BATCH)), [])
        batches = [
            pa.record_batch([[getattr(record, name) for record in part] for name in SCHEMA.names], SCHEMA)
            for part in parts
        ]
        return cls(pa.Table.from_batches(batches, SCHEMA), language)

    def take(self, rows: npt.ArrayLike) -> Records:
        """The records of these numbers, in this order."""
        chosen = np.asarray(rows, np.int64)
        rows = chosen if self.rows is None else self.rows[chosen]
        return Records(self.table, self.language, rows, self.file)

    def __len__(self) -> int:
        return self.table.num_rows if self.rows is None else len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> Records: ...
    def __getitem__(self, index: int | slice) -> Record | Records:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        place = range(len(self))[index]  # counts from the end where it is negative
        row = place if self.rows is None else int(self.rows[place])
        return self._record(*(column[row].as_py() for column in self.table.columns))

    def __iter__(self) -> Iterator[Record]:
        for start in range(0, len(self), BATCH):
            part = self._part(start).to_pydict()
            yield from map(self._record, *part.values())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def __repr__(self) -> str:
        return repr(list(self))

    def _part(self, start: int) -> pa.Table:
        if self.rows is None:
            return self.table.slice(start, BATCH)
        return self.table.take(pa.array(self.rows[start : start + BATCH]))

    def _record(
        self,
        image: str,
        person_id: int,
        captions: list[str],
        back: list[str],
        rewrites: list[list[list[str]]],
        noisy: list[bool],
    ) -> Record:
        groups = tuple(tuple(tuple(group) for group in of_caption) for of_caption in rewrites)
        return Record(image, person_id, tuple(captions), tuple(back), self.language, groups, tuple(noisy))

    def digest(self) -> str:
        """SHA-256, in hexadecimal, of all that the records hold, in their order."""
        whole = self._facts.get("digest") or _digest(self.table)
        if self.rows is None:
            return whole
        return hashlib.sha256(whole.encode() + self.rows.tobytes()).hexdigest()

    def column(self, name: str) -> pa.ChunkedArray:
        """A column of `SCHEMA`, for these records."""
        column = self.table[name]
        return column if self.rows is None else column.take(pa.array(self.rows))

    def images(self) -> Iterator[str]:
        """The image of each record."""
        for start in range(0, len(self), BATCH):
            yield from self._part(start)["image"].to_pylist()

    @property
    def noisy(self) -> npt.NDArray[np.bool_]:
        """Of each caption of each record; (0,) where there is no noise."""
        return pc.list_flatten(self.column("noisy")).to_numpy()

    @property
    def person_ids(self) -> npt.NDArray[np.int64]:
        """(N,)"""
        persons = self.table["person_id"].to_numpy()
        return persons if self.rows is None else persons[self.rows]

    @property
    def num_persons(self) -> int:
        """Number of different persons."""
        known = self._facts.get("num_persons") if self.rows is None else None
        return len(np.setdiff1d(self.person_ids, NOBODY)) if known is None else known

    @property
    def num_images(self) -> int:
        """Number of different images."""
        known = self._facts.get("num_images") if self.rows is None else None
        return pc.count_distinct(self.column("image")).as_py() if known is None else known

    @property
    def _facts(self) -> dict[str, object]:
        return json.loads((self.table.schema.metadata or {}).get(FACTS, "{}"))

    @property
    def num_captions(self) -> npt.NDArray[np.int64]:
        """(N,): of each record."""
        numbers = pc.list_value_length(self.table["captions"]).to_numpy()
        return numbers if self.rows is None else numbers[self.rows]

    @property
    def has_back_translations(self) -> bool:
        """Whether any caption has one."""
        lengths = pc.binary_length(pc.list_flatten(self.column("back_translations")))
        return bool(pc.any(pc.greater(lengths, 0)).as_py())

    @property
    def num_rewritten(self) -> int:
        """Number of captions that have rewrites."""
        lengths = pc.list_value_length(pc.list_flatten(self.column("rewrites")))
        return pc.sum(pc.greater(lengths, 0)).as_py() or 0


def with_facts(records: Records) -> pa.Table:
    """The table of all records, that knows its digest and counts."""
    facts = {name: getattr(records, name) for name in ("num_persons", "num_images")}
    return records.table.replace_schema_metadata({FACTS: json.dumps({"digest": records.digest(), **facts})})


def _digest(table: pa.Table) -> str:
    """However the table is cut into batches."""
    digest = hashlib.sha256()
    for column in table.columns:
        while pa.types.is_large_list(column.type):
            digest.update(_digest_of_numbers(pc.list_value_length(column)))
            column = pc.list_flatten(column)
        if pa.types.is_large_string(column.type):
            digest.update(_digest_of_numbers(pc.binary_length(column)))
            column = column.cast(pa.large_binary())
            texts = hashlib.sha256()
            for chunk in column.chunks:
                texts.update(_bytes(chunk))
            digest.update(texts.digest())
        else:
            digest.update(_digest_of_numbers(column))
    return digest.hexdigest()


def _digest_of_numbers(column: pa.ChunkedArray) -> bytes:
    return hashlib.sha256(column.cast(pa.int64()).to_numpy().tobytes()).digest()


def _bytes(texts: pa.LargeBinaryArray) -> memoryview:
    """What the texts of a column hold, one after another."""
    _, offsets, content = texts.buffers()
    ends = np.frombuffer(offsets, np.int64)[[texts.offset, texts.offset + len(texts)]]
    return memoryview(content or b"")[slice(*ends.tolist())]
