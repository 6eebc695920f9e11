"""The files behind the entries of an index: one of people has several entries of a file."""

import hashlib
from collections.abc import Collection, Iterable, Iterator

from data.images.regions import place_of
from misc.search.indexing.people import People
from misc.search.storage.database import Entry
from misc.search.storage.sightings import Sighting

NEVER = -1  # a size that no file has


class IndexedFiles:
    """The files of an index, one of whose entries stands for all of them.

    Args:
        entries: of the index.
        people: of an index of people, how they are found now; None: each entry is of a file of its own.

    Attributes:
        first: for each file the entry that stands for all, with the path of the file. Its digest is also that
            of the boxes that the user gave, where there are any. If some of the entries are not there, as a
            kill may leave it, or they are of other boxes, its size is `NEVER` and it has no digest.
    """

    def __init__(self, entries: Collection[Entry], people: People | None) -> None:
        self.first, self._people = entries, people
        self._all: dict[int, list[Entry]] = {}
        if people:
            by_file: dict[str, list[Entry]] = {}
            for entry in sorted(entries):
                by_file.setdefault(place_of(entry.path).file, []).append(entry)
            self.first = [self._standing_for(*item) for item in by_file.items()]
            self._all = {several[0].id: several for several in by_file.values()}

    def _standing_for(self, file: str, entries: list[Entry]) -> Entry:
        first = entries[0]._replace(path=file)
        sighting = Sighting.of_text(first.sighting)
        if sighting.of != len(entries) or sighting.boxes != self._people.boxes_digest(file):
            return first._replace(size=NEVER, digest=None)
        return first._replace(digest=first.digest and _with_boxes(first.digest, sighting.boxes))

    def digest(self, file: str, content: bytes) -> bytes:
        """The digest of a file of this content, as `first` has it."""
        return _with_boxes(content, self._people.boxes_digest(file) if self._people else "")

    def of(self, first: Entry) -> list[Entry]:
        """All entries of a file."""
        return self._all.get(first.id, [first])

    def like(self, firsts: Iterable[Entry]) -> Iterator[Entry]:
        """All entries of these files, with the path and the state that their first ones have now."""
        for first in firsts:
            if first.id not in self._all:
                yield first
            for entry in self._all.get(first.id, ()):
                state = {"mtime_ns": first.mtime_ns, "missing_since": first.missing_since}
                path = place_of(entry.path)._replace(file=first.path).path
                yield entry._replace(path=path, sighting=_moved(entry.sighting, first.path), **state)


def _moved(sighting: str | None, file: str) -> str:
    """What is stored of an entry whose file is at this path now."""
    known = Sighting.of_text(sighting)
    crops = tuple(place_of(crop)._replace(file=file).path for crop in known.crops)
    return Sighting(**vars(known) | {"crops": crops}).text


def _with_boxes(digest: bytes, boxes: str) -> bytes:
    return hashlib.blake2b(digest + boxes.encode(), digest_size=16).digest() if boxes else digest
