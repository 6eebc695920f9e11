"""Attachments: the files of images as a ZIP archive, and rankings as CSV."""

import io
import os
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from misc.process.csv_file import ENCODING, write_csv
from misc.search.web.schema import SearchAnswer, SearchRequest, encodable

PART = 1 << 18  # bytes that are read at once
NOT_EXPORTED = "not exported.txt"


class _Pieces(io.RawIOBase):
    """A file to write to, whose content is taken piece by piece; it cannot be rewound."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, piece: bytes) -> int:
        """Add a piece."""
        self._pieces.append(bytes(piece))
        return len(piece)

    def taken(self) -> bytes:
        """What was written since the last call."""
        content = b"".join(self._pieces)
        self._pieces.clear()
        return content


def zip_of(image_root: Path, paths: Sequence[str]) -> Iterator[bytes]:
    """A ZIP archive of these files, stored, in pieces; those that cannot be read are named in it."""
    target, failed = _Pieces(), []
    with zipfile.ZipFile(target, "w") as archive:
        for path, name in zip(paths, _names(paths), strict=True):
            try:
                yield from _add(archive, target, image_root / path, name)
            except OSError as error:
                failed.append(f"{encodable(path)}: {error.strerror or error}")
        if failed:
            archive.writestr(NOT_EXPORTED, "\n".join(failed) + "\n")
    yield target.taken()


def _add(archive: zipfile.ZipFile, target: _Pieces, path: Path, name: str) -> Iterator[bytes]:
    if not path.is_file():  # to open a pipe is to wait for whoever writes into it
        raise OSError("it is no file, or not there")
    with path.open("rb") as file:
        info = zipfile.ZipInfo.from_file(path, name, strict_timestamps=False)
        with archive.open(info, "w", force_zip64=True) as entry:
            for piece in iter(lambda: file.read(PART), b""):
                entry.write(piece)
                yield target.taken()


def _names(paths: Iterable[str]) -> Iterator[str]:
    """A name for each path that is in no folder above, is text, and differs from the others."""
    used: set[str] = {NOT_EXPORTED}
    for path in paths:
        parts = (part for part in encodable(path).split("/") if part not in ("", ".", ".."))
        name = "/".join(parts)
        stem, suffix = os.path.splitext(name)
        number = 1
        while name in used:
            number += 1
            name = f"{stem} ({number}){suffix}"
        used.add(name)
        yield name


def csv_of(
    paths: Mapping[int, str],
    ids: Sequence[int],
    image_root: Path,
    request: SearchRequest,
    answer: SearchAnswer,
) -> bytes:
    """A CSV file of images, in the order of `ids`, with their ranks and scores in the answer to a search."""
    found = {one.id: one for one in answer.results}
    found = {copy.id: one for one in answer.results for copy in one.duplicates} | found
    rows = [
        {
            "query": request.text,
            "without": ", ".join(request.without),
            "filters": request.filters.model_dump_json(exclude_defaults=True),
            "rank": found[number].rank if number in found else "",
            "score": round(found[number].score, 6) if number in found else "",
            "id": number,
            "image": encodable(paths[number]),
            "root": encodable(str(image_root)),
        }
        for number in ids
    ]
    text = io.StringIO()
    write_csv(text, list(rows[0]), rows)
    return text.getvalue().encode(ENCODING)
