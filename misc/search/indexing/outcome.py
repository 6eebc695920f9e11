"""The outcome of an update of an index."""

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Update:
    """The outcome of an update.

    Attributes:
        found: number of image and video files; the sum of kept, moved, copied, new, changed, skipped and
            excluded ones.
        total: number of images and videos that are ranked.
        entries: number of their entries; of an index of people those of a photo are the people in it.
        missing: number of images whose file is away, or excluded.
        hidden: number of missing images whose file, or a folder of it, is excluded.
        reduced: number of encoded images that were decoded at reduced size, since they are so large.
        dropped: number of images that were removed from the index, since they were missing.
        skipped: {path: reason} of files and, with a separator behind them, folders that cannot be read.
        excluded: the same of those that are left out.
        listing: the file that lists both.
    """

    found: int
    kept: int
    moved: int
    copied: int
    new: int
    changed: int
    total: int
    entries: int
    missing: int
    hidden: int
    reduced: int
    dropped: int
    kind: str
    skipped: dict[str, str]
    excluded: dict[str, str]
    listing: Path

    @property
    def encoded(self) -> int:
        """Number of images that were encoded."""
        return self.new + self.changed

    @property
    def num_skipped(self) -> int:
        """Number of skipped files."""
        return num_files(self.skipped)

    @property
    def num_excluded(self) -> int:
        """Number of files that are left out, without those in folders that are."""
        return num_files(self.excluded)


def num_files(paths: Collection[str]) -> int:
    """How many of these are no folders."""
    return sum(not is_folder(path) for path in paths)


def is_folder(path: str) -> bool:
    """Whether the skipped path is that of a folder."""
    return path.endswith(os.sep)


def merged(updates: Sequence[Update]) -> Update:
    """The outcome of the updates of several processes, each of its share."""
    first, *others = map(vars, updates)
    total = dict(first)
    for other in others:
        total |= {name: total[name] + value for name, value in other.items() if type(value) is int}
        total |= {name: total[name] | value for name, value in other.items() if type(value) is dict}
    return Update(**total)
