"""Nearest-neighbour search by Milvus, and what it knows of the images."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from misc.search.ranking.engines import Engine, Rows, Selection
from misc.search.storage import milvus
from misc.search.storage.database import Entry
from misc.search.storage.facts import Columns, Detail
from misc.search.storage.places import MilvusPlace
from options import UserError

if TYPE_CHECKING:
    from pymilvus import MilvusClient

MAX_HITS, MAX_IDS = 16_384, 10_000  # the former is Milvus' limit


class MilvusEngine(Engine):
    """Lets Milvus compare each query with every image.

    Milvus knows no generations. So its hits are those of now, of which the images of this generation count:
    their features may be those of a later one, and where an image was removed, the search is to be repeated.

    Args:
        ids: of N images, in the order of rows.
        width: E, of the features.
    """

    num_free = 1000

    def __init__(self, client: "MilvusClient", place: MilvusPlace, ids: np.ndarray, width: int) -> None:
        self._client, self._place, self._ids, self._width = client, place, ids, width
        self._order = np.argsort(ids)
        self.rows = Rows(np.arange(len(ids)), len(ids))

    def features_of(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """The (n, E) fp32 features of n rows."""
        ids = self._ids[np.asarray(rows, np.int64)].tolist()
        return milvus.features_of(self._client, self._place, ids, self._width)

    def search(
        self, queries: np.ndarray, k: int, selection: Selection | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `Index.search`; k is at most the number of images."""
        selection = self.rows.all if selection is None else selection
        found = [self._search(query, k, selection) for query in queries]
        return np.stack([scores for scores, _ in found]), np.stack([rows for _, rows in found])

    def count(self, query: np.ndarray, min_score: float, selection: Selection | None = None) -> int:
        """As `Index.count`."""
        scores, _ = self._among(query, self.rows.all if selection is None else selection)
        return int((scores >= min_score).sum())

    def _search(self, query: np.ndarray, k: int, selection: Selection) -> tuple[np.ndarray, np.ndarray]:
        requested = 0
        while requested < MAX_HITS:
            requested = min(MAX_HITS, max(k + 1, 4 * requested))
            scores, rows = self._hits(query, requested)
            counts = (rows >= 0) & selection.is_selected[rows]
            best = scores[counts][:k]
            # Of images tied for the last place Milvus returns arbitrary ones.
            if len(scores) < requested or (len(best) == k and best[-1] > scores[-1]):
                return self._sorted(scores[counts], rows[counts], k)
        return self._sorted(*self._among(query, selection), k)

    def _among(self, query: np.ndarray, selection: Selection) -> tuple[np.ndarray, np.ndarray]:
        """The scores and rows of all images of a selection."""
        ids, starts = self._ids[selection.slots], range(0, len(selection), MAX_IDS)
        parts = [ids[start : start + MAX_IDS] for start in starts]
        found = [self._hits(query, len(part), f"id in {part.tolist()}") for part in parts]
        empty = np.zeros(0, np.float32), np.zeros(0, np.int64)
        scores, rows = zip(empty, *found, strict=True)
        return np.concatenate(scores), np.concatenate(rows)

    def _hits(self, query: np.ndarray, limit: int, condition: str = "") -> tuple[np.ndarray, np.ndarray]:
        """The scores and the rows of the best images, best first; row -1: of none of this generation."""
        with milvus.reporting(self._place):
            (hits,) = self._client.search(
                self._place.collection,
                data=[query.tolist()],
                filter=condition,
                limit=limit,
                output_fields=["id"],
                search_params={"metric_type": "IP"},
            )
        ids = np.array([hit["id"] for hit in hits], np.int64)
        places = np.searchsorted(self._ids, ids, sorter=self._order).clip(max=len(self._ids) - 1)
        rows = self._order[places]
        rows[self._ids[rows] != ids] = -1
        return np.array([hit["distance"] for hit in hits], np.float32), rows

    def _sorted(self, scores: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        if len(rows) < k:
            raise UserError(f"INDEX: '{self._place}' was updated meanwhile; search again")
        order = np.lexsort((rows, -scores))[:k]
        return scores[order], rows[order]


class MilvusFacts:
    """What Milvus knows of N images, these, as it was when the index was opened."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        taken = ["".join(filter(str.isdigit, entry.taken or "0")) for entry in entries]
        self.columns = Columns(
            np.array([entry.mtime_ns // 10**9 for entry in entries], np.int64),
            np.array(list(map(int, taken)), np.int64),
            np.array([entry.width or 0 for entry in entries], np.int64),
            np.array([entry.height or 0 for entry in entries], np.int64),
        )
        self._details = {e.id: Detail(e.width, e.height, e.taken, e.digest) for e in entries}

    def of(self, ids: Sequence[int]) -> dict[int, Detail]:
        """As `Facts.of`."""
        return {number: self._details[number] for number in map(int, ids) if number in self._details}
