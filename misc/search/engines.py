"""Nearest-neighbour search with FAISS: exact over fp16 features, and approximate by IVF-PQ."""

import math
from pathlib import Path

import numpy as np

from misc.search.store import CHUNK
from options import UserError

MIN_APPROXIMATE = 10_000  # images that the codes of an approximate index are trained on, at least
SAMPLES_PER_LIST = 64
MAX_CODE_BYTES = 64
LISTS_PROBED = 128
MIN_CANDIDATES, CANDIDATES_PER_RESULT = 1000, 10


class ExactEngine:
    """Compares each query with every image, by a flat FAISS index over the fp16 features."""

    def __init__(self, features: np.ndarray) -> None:
        import faiss

        fp16, metric = faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
        self._index = faiss.IndexScalarQuantizer(features.shape[1], fp16, metric)
        for start in range(0, len(features), CHUNK):
            self._index.add_sa_codes(np.ascontiguousarray(features[start : start + CHUNK]).view(np.uint8))

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """As `Index.search`; k is at most the number of images."""
        total, requested = self._index.ntotal, k + 1
        while True:
            requested = min(requested, total)
            scores, rows = self._index.search(queries, requested)
            if requested == total or (scores[:, -1] < scores[:, k - 1]).all():
                break
            requested *= 4  # FAISS keeps arbitrary ones of the images tied for the last place: request all
        order = np.lexsort((rows, -scores), axis=1)[:, :k]
        return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)


class ApproximateEngine:
    """Takes candidates from the IVF lists nearest to the query, by their product-quantised codes (Jégou et
    al., TPAMI 2011), and re-ranks the best of them by their fp16 features.
    """

    def __init__(self, file: Path, features: np.ndarray) -> None:
        import faiss

        self._features, self._index = features, faiss.read_index(str(file))
        if self._index.ntotal != len(features):
            raise ValueError(f"{file.name} contains {self._index.ntotal} images, not {len(features)}")

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """As `Index.search`; scores are exact, but some of the k best images may be missing."""
        import faiss

        requested = min(max(MIN_CANDIDATES, CANDIDATES_PER_RESULT * k), len(self._features))
        probed = LISTS_PROBED
        while True:
            probed = min(probed, self._index.nlist)
            settings = faiss.SearchParametersIVF(nprobe=probed)
            _, candidates = self._index.search(queries, requested, params=settings)
            if probed == self._index.nlist or (candidates[:, k - 1] >= 0).all():
                break
            probed *= 2
        pairs = zip(queries, candidates, strict=True)
        best = [self._rank(query, rows[rows >= 0], k) for query, rows in pairs]
        return np.stack([scores for scores, _ in best]), np.stack([rows for _, rows in best])

    def _rank(self, query: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        rows = np.sort(rows)
        scores = self._features[rows].astype(np.float32) @ query
        order = np.argsort(-scores, kind="stable")[:k]
        return scores[order], rows[order]


def build_approximate(features: np.ndarray, file: Path) -> None:
    """Train an IVF-PQ index on a sample of the (N, D) features, add all of them, and write it, with about
    sqrt(N) lists and codes of at most `MAX_CODE_BYTES`. Raises UserError if there are too few images.
    """
    import faiss

    count, width = features.shape
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
    index.train(features[np.sort(samples)].astype(np.float32))
    for start in range(0, count, CHUNK):
        index.add(features[start : start + CHUNK].astype(np.float32))
    faiss.write_index(index, str(file))
