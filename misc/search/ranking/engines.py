"""Nearest-neighbour search with FAISS: exact over fp16 features, and approximate by IVF-PQ."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from misc.search.storage.database import CHUNK, digest_of
from options import UserError

if TYPE_CHECKING:
    import faiss

MIN_APPROXIMATE = 10_000  # images that the codes of an approximate index are trained on, at least
SAMPLES_PER_LIST = 64
MAX_CODE_BYTES = 64
LISTS_PROBED = 128
MIN_CANDIDATES, CANDIDATES_PER_RESULT = 1000, 10
LARGE_SHARE = 0.4  # of the slots: FAISS compares these faster alone, and more of them slower than all
COUNTED_AT_ONCE = 1024  # rows: in fp32 they fit into the caches


class Selection:
    """Some of the slots, the only ones that are ranked: those of an index's images, or of some of them.

    Attributes:
        slots: distinct, in the order of rows.
        is_selected: the same as a mask (num_slots,).
        selector: the same for FAISS; None: all that there are.
    """

    def __init__(self, slots: np.ndarray, num_slots: int) -> None:
        import faiss

        self.slots, self.is_selected = slots, np.zeros(num_slots, bool)
        self.is_selected[slots] = True
        self._bits = np.packbits(self.is_selected, bitorder="little")  # FAISS refers to them
        self.selector = faiss.IDSelectorBitmap(self._bits) if len(slots) < num_slots else None

    def __len__(self) -> int:
        return len(self.slots)


class Rows:
    """The rows of a ranking and the slots of their features; slots of no row are never ranked.

    Args:
        slots: the slot of each of N rows, distinct.
        num_slots: how many there are.
    """

    def __init__(self, slots: np.ndarray, num_slots: int) -> None:
        self.slots = slots
        self.row_of = np.full(num_slots, -1, np.int64)
        self.row_of[slots] = np.arange(len(slots))
        self.all = Selection(slots, num_slots)

    def select(self, mask: np.ndarray) -> Selection:
        """The rows where a mask (N,) is true."""
        return self.all if mask.all() else Selection(self.slots[mask], len(self.row_of))


class Engine:
    """What both kinds of search share.

    Attributes:
        rows: which slots are ranked, as which rows.
        num_free: to rank so many images takes about as long as to rank a few.
    """

    rows: Rows
    num_free: int
    _features: np.ndarray

    def features_of(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """The (n, E) fp16 features of n rows."""
        return self._features[self.rows.slots[rows]]

    def count(self, query: np.ndarray, min_score: float, selection: Selection | None = None) -> int:
        """As `Index.count`."""
        import torch

        selection = self.rows.all if selection is None else selection
        # Allocated once: fresh memory, like the conversion by numpy, would take most of the time.
        shape = (COUNTED_AT_ONCE, len(query))
        stored, rows = np.empty(shape, np.float16), torch.empty(shape)
        number, query = 0, torch.from_numpy(query)
        for start in range(0, len(selection.is_selected), COUNTED_AT_ONCE):
            is_selected = torch.from_numpy(selection.is_selected[start : start + COUNTED_AT_ONCE])
            size = len(is_selected)
            stored[:size] = self._features[start : start + size]
            scores = rows[:size].copy_(torch.from_numpy(stored[:size])) @ query
            number += int(((scores >= min_score) & is_selected).sum())
        return number


class ExactEngine(Engine):
    """Compares each query with every image, by a flat FAISS index, which holds the fp16 features.

    Args:
        read_into: fills a (num_slots, E) fp16 array with the features, which are not held twice.
    """

    num_free = 10_000

    def __init__(self, read_into: Callable[[np.ndarray], object], rows: Rows, width: int) -> None:
        import faiss

        self.rows, shape = rows, (len(rows.row_of), width)
        fp16, metric = faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
        self._index = faiss.IndexScalarQuantizer(width, fp16, metric)
        self._index.codes.resize(2 * shape[0] * shape[1])
        self._index.ntotal = shape[0]
        codes = faiss.rev_swig_ptr(self._index.codes.data(), 2 * shape[0] * shape[1])
        self._features = codes.view(np.float16).reshape(shape)
        read_into(self._features)

    def search(
        self, queries: np.ndarray, k: int, selection: Selection | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `Index.search`; k is at most the number of images."""
        import faiss

        selection = self.rows.all if selection is None else selection
        settings = faiss.SearchParameters(sel=selection.selector) if selection.selector else None
        total, requested = len(selection), k + 1
        found = self._among_all(queries, k, selection) if settings else None
        while found is None:
            requested = min(requested, total)
            scores, slots = self._index.search(queries, requested, params=settings)
            if requested == total or (scores[:, -1] < scores[:, k - 1]).all():
                found = scores, slots
            requested *= 4  # FAISS keeps arbitrary ones of the images tied for the last place: request all
        scores, slots = found
        rows = self.rows.row_of[slots]
        order = np.lexsort((rows, -scores), axis=1)[:, :k]
        return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)

    def _among_all(
        self, queries: np.ndarray, k: int, selection: Selection
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Scores and slots of the k best selected images and one more, or of all that are tied with the last;
        None: they are not among the best of all images, or it would take longer to look there.
        """
        share = len(selection) / len(selection.is_selected)
        number = int(1.5 * (k + 1) / share) + 16
        if share < LARGE_SHARE or not number < min(self.num_free, self._index.ntotal):
            return None
        scores, slots = self._index.search(queries, number)
        is_selected = selection.is_selected[slots]
        scores = np.where(is_selected, scores, -np.inf)
        best = -np.sort(-scores, axis=1)[:, : k + 1]
        if not (best[:, k] < best[:, k - 1]).all() or np.isneginf(best[:, k]).any():
            return None
        return scores, slots


class ApproximateEngine(Engine):
    """Takes candidates from the IVF lists nearest to the query, by their product-quantised codes (Jégou et
    al., TPAMI 2011), and re-ranks the best of them by their fp16 features.

    Args:
        file: written by `build_approximate` for these rows; raises ValueError, or whatever FAISS raises, if
            it cannot be.
        digest: that of the file, if it is known: FAISS can crash on damaged bytes.
        features: (num_slots, E) fp16, memory-mapped.
    """

    num_free = MIN_CANDIDATES // CANDIDATES_PER_RESULT

    def __init__(self, file: Path, features: np.ndarray, rows: Rows, digest: str = "") -> None:
        import faiss

        if digest and digest_of(file) != digest:
            raise ValueError(f"{file.name} has another checksum")
        self._features, self.rows, self._index = features, rows, faiss.read_index(str(file))
        if type(self._index) is not faiss.IndexIVFPQ:
            raise ValueError(f"{file.name} is a {type(self._index).__name__}")
        _check_parts(self._index, features.shape[1])
        lists = faiss.extract_index_ivf(self._index).invlists
        ids = [faiss.rev_swig_ptr(lists.get_ids(n), lists.list_size(n)) for n in range(lists.nlist)]
        if not np.array_equal(np.sort(np.concatenate(ids)), np.sort(rows.slots)):
            raise ValueError(f"{file.name} contains other images")

    def search(
        self, queries: np.ndarray, k: int, selection: Selection | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `Index.search`; scores are exact, but some of the k best images may be missing."""
        import faiss

        selection = self.rows.all if selection is None else selection
        requested = min(max(MIN_CANDIDATES, CANDIDATES_PER_RESULT * k), len(selection))
        filters = {"sel": selection.selector} if selection is not self.rows.all else {}
        probed = LISTS_PROBED
        while True:
            probed = min(probed, self._index.nlist)
            settings = faiss.SearchParametersIVF(nprobe=probed, **filters)
            _, candidates = self._index.search(queries, requested, params=settings)
            if probed == self._index.nlist or (candidates[:, k - 1] >= 0).all():
                break
            probed *= 2
        pairs = zip(queries, candidates, strict=True)
        best = [self._rank(query, slots[slots >= 0], k) for query, slots in pairs]
        return np.stack([scores for scores, _ in best]), np.stack([rows for _, rows in best])

    def _rank(self, query: np.ndarray, slots: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        rows = np.sort(self.rows.row_of[slots])
        scores = self.features_of(rows).astype(np.float32) @ query
        order = np.argsort(-scores, kind="stable")[:k]
        return scores[order], rows[order]


def _check_parts(index: "faiss.IndexIVFPQ", width: int) -> None:
    """Raise ValueError where the parts of a crafted index do not fit each other: FAISS would read beyond
    their ends.
    """
    import faiss

    quantiser, pq, lists = faiss.downcast_index(index.quantizer), index.pq, index.invlists
    fits = (
        isinstance(quantiser, faiss.IndexFlat)
        and index.metric_type == quantiser.metric_type == faiss.METRIC_INNER_PRODUCT
        and index.d == quantiser.d == pq.d == width
        and index.nlist == quantiser.ntotal == lists.nlist > 0
        and quantiser.codes.size() == 4 * quantiser.ntotal * width
        and pq.nbits == 8
        and pq.M * pq.dsub == width
        and index.code_size == pq.code_size == pq.M == lists.code_size
        and pq.centroids.size() == width * pq.ksub
        and isinstance(faiss.downcast_InvertedLists(lists), faiss.ArrayInvertedLists)
    )
    if not fits:
        raise ValueError("the parts of the approximate index do not fit the features")


def build_approximate(features: np.ndarray, slots: np.ndarray, file: IO[bytes]) -> None:
    """Train an IVF-PQ index on a sample of these N rows of the features (num_slots, D), add all of them, and
    write it, with about sqrt(N) lists and codes of at most `MAX_CODE_BYTES`. Raises UserError if there are
    too few images.
    """
    import faiss

    count, width, slots = len(slots), features.shape[1], np.sort(slots)
    if count < MIN_APPROXIMATE:
        raise UserError(
            f"--approximate: expected at least {MIN_APPROXIMATE} images, found {count}; omit the flag"
        )
    lists = 2 ** round(math.log2(math.sqrt(count)))
    code_bytes = math.gcd(width, MAX_CODE_BYTES)
    quantiser, metric = faiss.IndexFlatIP(width), faiss.METRIC_INNER_PRODUCT
    index = faiss.IndexIVFPQ(quantiser, width, lists, code_bytes, 8, metric)
    num_samples = min(count, max(MIN_APPROXIMATE, SAMPLES_PER_LIST * lists))
    samples = np.random.default_rng(0).choice(count, num_samples, replace=False)
    index.train(features[slots[np.sort(samples)]].astype(np.float32))
    for start in range(0, count, CHUNK):
        part = slots[start : start + CHUNK]
        index.add_with_ids(features[part].astype(np.float32), part)
    faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))
