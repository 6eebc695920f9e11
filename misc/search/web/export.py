"""Attachments: the files or the pictures of images as a ZIP archive, and rankings as CSV."""

import io
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from misc.process.csv_file import ENCODING, write_csv
from misc.search.storage.sightings import Sighting
from misc.search.web.pictures import Source, encode_jpeg
from misc.search.web.schema import SearchAnswer, SearchRequest, Whereabouts, encodable
from options import UserError

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


class Exported(NamedTuple):
    """An image to export; the attributes are those of `Details`, `Source` and `Entry`."""

    id: int
    path: str
    source: Source
    sighting: Sighting | None


def zip_of_files(images: Iterable[Exported]) -> Iterator[bytes]:
    """A ZIP archive of the files of these images, each once, stored, in pieces; those that cannot be read are
    named in it.
    """
    files = {image.source.place.file: image.source.file for image in images}
    return _zip_of(list(files), lambda archive, target, path, name: _add(archive, target, files[path], name))


def zip_of_crops(images: Iterable[Exported], load: Callable[[Source], Image.Image]) -> Iterator[bytes]:
    """As `zip_of_files`, of the pictures of these images, which `load` loads, as JPEG."""
    sources = {f"{image.path}.jpg": image.source for image in images}

    def add(archive: zipfile.ZipFile, target: _Pieces, path: str, name: str) -> Iterator[bytes]:
        archive.writestr(name, encode_jpeg(load(sources[path])))
        yield target.taken()

    return _zip_of(list(sources), add)


def _zip_of(
    paths: Sequence[str], add: Callable[[zipfile.ZipFile, _Pieces, str, str], Iterator[bytes]]
) -> Iterator[bytes]:
    target, failed = _Pieces(), []
    with zipfile.ZipFile(target, "w") as archive:
        for path, name in zip(paths, _names(paths), strict=True):
            try:
                yield from add(archive, target, path, name)
            except (OSError, UserError) as error:
                failed.append(f"{encodable(path)}: {getattr(error, 'strerror', None) or error}")
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


def csv_of(images: Sequence[Exported], request: SearchRequest, answer: SearchAnswer) -> bytes:
    """A CSV file of images, in this order, with their ranks and scores in the answer to a search; of people
    also where they are.
    """
    found = {one.id: one for one in answer.results}
    found = {copy.id: one for one in answer.results for copy in one.duplicates} | found
    rows = [
        {
            "query": request.text,
            "without": ", ".join(request.without),
            "filters": request.filters.model_dump_json(exclude_defaults=True),
            "rank": found[image.id].rank if image.id in found else "",
            "score": round(found[image.id].score, 6) if image.id in found else "",
            "id": image.id,
            "image": encodable(image.source.place.file),
            "root": encodable(str(image.source.root)),
            **_whereabouts(image),
        }
        for image in images
    ]
    text = io.StringIO()
    write_csv(text, list(rows[0]), rows)
    return text.getvalue().encode(ENCODING)


def _whereabouts(image: Exported) -> dict[str, object]:
    """The path of an entry of an index of people, and where it is."""
    if image.sighting is None:
        return {}
    found = dict(Whereabouts.of(image.source.place, image.sighting))
    box = ",".join(map(str, found["box"] or ()))
    times = {name: found[name] for name in ("time", "first", "last", "detection")}
    return {"path": encodable(image.path), "box": box, **times}
