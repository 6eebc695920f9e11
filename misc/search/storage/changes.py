"""What both writers of an index share: its images, and which of them have changed."""

from collections.abc import Iterable

from misc.search.storage.database import Entry


class Changes:
    """Images of an index, of which some are added, replaced or removed.

    Attributes:
        entries: {id: image}, with the changes.
    """

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.entries = {entry.id: entry for entry in entries}
        self._changed: set[int] = set()

    def put(self, entries: Iterable[Entry]) -> None:
        """Add images, or replace those of the same ids."""
        for entry in entries:
            self.entries[entry.id] = entry
            self._changed.add(entry.id)

    def remove(self, ids: Iterable[int]) -> None:
        """Remove images."""
        for number in ids:
            del self.entries[number]
            self._changed.add(number)

    def _changes(self) -> tuple[list[Entry], list[int]]:
        """The images that were put, and the ids of those that were removed, in the order of ids."""
        put = [self.entries[number] for number in sorted(self._changed & self.entries.keys())]
        return put, sorted(self._changed - self.entries.keys())
