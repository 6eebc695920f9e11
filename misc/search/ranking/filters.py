"""Which entries of an index a query is about: by folder, file name, time, time of day, and size."""

import fnmatch
import os
import re
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from misc.search.storage.facts import Columns, Facts
from options import UserError

TIME = re.compile(r"\d{4}-\d\d-\d\d(?P<minute>[ T]\d\d:\d\d(?P<second>:\d\d)?(Z|[+-]\d\d:\d\d)?)?", re.ASCII)
HOURS = re.compile(r"([01]?\d|2[0-3]):([0-5]\d) ?[-–] ?([01]?\d|2[0-3]):([0-5]\d)", re.ASCII)
DAY = 86_400  # seconds


@dataclass(frozen=True)
class Filters:
    """What an entry has to satisfy; all that are given hold together.

    Attributes:
        folder: relative to the image root; the file is below it.
        pattern: as in shells, of the file name; of the whole path where it has a "/". A "*" matches "/" too.
        since, until: "2024-05-06", "2024-05-06 07:08" or "2024-05-06 07:08:09", also with "T", and with a
            time zone, otherwise in local time; both inclusive, so that `until` a day means all of it. The
            time of an entry is that of EXIF, or of the frame of a video, if it is known, otherwise that of
            the last modification of the file.
        hours: "08:00-17:30", of any day, both inclusive, so that the last minute counts; over midnight if the
            second is before the first, as in "22:00-06:00". Local time, of an entry the same as above.
        min_size, max_size: (width, height) in pixels, upright; of a person those of the box. What is of
            unknown size has neither.

    Raises:
        UserError: a value is none of these, or no image could satisfy both ends of a span; it begins with
            the name of the attribute, with "-" for "_".
    """

    folder: str = ""
    pattern: str = ""
    since: str = ""
    until: str = ""
    hours: str = ""
    min_size: tuple[int, int] | None = None
    max_size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        first, last = self.since and self._first, self.until and self._last
        if first and last and first > last:
            raise UserError(f"since: '{self.since}' is after until, '{self.until}'; exchange the two")
        if self.hours:
            _span_of_day(self.hours)
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
        """Whether the time of each entry is in the span, and its time of day: (N,) bool."""
        passes = np.ones(len(columns.taken), bool)
        if self.since:
            digits, seconds = _numbers(self._first)
            passes &= np.where(columns.taken > 0, columns.taken >= digits, columns.modified >= seconds)
        if self.until:
            digits, seconds = _numbers(self._last)
            passes &= np.where(columns.taken > 0, columns.taken <= digits, columns.modified <= seconds)
        if self.hours:
            (first, last), times = _span_of_day(self.hours), _times_of_day(columns)
            after, before = times >= first, times <= last
            passes &= after & before if first <= last else after | before
        return passes

    def spans_size(self, columns: Columns) -> np.ndarray:
        """Whether the size of each entry is in the span: (N,) bool."""
        passes = columns.width > 0
        if self.min_size:
            passes &= (columns.width >= self.min_size[0]) & (columns.height >= self.min_size[1])
        if self.max_size:
            passes &= (columns.width <= self.max_size[0]) & (columns.height <= self.max_size[1])
        return passes


EVERYTHING = Filters()


def mask_of(
    filters: Filters, paths: Sequence[str], files: Callable[[slice], list[str]], facts: Facts
) -> np.ndarray:
    """Whether each of N entries passes: (N,) bool. `paths` are sorted, `files` as `Index.files`. Raises
    UserError if no image is below the folder.
    """
    start, stop = _rows_below(filters.folder, paths, files)
    mask = np.zeros(len(paths), bool)
    mask[start:stop] = True
    if filters.pattern:
        is_match = re.compile(fnmatch.translate(filters.pattern)).match
        names = files(slice(start, stop))
        if "/" not in filters.pattern:
            names = [os.path.basename(path) for path in names]
        mask[start:stop] = [is_match(name) is not None for name in names]
    if filters.since or filters.until or filters.hours:
        mask &= filters.spans_time(facts.columns)
    if filters.min_size or filters.max_size:
        mask &= filters.spans_size(facts.columns)
    return mask


def _rows_below(folder: str, paths: Sequence[str], files: Callable[[slice], list[str]]) -> tuple[int, int]:
    """The first of the sorted paths below a folder, and the first behind them."""
    relative = os.path.normpath(folder).strip("/") if folder else "."
    if relative in (".", ""):
        return 0, len(paths)
    # What begins with "x/" lies between "x/" and "x0": 0 is the character behind /.
    start, stop = (bisect_left(paths, relative + end) for end in (os.sep, chr(ord(os.sep) + 1)))
    first = files(slice(start, min(start + 1, stop)))
    if not first or len(first[0]) <= len(relative):  # the latter: no folder but a file, or a part of one
        folders = sorted({file.partition(os.sep)[0] for file in files(slice(None)) if os.sep in file})
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


def _span_of_day(hours: str) -> tuple[int, int]:
    """The first and the last second of a span, since midnight."""
    found = HOURS.fullmatch(hours)
    if found is None:
        raise UserError(
            f"hours: expected times of day such as 08:00-17:30 or 22:00-06:00, found {hours!r:.40}"
        )
    hour, minute, last_hour, last_minute = map(int, found.groups())
    return 3600 * hour + 60 * minute, 3600 * last_hour + 60 * last_minute + 59


def _times_of_day(columns: Columns) -> np.ndarray:
    """The local time of each entry in seconds since midnight: (N,) int64."""
    hours, minutes, seconds = (columns.taken // 100**place % 100 for place in (2, 1, 0))
    modified = (columns.modified + _offsets(columns.modified)) % DAY
    return np.where(columns.taken > 0, 3600 * hours + 60 * minutes + seconds, modified)


def _offsets(moments: np.ndarray) -> np.ndarray:
    """What local time is ahead of UTC at (N,) moments in seconds since 1970: (N,) int64, seconds."""
    days = moments // DAY
    starts = np.arange(days.min(), days.max() + 2)
    by_day = np.array([time.localtime(DAY * day).tm_gmtoff for day in starts.tolist()], np.int64)
    offsets, next_ones = by_day[days - starts[0]], by_day[days - starts[0] + 1]
    changing = offsets != next_ones  # clocks are changed on that day
    offsets[changing] = [time.localtime(moment).tm_gmtoff for moment in moments[changing].tolist()]
    return offsets


def _numbers(moment: datetime) -> tuple[int, int]:
    """A local time as `Columns.taken` and as `Columns.modified` have it."""
    return int(f"{moment:%Y%m%d%H%M%S}"), int(moment.timestamp())
