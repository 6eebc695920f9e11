"""k-reciprocal re-ranking (Zhong et al., CVPR 2017, arXiv 1701.08398), between the two modalities.

A query p of one modality ranks a gallery g of the other; d = |p - g|^2 = 2 - 2 cos. Captions lie nearer to
captions than to images, so in the union of both no caption would have an image among its neighbours. Hence
each side is ranked by the other alone: an image is a reciprocal neighbour of a caption if it is among the k1
images nearest to the caption, and the caption among the k1 captions nearest to the image. All else is as in
the paper, with N(p, k) the k nearest gallery rows (a gallery row's own: of the others):

    R(g, k)  = {g} and those n of N(g, k) with g in N(n, k)
    R*(p)    = R(p, k1) and all R(n, k1/2), n in R(p, k1), two thirds of which are in R(p, k1)
    V_p[i]   = exp(-d(p, i)) for i in R*(p), else 0; divided by the row's sum
    V_p      = mean of V over p itself and N(p, k2 - 1)
    d_J      = 1 - sum_i min(V_p[i], V_g[i]) / sum_i max(V_p[i], V_g[i])
    distance = (1 - lambda) d_J + lambda d
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from misc.metrics import best_ranked
from misc.process.logs import progress

ROWS, PAIRS = 256, 2**21  # at once: rows of a matrix, pairs of entries; they bound the memory


@dataclass(frozen=True)
class Sparse:
    """A matrix by its entries in order of rows; those of row r are `starts[r]` to `starts[r + 1]`."""

    starts: Tensor  # (number of rows + 1,)
    columns: Tensor
    values: Tensor

    def row_numbers(self) -> Tensor:
        """The row of each entry."""
        lengths = self.starts.diff()
        return torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)

    def row_sums(self) -> Tensor:
        """The sum of each row."""
        return self.values.new_zeros(len(self.starts) - 1).index_add_(0, self.row_numbers(), self.values)


class Reranker:
    """Scores of queries against a gallery, -distance, a few rows at a time: `reranker(rows) -> (B, G)`.

    Args:
        queries, gallery: (Q, D) and (G, D) normalised, of the two modalities.
        k1, k2: neighbours that are looked at, and rows that are averaged; 1: none but its own.
        lambda_: share of the distance d; 1: the ranking stays as it was.

    The work before the first score grows with (Q + G) x G, the memory with (Q + G) x k1 x k2.
    """

    @torch.no_grad()
    def __init__(
        self, queries: Tensor, gallery: Tensor, k1: int = 20, k2: int = 6, lambda_: float = 0.3
    ) -> None:
        self.queries, self.gallery, self.lambda_ = queries, gallery, lambda_
        none, itself = len(gallery), torch.arange(len(gallery), device=gallery.device)[:, None]
        depth = max(k1, k2 - 1)
        near = _nearest(gallery, gallery, min(depth, len(gallery) - 1), without_self=True)
        full, half = (
            torch.cat([itself, _mutual(near[:, :k], near[:, :k], none)], dim=1) for k in (k1, k1 // 2)
        )
        gallery_rows = _encode(gallery, gallery, full, half)

        found = _nearest(queries, gallery, min(depth, len(gallery)))
        finders = _nearest(gallery, queries, min(k1, len(queries)))
        query_rows = _encode(queries, gallery, _mutual(found[:, :k1], finders, none), half)

        self._queries = _mean(query_rows, gallery_rows, found[:, : k2 - 1])
        averaged = _mean(gallery_rows, gallery_rows, near[:, : k2 - 1])
        shape = (len(gallery), len(gallery))
        self._by_column = _matrix(averaged.columns, averaged.row_numbers(), averaged.values, shape)
        self._query_sums, self._gallery_sums = self._queries.row_sums(), averaged.row_sums()

    @torch.no_grad()
    def __call__(self, rows: Tensor) -> Tensor:
        """The scores of the queries `rows` (B,): (B, G)."""
        common = self._common(rows)
        largest = self._query_sums[rows, None] + self._gallery_sums - common  # max(a, b) = a + b - min(a, b)
        jaccard = 1 - common / largest
        distance = 2 - 2 * self.queries[rows] @ self.gallery.T
        return -((1 - self.lambda_) * jaccard + self.lambda_ * distance)

    def _common(self, rows: Tensor) -> Tensor:
        """sum_i min(V_p[i], V_g[i]): every entry of a query meets those of its column in the gallery."""
        common = self._queries.values.new_zeros(len(rows), len(self.gallery))
        queries, columns = self._queries, self._by_column
        counts = queries.starts[rows + 1] - queries.starts[rows]
        owner, entries = _ranges(queries.starts[rows], counts)
        column = queries.columns[entries]
        lengths = columns.starts[column + 1] - columns.starts[column]
        for part in _blocks(lengths):
            which, others = _ranges(columns.starts[column[part]], lengths[part])
            least = queries.values[entries[part]][which].minimum(columns.values[others])
            at = owner[part][which] * common.shape[1] + columns.columns[others]
            common.view(-1).scatter_add_(0, at, least)
        return common


def _nearest(queries: Tensor, gallery: Tensor, k: int, without_self: bool = False) -> Tensor:
    """The k nearest gallery rows of each query, nearest first, equal ones in the gallery's order: (Q, k)."""
    nearest = []
    for rows in progress(torch.arange(len(queries), device=queries.device).split(ROWS), "neighbours"):
        scores = queries[rows] @ gallery.T
        if without_self:
            scores.scatter_(1, rows[:, None], -torch.inf)
        nearest.append(best_ranked(scores, k)[0])
    return torch.cat(nearest)


def _mutual(found: Tensor, finders: Tensor, none: int) -> Tensor:
    """Of what each row finds on the other side (Q, k), what finds it too (G, k); `none` for the rest."""
    kept = []
    for rows in torch.arange(len(found), device=found.device).split(ROWS):
        finds = (finders[found[rows]] == rows[:, None, None]).any(dim=2)
        kept.append(found[rows].masked_fill(~finds, none))
    return torch.cat(kept)


def _encode(rows: Tensor, gallery: Tensor, full: Tensor, half: Tensor) -> Sparse:
    """The matrix V, (N, G): R(., k1) in `full` (N, a) and R(g, k1/2) in `half` (G, b); G is none."""
    none, entries = len(gallery), []
    half = torch.cat([half, half.new_full((1, half.shape[1]), none)])
    for part in progress(torch.arange(len(rows), device=rows.device).split(ROWS), "re-ranking"):
        member = torch.zeros(len(part), none + 1, dtype=torch.bool, device=rows.device)
        member.scatter_(1, full[part], True)
        member[:, none] = False
        others = half[full[part]]
        shared = member.gather(1, others.flatten(1)).view_as(others).sum(dim=2)
        accepted = 3 * shared >= 2 * (others < none).sum(dim=2)
        member.scatter_(1, others.masked_fill(~accepted[..., None], none).flatten(1), True)
        weights = (2 * rows[part] @ gallery.T - 2).exp() * member[:, :none]
        weights /= weights.sum(dim=1, keepdim=True).clamp_min(1e-12)
        row, column = weights.nonzero(as_tuple=True)
        entries.append((part[row], column, weights[row, column]))
    return _matrix(*(torch.cat(parts) for parts in zip(*entries, strict=True)), (len(rows), len(gallery)))


def _mean(own: Sparse, gallery: Sparse, neighbours: Tensor) -> Sparse:
    """Each row of `own` averaged with the gallery's rows at its neighbours (N, k)."""
    if not neighbours.shape[1]:
        return own
    starts = gallery.starts[neighbours].flatten()
    which, entries = _ranges(starts, gallery.starts[neighbours.flatten() + 1] - starts)
    rows = torch.cat([own.row_numbers(), which // neighbours.shape[1]])
    columns = torch.cat([own.columns, gallery.columns[entries]])
    values = torch.cat([own.values, gallery.values[entries]]) / (1 + neighbours.shape[1])
    return _matrix(rows, columns, values, (len(neighbours), len(gallery.starts) - 1))


def _matrix(rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Sparse:
    """The matrix of these entries, in any order; those of one place are added."""
    num_rows, num_columns = shape
    places, at = torch.unique(rows * num_columns + columns, return_inverse=True)
    lengths = torch.bincount(places // num_columns, minlength=num_rows)
    starts = torch.cat([lengths.new_zeros(1), lengths.cumsum(dim=0)])
    return Sparse(starts, places % num_columns, values.new_zeros(len(places)).index_add_(0, at, values))


def _ranges(starts: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """The numbers of all ranges (start, length) one after another, and which range each belongs to."""
    which = torch.arange(len(starts), device=starts.device).repeat_interleave(lengths)
    first = lengths.cumsum(dim=0) - lengths
    return which, torch.arange(len(which), device=starts.device) + (starts - first)[which]


def _blocks(lengths: Tensor) -> Iterator[slice]:
    """Slices of `lengths` that add up to about PAIRS each."""
    if not len(lengths):
        return
    block = lengths.cumsum(dim=0) // PAIRS
    ends = torch.cat([(block.diff() > 0).nonzero()[:, 0] + 1, block.new_tensor([len(lengths)])]).tolist()
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        yield slice(start, end)
