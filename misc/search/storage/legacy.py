"""Indexes of format 1, which the next update copies into the present one.

`index.json` names a generation g: `images-g.json` has the paths, sizes and modification times of the images,
sorted by path, `features-g.npy` (N, E) their fp16 features. `parts/` holds what an unfinished update had
encoded, as pairs of the same kind.
"""

import json
import os
import re
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from misc.search.storage.database import (
    CHUNK,
    DATABASE,
    READ_ERRORS,
    Entry,
    Features,
    Header,
    reporting_damage,
    reporting_writes,
)
from misc.search.storage.store import append_features, create, new_features_name

HEADER = "index.json"
KEYS = ("image_root", "checkpoint", "identity", "options", "embed_dim", "generation")
PART = re.compile(r"images-(\d{1,9})\.json")


def exists(folder: Path) -> bool:
    """Whether a folder contains an index of format 1."""
    return (folder / HEADER).exists()


def read_header(folder: Path) -> Header:
    """The header; raises UserError if it is damaged."""
    with reporting_damage(folder):
        content = json.loads((folder / HEADER).read_text(encoding="utf-8"))
        if content["format"] != 1:
            raise ValueError(f"expected format 1, found {content['format']!r}")
        header = Header(**{key: content[key] for key in KEYS})
        return replace(header, complete=header.generation > 0)


def read(folder: Path, header: Header) -> tuple[list[Entry], Features]:
    """The images and their features, as of the latest update; raises UserError if they are damaged."""
    with reporting_damage(folder):
        return _read_pair(folder, header.generation, header.embed_dim)


def upgrade(folder: Path) -> None:
    """Copy an index, if it is one of format 1, into the present format, and remove the old files. Raises
    UserError if it is damaged.
    """
    if exists(folder):
        if not (folder / DATABASE).exists():
            _copy(folder)
        remove(folder)


def _copy(folder: Path) -> None:
    header, name = read_header(folder), new_features_name()
    sources = [read(folder, header)] if header.generation else []
    for number in _parts(folder / "parts"):
        # Where the disk lost data after a crash, the images are encoded again.
        with suppress(*READ_ERRORS):
            sources.append(_read_pair(folder / "parts", number, header.embed_dim))
    by_path, count = {}, 0
    with reporting_writes(folder):
        append_features(folder / name, 0, np.zeros((0, header.embed_dim), np.float16))
        for images, features in sources:
            for entry in images:
                id_ = by_path[entry.path].id if entry.path in by_path else len(by_path)
                by_path[entry.path] = entry._replace(id=id_, slot=count + entry.slot)
            rows = features.mapped()
            for start in range(0, len(rows), CHUNK):
                append_features(folder / name, count + start, rows[start : start + CHUNK])
            count += len(rows)
    numbers = {"num_slots": count, "num_images": len(by_path), "next_id": len(by_path)}
    generation = max(header.generation, min(1, len(by_path)))
    create(folder, replace(header, features=name, generation=generation, **numbers), by_path.values())


def remove(folder: Path) -> None:
    """Remove the files of format 1, that by which it is recognised last."""
    shutil.rmtree(folder / "parts", ignore_errors=True)
    names = [file for pattern in ("images-*.json", "features-*.npy") for file in folder.glob(pattern)]
    for file in (*names, *folder.glob("approximate-*.faiss"), folder / HEADER):
        file.unlink()


def _read_pair(folder: Path, number: int, width: int) -> tuple[list[Entry], Features]:
    columns = json.loads((folder / f"images-{number}.json").read_bytes())
    files = list(zip(*columns, strict=True))
    for path, size, mtime_ns in files:
        if not (type(path) is str and type(size) is int is type(mtime_ns)):
            raise TypeError(f"expected path, size and modification time, found {(path, size, mtime_ns)}")
        if "//" in f"/{path}/" or "/../" in f"/{path}/" or "\0" in path:
            raise ValueError(f"expected a path below the image root, found {path!r}")
        if max(abs(size), abs(mtime_ns)) >= 2**63 or not os.fsencode(path):
            raise ValueError(f"expected numbers of 64 bits, found {(size, mtime_ns)}")
    rows = np.lib.format.open_memmap(folder / f"features-{number}.npy", mode="r")
    if rows.dtype != np.float16 or rows.shape != (len(files), width) or not rows.flags.c_contiguous:
        raise ValueError(f"features-{number}.npy contains {rows.dtype} {rows.shape}")
    features = Features(folder / f"features-{number}.npy", *rows.shape, rows.offset)
    return [Entry(slot, slot, *file) for slot, file in enumerate(files)], features


def _parts(folder: Path) -> list[int]:
    matches = (PART.fullmatch(file.name) for file in folder.glob("images-*.json"))
    return sorted(int(match[1]) for match in matches if match)
