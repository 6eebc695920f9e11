"""FAISS at work: exact search over fp16 features, and approximate search by IVF-PQ."""

import logging
import math
from pathlib import Path

import numpy as np

from misc.search.store import CHUNK
from options import UserError

logging.getLogger("faiss").setLevel(logging.WARNING)  # it tells which build of itself it loads
FEWEST = 10_000  # images that the codes of an approximate index are trained on, at least
SAMPLES_PER_LIST = 64
CODE_BYTES = 64
LISTS_PROBED = 128
CANDIDATES, CANDIDATES_PER_RESULT = 1000, 10


class ExactEngine:
    """Every query is compared with every image: a flat index of FAISS over the fp16 features themselves."""

    def __init__(self, features: np.ndarray) -> None:
        import faiss

        width = features.shape[1]
        self._index = faiss.IndexScalarQuantizer(
            width, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
        )
        for start in range(0, len(features), CHUNK):
            self._index.add_sa_codes(np.ascontiguousarray(features[start : start + CHUNK]).view(np.uint8))

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """As `Index.search`; k is at most the number of images."""
        total, asked = self._index.ntotal, k + 1
        while True:
            asked = min(asked, total)
            scores, rows = self._index.search(queries, asked)
            if asked == total or (scores[:, -1] < scores[:, k - 1]).all():
                break
            asked *= 4  # FAISS keeps any of the images that tie for the last place: ask for all of them
        order = np.lexsort((rows, -scores), axis=1)[:, :k]
        return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)


class ApproximateEngine:
    """The lists of IVF nearest to a query give candidates by their product-quantised codes (Jégou et al.,
    TPAMI 2011); the best of them are compared with the query by their fp16 features.
    """

    def __init__(self, file: Path, features: np.ndarray) -> None:
        import faiss

        self._features, self._index = features, faiss.read_index(str(file))
        if self._index.ntotal != len(features):
            raise ValueError(f"{file.name} holds {self._index.ntotal} images")

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """As `Index.search`, the scores exact, some of the best k images perhaps missing."""
        import faiss

        asked = min(max(CANDIDATES, CANDIDATES_PER_RESULT * k), len(self._features))
        probed = LISTS_PROBED
        while True:
            probed = min(probed, self._index.nlist)
            settings = faiss.SearchParametersIVF(nprobe=probed)
            _, candidates = self._index.search(queries, asked, params=settings)
            if probed == self._index.nlist or (candidates[:, k - 1] >= 0).all():
                break
            probed *= 2
        best = [
            self._rank(query, rows[rows >= 0], k) for query, rows in zip(queries, candidates, strict=True)
        ]
        return np.stack([scores for scores, _ in best]), np.stack([rows for _, rows in best])

    def _rank(self, query: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        rows = np.sort(rows)
        scores = self._features[rows].astype(np.float32) @ query
        order = np.argsort(-scores, kind="stable")[:k]
        return scores[order], rows[order]


def build_approximate(features: np.ndarray, file: Path) -> None:
    """Train an IVF-PQ on some of the (N, D) features, add all, and write it: about sqrt(N) lists, codes of up
    to 64 bytes.

    Raises:
        UserError: too few images to train on.
    """
    import faiss

    count, width = features.shape
    if count < FEWEST:
        raise UserError(f"--approximate: {FEWEST} images at least are expected, found {count}; leave it out")
    lists = 2 ** round(math.log2(math.sqrt(count)))
    index = faiss.IndexIVFPQ(
        faiss.IndexFlatIP(width), width, lists, math.gcd(width, CODE_BYTES), 8, faiss.METRIC_INNER_PRODUCT
    )
    sampled = np.random.default_rng(0).choice(
        count, min(count, max(FEWEST, SAMPLES_PER_LIST * lists)), replace=False
    )
    index.train(features[np.sort(sampled)].astype(np.float32))
    for start in range(0, count, CHUNK):
        index.add(features[start : start + CHUNK].astype(np.float32))
    faiss.write_index(index, str(file))
