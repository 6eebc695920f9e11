"""Which images of an index a query is about: by folder, file name, time, and size."""

import fnmatch
import os
import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from misc.search.storage.facts import Columns, Facts
from options import UserError

TIME = re.compile(r"\d{4}-\d\d-\d\d(?P<minute>[ T]\d\d:\d\d(?P<second>:\d\d)?(Z|[+-]\d\d:\d\d)?)?", re.ASCII)


@dataclass(frozen=True)
class Filters:
    """What an image has to satisfy; all that are given hold together.

    Attributes:
        folder: relative to the image root; the image is below it.
        pattern: as in shells, of the file name; of the whole path where it has a "/". A "*" matches "/" too.
        since, until: "2024-05-06", "2024-05-06 07:08" or "2024-05-06 07:08:09", also with "T", and with a
            time zone, otherwise in local time; both inclusive, so that `until` a day means all of it. The
            time of an image is EXIF's, if there is one, otherwise that of the last modification of its file.
        min_size, max_size: (width, height) in pixels, upright. An image of unknown size has neither.

    Raises:
        UserError: a value is none of these, or no image could satisfy both ends of a span; it begins with
            the name of the attribute, with "-" for "_".
    """

    folder: str = ""
    pattern: str = ""
    since: str = ""
    until: str = ""
    min_size: tuple[int, int] | None = None
    max_size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        first, last = self.since and self._first, self.until and self._last
        if first and last and first > last:
            raise UserError(f"since: '{self.since}' is after until, '{self.until}'; exchange the two")
        for name, size in (("min-size", self.min_size), ("max-size", self.max_size)):
            if size is not None and not (len(size) == 2 and all(type(n) is int and n >= 0 for n in size)):
                raise UserError(f"{name}: expected width and height in pixels, found {size}")
        if self.min_size and self.max_size and any(np.greater(self.min_size, self.max_size)):
            raise UserError(f"min-size: {self.min_size} is larger than max-size, {self.max_size}")

    @property
    def _first(self) -> datetime:
        return _moment("since", self.since, is_last=False)

    @property
    def _last(self) -> datetime:
        return _moment("until", self.until, is_last=True)

    def spans_time(self, columns: Columns) -> np.ndarray:
        """Whether the time of each image is in the span: (N,) bool."""
        passes = np.ones(len(columns.taken), bool)
        if self.since:
            digits, seconds = _numbers(self._first)
            passes &= np.where(columns.taken > 0, columns.taken >= digits, columns.modified >= seconds)
        if self.until:
            digits, seconds = _numbers(self._last)
            passes &= np.where(columns.taken > 0, columns.taken <= digits, columns.modified <= seconds)
        return passes

    def spans_size(self, columns: Columns) -> np.ndarray:
        """Whether the size of each image is in the span: (N,) bool."""
        passes = columns.width > 0
        if self.min_size:
            passes &= (columns.width >= self.min_size[0]) & (columns.height >= self.min_size[1])
        if self.max_size:
            passes &= (columns.width <= self.max_size[0]) & (columns.height <= self.max_size[1])
        return passes


EVERYTHING = Filters()


def mask_of(filters: Filters, paths: Sequence[str], facts: Facts) -> np.ndarray:
    """Whether each of N images passes: (N,) bool. `paths` are sorted. Raises UserError if no image is below
    the folder.
    """
    start, stop = _rows_below(filters.folder, paths)
    mask = np.zeros(len(paths), bool)
    mask[start:stop] = True
    if filters.pattern:
        is_match = re.compile(fnmatch.translate(filters.pattern)).match
        names = paths[start:stop]
        if "/" not in filters.pattern:
            names = [os.path.basename(path) for path in names]
        mask[start:stop] = [is_match(name) is not None for name in names]
    if filters.since or filters.until:
        mask &= filters.spans_time(facts.columns)
    if filters.min_size or filters.max_size:
        mask &= filters.spans_size(facts.columns)
    return mask


def _rows_below(folder: str, paths: Sequence[str]) -> tuple[int, int]:
    """The first of the sorted paths below a folder, and the first behind them."""
    relative = os.path.normpath(folder).strip("/") if folder else "."
    if relative in (".", ""):
        return 0, len(paths)
    # What begins with "x/" lies between "x/" and "x0": 0 is the character behind /.
    start, stop = (bisect_left(paths, relative + end) for end in (os.sep, chr(ord(os.sep) + 1)))
    if start == stop:
        folders = sorted({path.partition(os.sep)[0] for path in paths if os.sep in path})
        known = f"such as '{folders[0]}'" if folders else "but this one has no folders"
        raise UserError(f"folder: no image is below '{folder}'; name a folder of the image root, {known}")
    return start, stop


def _moment(name: str, text: str, is_last: bool) -> datetime:
    """The first or the last second that a text names, in local time."""
    try:
        found = TIME.fullmatch(text)
        if found is None:
            raise ValueError(text)
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
        if is_last and not found["minute"]:
            moment = moment.replace(hour=23, minute=59)
        if is_last and not found["second"]:
            moment = moment.replace(second=59)
        if moment.tzinfo is not None:
            moment = moment.astimezone().replace(tzinfo=None)
        moment.timestamp()
    except (ValueError, OverflowError, OSError) as error:
        raise UserError(
            f"{name}: expected a time such as 2024-05-06 or '2024-05-06 07:08', found {text!r:.40}"
        ) from error
    return moment


def _numbers(moment: datetime) -> tuple[int, int]:
    """A local time as `Columns.taken` and as `Columns.modified` have it."""
    return int(f"{moment:%Y%m%d%H%M%S}"), int(moment.timestamp())
