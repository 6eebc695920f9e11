"""The images that answer queries: ranked, filtered, and with their duplicates grouped."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from data.images.regions import Place, place_of
from misc.search.encoder import Encoder
from misc.search.index import Index
from misc.search.ranking.engines import Selection
from misc.search.ranking.filters import EVERYTHING, Filters
from misc.search.ranking.queries import Query, query_features
from misc.search.ranking.warnings import text_warnings
from misc.search.storage.database import reporting_damage
from misc.search.storage.facts import Detail
from misc.search.storage.sightings import Sighting

MAX_RANKED = 2_000_000  # images of all queries that are ranked only to be counted


@dataclass(frozen=True)
class Result:
    """One place of a ranking.

    Attributes:
        rank: from 1, over all pages of the ranking.
        row: of the index.
        id: that names the image in later generations, too.
        path: relative to the image root, as `Entry.path`.
        width, height: in pixels, upright; None: not known.
        taken: local time, as "2024-05-06 07:08:09", see `Entry`; None: not known.
        sighting: of an index of people, how the entry came about.
        duplicates: ids of the images that share the place, as they are equal.
        others: ids of other entries that share it, people or the whole photo, as they are of the same file,
            or of a copy of it.
    """

    rank: int
    row: int
    id: int
    score: float
    path: str
    width: int | None
    height: int | None
    taken: str | None
    sighting: Sighting | None = None
    duplicates: tuple[int, ...] = ()
    others: tuple[int, ...] = ()

    @property
    def place(self) -> Place:
        """The file, and which part of it."""
        return place_of(self.path) if self.sighting else Place(self.path)


@dataclass(frozen=True)
class Answer:
    """A part of the ranking of a query, best first.

    Attributes:
        total: number of images in the index.
        matching: how many of them pass the filters.
        passing: how many of these have the minimum score; None: there is no minimum.
        has_more: whether the ranking goes on behind `results`.
        warnings: what the user should know of the query, a sentence each.
    """

    results: list[Result]
    total: int
    matching: int
    passing: int | None
    has_more: bool
    warnings: list[str] = field(default_factory=list)


def answer(
    index: Index,
    encoder: Encoder,
    query: Query,
    *,
    k: int,
    offset: int = 0,
    filters: Filters = EVERYTHING,
    min_score: float | None = None,
    group: bool = False,
    per_file: bool = False,
) -> Answer:
    """The places offset + 1 ... offset + k of the ranking of a query; see `rank`. Raises UserError as
    `query_features` and `Index.select` do.
    """
    features = query_features(encoder, [query], index)
    settings = {"filters": filters, "min_score": min_score, "group": group, "per_file": per_file}
    (found,) = rank(index, features, [query], k=k, offset=offset, **settings)
    found.warnings[:0] = text_warnings(encoder, query.all_texts)
    return found


def rank(
    index: Index,
    features: np.ndarray,
    queries: Sequence[Query],
    *,
    k: int,
    offset: int = 0,
    filters: Filters = EVERYTHING,
    min_score: float | None = None,
    group: bool = False,
    per_file: bool = False,
) -> list[Answer]:
    """Rank the images for Q queries with these features (Q, E), as `query_features` returns them.

    Images of the index that are part of a query are left out of all of these rankings, with their duplicates.
    With `group`, an image shares the first place that has an image of the same content (digest of the file,
    and the same part of it) or of an equal feature. With `per_file`, what is left of the files at a place
    shares it, too: a photo or a video has one place, at which its best entry is shown. `duplicates` and
    `others` name those found until the ranking filled k places.

    Args:
        min_score: the ranking ends where scores are below it.
    """
    assert k > 0 <= offset, (k, offset)
    selection = index.select(filters)
    left_out = sorted(set().union(*(query.ids for query in queries)))
    if left_out:
        mask = np.zeros(len(index.paths), bool)
        mask[index.engine.rows.row_of[selection.slots]] = True
        mask[[index.row_of(number) for number in left_out]] = False
        selection = index.engine.rows.select(mask)
    number = offset + k + 1
    if min_score is not None:
        number = max(number, min(index.engine.num_free, MAX_RANKED // max(1, len(queries))))
    warnings = _unknown_sizes(index, filters)
    answers = []
    for feature, scores, rows in zip(features, *index.search(features, number, selection), strict=True):
        ranking = _Ranking(index, feature, selection, min_score, scores, rows)
        passing = None if min_score is None else ranking.count()
        places = _places(index, ranking, offset + k + 1, left_out, group, per_file)
        results = _results(index, places[offset : offset + k], offset)
        has_more = len(places) > offset + k
        answers.append(Answer(results, len(index.paths), len(selection), passing, has_more, list(warnings)))
    return answers


class _Ranking:
    """The ranking of one query, of which the best images are known; more of them on request."""

    def __init__(
        self,
        index: Index,
        feature: np.ndarray,
        selection: Selection,
        min_score: float | None,
        scores: np.ndarray,
        rows: np.ndarray,
    ) -> None:
        self._index, self._feature, self._selection = index, feature, selection
        self._min_score = -np.inf if min_score is None else min_score
        self._take(scores, rows)

    def _take(self, scores: np.ndarray, rows: np.ndarray) -> None:
        number = int((scores >= self._min_score).sum())
        self.is_whole = number < len(scores) or len(scores) == len(self._selection)
        self.scores, self.rows = scores[:number], rows[:number]

    def extend(self) -> None:
        """Rank four times as many images."""
        number = 4 * len(self.rows)
        self._take(*(part[0] for part in self._index.search(self._feature[None], number, self._selection)))

    def count(self) -> int:
        """The number of images in the whole ranking."""
        if self.is_whole:
            return len(self.rows)
        return self._index.count(self._feature, self._min_score, self._selection)


class _Place(NamedTuple):
    """A place: the row that is shown, followed by those equal to it, and the other rows of their files."""

    score: float
    rows: list[int]
    others: list[int]


def _places(
    index: Index, ranking: _Ranking, number: int, left_out: Sequence[int], group: bool, per_file: bool
) -> list[_Place]:
    """The first places, at most `number`."""
    if not (group or per_file or left_out):
        scores, rows = ranking.scores[:number].tolist(), ranking.rows[:number].tolist()
        return [_Place(score, [row], []) for score, row in zip(scores, rows, strict=True)]
    while True:
        places = _grouped(index, ranking, number, left_out, group, per_file)
        if len(places) == number or ranking.is_whole:
            return places
        ranking.extend()


def _grouped(
    index: Index, ranking: _Ranking, number: int, left_out: Sequence[int], group: bool, per_file: bool
) -> list[_Place]:
    places: list[_Place] = []
    equal: dict[Hashable, int] = {}  # the place by content, and by feature
    in_file: dict[str, int] = {}
    for keys in _keys(index, [index.row_of(one) for one in left_out]):
        equal |= dict.fromkeys(keys, -1)
    for start in range(0, len(ranking.rows), max(number, 64)):
        part = slice(start, start + max(number, 64))
        scores, rows = ranking.scores[part].tolist(), ranking.rows[part].tolist()
        for score, row, keys in zip(scores, rows, _keys(index, rows), strict=True):
            known = [equal[key] for key in keys if key in equal]
            if -1 in known:
                continue
            file = index.place(row).file
            if group and known:
                place = min(known)
                places[place].rows.append(row)
            elif per_file and file in in_file:
                places[in_file[file]].others.append(row)
                continue  # what equals it, in another file, does not equal what is shown
            elif len(places) == number:
                return places
            else:
                place = len(places)
                places.append(_Place(score, [row], []))
            equal |= dict.fromkeys(keys, place) if group else {}
            in_file.setdefault(file, place)
    return places


def _keys(index: Index, rows: Sequence[int]) -> list[list[Hashable]]:
    """What two of these rows share if they are duplicates: digest, if known, with the part of the file, and
    feature.
    """
    ids = index.ids[rows].tolist()
    details = index.facts.of(ids)
    keys = []
    for row, number, feature in zip(rows, ids, index.features_of(rows), strict=True):
        digest, (_, *part) = details.get(number, Detail()).digest, index.place(row)
        keys.append([feature.tobytes(), *([(digest, *part)] if digest else [])])
    return keys


def _results(index: Index, places: Sequence[_Place], offset: int) -> list[Result]:
    details = index.facts.of([int(index.ids[place.rows[0]]) for place in places])
    results = []
    for rank_, (score, (row, *equal), others) in enumerate(places, start=offset + 1):
        number = int(index.ids[row])
        detail = details.get(number, Detail())
        with reporting_damage(index.folder):
            sighting = Sighting.of_text(detail.sighting) if index.has_people else None
        facts = (detail.width, detail.height, detail.taken, sighting)
        sharing = (tuple(index.ids[rows].tolist()) for rows in (equal, others))
        results.append(Result(rank_, row, number, score, index.paths[row], *facts, *sharing))
    return results


def _unknown_sizes(index: Index, filters: Filters) -> list[str]:
    if not (filters.min_size or filters.max_size):
        return []
    number = int((index.facts.columns.width == 0).sum())
    if not number:
        return []
    return [f"the sizes of {number} images are not known, so that a filter by size leaves them out"]
