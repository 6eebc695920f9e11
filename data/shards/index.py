"""The index of a folder of shards: what is in them, in columns, so that no shard is read to tell."""

import json
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa

from data.columns.records import Records, with_facts
from data.columns.splits import Columns
from data.columns.stored import Found
from misc.process.durable import replacing, write_text
from misc.process.failures import reason_of
from options import UserError

NAME = "shards.json"
VERSION = 1


def read_index(folder: Path) -> dict[str, object] | None:
    """The content of the index file; None where there is none.

    Raises:
        UserError: it cannot be read, or is of another version.
    """
    file = folder / NAME
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["version"] == VERSION:
            return content
        reason = f"it has version {content['version']!r:.20}; this program reads version {VERSION}"
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = reason_of(error)
    raise UserError(f"data.annotation_file: '{file}' is no index of shards ({reason:.150}). Write it again")


def open_index(folder: Path) -> Found | None:
    """The records that the index tells of, by split and language, mapped; None: there is no index.

    Raises:
        UserError: it is damaged or not complete; or of the shards beside it some are missing, or have
            another size.
    """
    content = read_index(folder)
    if content is None:
        return None
    if "splits" not in content:
        raise UserError(
            f"data.annotation_file: the shards in '{folder}' are not all written; run python -m data.shards "
            "again, as before, to write the others"
        )
    try:
        sizes: dict[str, int] = content["shards"]
        _check_shards(folder, sizes)
        return {
            split: {language: _records(folder, name, language) for language, name in by_language.items()}
            for split, by_language in content["splits"].items()
        }
    except (OSError, KeyError, TypeError, AttributeError, pa.ArrowException) as error:
        reason = reason_of(error)
        raise UserError(
            f"data.annotation_file: the index of shards in '{folder}' is damaged ({reason:.150}). Copy its "
            f"files again, or write them again with python -m data.shards"
        ) from error


def write_index(folder: Path, made: Mapping[str, object], found: Mapping[str, Columns]) -> None:
    """Write the columns, and then the file that names them.

    Args:
        made: what the shards were made of, and how.
    """
    files: dict[str, dict[str, str]] = {}
    for split, by_language in found.items():
        files[split] = {}
        for language, records in by_language.items():
            name = f"{split}-{language}.arrow"
            table = with_facts(records)
            with replacing(folder / name) as stream, pa.ipc.new_file(stream, table.schema) as writer:
                writer.write_table(table)
            files[split][language] = name
    sizes = {file.name: file.stat().st_size for file in sorted(folder.glob("*.tar"))}
    content = {"version": VERSION, "made": dict(made), "shards": sizes, "splits": files}
    write_text(folder / NAME, json.dumps(content, indent=1) + "\n")


def _records(folder: Path, name: str, language: str) -> Records:
    return Records.open(folder / Path(name).name, language)


def _check_shards(folder: Path, sizes: Mapping[str, int]) -> None:
    """Raise UserError where shards lie beside the index, but not all as they were; none may be elsewhere."""
    present = {file.name: file.stat().st_size for file in folder.glob("*.tar") if file.name in sizes}
    for name, size in sizes.items() if present else ():
        if name not in present:
            raise UserError(f"data.annotation_file: the shard '{folder / name}' is missing; copy it again")
        if present[name] != size:
            found = f"has {present[name]:,} bytes, not the {size:,} of when it was written"
            raise UserError(f"data.annotation_file: the shard '{folder / name}' {found}; copy it again")
