"""An index in Milvus: a collection with a row for each image, and a second one with the header.

A row is written as a whole, so that a reader sees the feature of an image with its path, or none. The header
says whether the latest update has finished.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from misc.process.failures import reason_of
from misc.search.storage.database import FORMAT, Entry, Header
from misc.search.storage.places import MilvusPlace
from options import UserError

if TYPE_CHECKING:
    from pymilvus import MilvusClient

    from model.protocol import JsonObject  # which imports torch

WINDOW = 10_000  # ids that are read at once
ROWS_AT_ONCE = 1000  # with features, which Milvus limits to 64 MB a message
HEADER_ID, FIRST_LOCK = 0, 1000  # of the rows of the second collection
UNKNOWN = {"digest": "", "width": 0, "height": 0, "taken": "", "missing_since": 0}
MAX_TEXT = {"path": 65_535, "digest": 32, "taken": 32, "content": 65_535}  # bytes
SCALARS = [name for name in Entry._fields if name not in ("id", "slot", "sighting")]


@contextmanager
def reporting(place: MilvusPlace) -> Iterator[None]:
    """Raise UserError where Milvus refuses, or cannot be reached."""
    from pymilvus.exceptions import MilvusException

    try:
        yield
    except MilvusException as error:
        raise UserError(
            f"INDEX: '{place}' cannot be used now ({reason_of(error):.200}); try again"
        ) from error


@cache
def connect(place: MilvusPlace) -> "MilvusClient":
    """The connection of this process to Milvus; raises UserError if there can be none."""
    needed = "pymilvus" if place.folder is None else "pymilvus milvus-lite"
    try:
        from pymilvus import MilvusClient
        from pymilvus.exceptions import MilvusException

        if place.folder is not None:
            import milvus_lite  # noqa: F401
    except ImportError as error:
        raise UserError(f"INDEX: '{place}' needs Milvus' client: pip install {needed}") from error
    for name in ("pymilvus", "milvus_lite"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what they log is raised, too
    try:
        return MilvusClient(place.uri, timeout=60)
    except MilvusException as error:
        way_out = "start it, or check the address"
        if place.folder is not None:
            way_out = "another process uses it, which milvus-lite does not allow, or it is no folder of its"
        reason = reason_of(error)
        raise UserError(f"INDEX: '{place}' cannot be opened ({reason:.200}): {way_out}") from error


def header_collection(place: MilvusPlace) -> str:
    """The name of the second collection."""
    return f"{place.collection}_header"


def exists(client: "MilvusClient", place: MilvusPlace) -> bool:
    """Whether there is an index."""
    with reporting(place):
        names = client.list_collections()
        return {place.collection, header_collection(place)} <= set(names)


def create(client: "MilvusClient", place: MilvusPlace, header: Header) -> None:
    """Create both collections; raises UserError if there is a collection that is no index's."""
    from pymilvus import DataType

    number, text = (DataType.INT64, {}), DataType.VARCHAR
    columns = dict.fromkeys(("size", "mtime_ns", "width", "height", "missing_since"), number)
    columns |= {name: (text, {"max_length": MAX_TEXT[name]}) for name in ("path", "digest", "taken")}
    content = {"content": (text, {"max_length": MAX_TEXT["content"]})}
    with reporting(place):
        names = set(client.list_collections())
        if header_collection(place) not in names:
            if place.collection in names:
                raise UserError(f"INDEX: '{place}' is a collection of another program; name a new one")
            _create(client, header_collection(place), 2, content)
        _create(client, place.collection, header.embed_dim, columns)
    write_header(client, place, header)


def _create(
    client: "MilvusClient", name: str, width: int, columns: dict[str, tuple[object, dict[str, int]]]
) -> None:
    from pymilvus import DataType

    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=width)
    for column, (kind, settings) in columns.items():
        schema.add_field(column, kind, **settings)
    index = client.prepare_index_params()
    index.add_index("vector", index_type="FLAT", metric_type="IP")
    client.create_collection(name, schema=schema, index_params=index, consistency_level="Strong")


def write_header(client: "MilvusClient", place: MilvusPlace, header: Header) -> None:
    """Write the header."""
    content = json.dumps({"format": FORMAT, **vars(header)})
    with reporting(place):
        client.upsert(header_collection(place), [{"id": HEADER_ID, "vector": [0.0, 1.0], "content": content}])


def read_header(client: "MilvusClient", place: MilvusPlace) -> Header:
    """The header; raises UserError if there is none, or it is damaged."""
    if not exists(client, place):
        raise UserError(f"INDEX: '{place}' contains no index; create one with python -m misc.search index")
    with reporting(place):
        found = client.get(header_collection(place), [HEADER_ID], output_fields=["content"])
    try:
        content = json.loads(found[0]["content"])
        if content.pop("format") != FORMAT or content.keys() - {field.name for field in fields(Header)}:
            raise ValueError("it is of another format")
        return Header(**content)
    except (LookupError, ValueError, TypeError, AttributeError) as error:
        reason = reason_of(error)
        raise UserError(
            f"INDEX: '{place}' is damaged (header: {reason:.100}); drop both collections and index again"
        ) from error


def read_entries(client: "MilvusClient", place: MilvusPlace, header: Header) -> list[Entry]:
    """All images, in the order of ids; their slots have no meaning."""
    entries = []
    for start in range(0, header.next_id, WINDOW):
        with reporting(place):
            found = client.query(
                place.collection,
                filter=f"id >= {start} and id < {start + WINDOW}",
                output_fields=["id", *SCALARS],
                limit=WINDOW,
            )
        entries += sorted(_entry(row) for row in found)
    return entries


def features_of(client: "MilvusClient", place: MilvusPlace, ids: list[int], width: int) -> np.ndarray:
    """The (n, width) fp32 features of n images; raises UserError if one is not in the collection."""
    features = np.zeros((len(ids), width), np.float32)
    for start in range(0, len(ids), ROWS_AT_ONCE):
        part = ids[start : start + ROWS_AT_ONCE]
        with reporting(place):
            found = client.get(place.collection, part, output_fields=["vector"])
        vectors = {row["id"]: row["vector"] for row in found}
        if vectors.keys() < set(part):
            raise UserError(f"INDEX: '{place}' was updated meanwhile; try again")
        features[start : start + len(part)] = [vectors[number] for number in part]
    return features


def scalars_of(entry: Entry) -> "JsonObject":
    """The columns of an image but its feature."""
    row = {name: value for name, value in entry._asdict().items() if name in ("id", *SCALARS)}
    row |= {name: value for name, value in UNKNOWN.items() if row[name] is None}
    return row | {"path": _stored(entry.path), "digest": entry.digest.hex() if entry.digest else ""}


def _entry(row: "JsonObject") -> Entry:
    values = {name: row[name] for name in SCALARS}
    values |= {name: None for name, value in UNKNOWN.items() if values[name] == value}
    digest = bytes.fromhex(values["digest"]) if values["digest"] else None
    return Entry(row["id"], -1, **values | {"path": _name(values["path"]), "digest": digest})


def _stored(path: str) -> str:
    """A path as UTF-8; in JSON's escapes if it has other bytes."""
    with suppress(UnicodeEncodeError):
        path.encode()
        if not path.startswith('"'):
            return path
    return json.dumps(path)


def _name(stored: str) -> str:
    return json.loads(stored) if stored.startswith('"') else stored
