"""Retrieval metrics by the field's definitions, exact, by counting: no matrix is sorted or held whole."""

from collections.abc import Callable
from typing import TypedDict

import torch
from torch import Tensor
from torch.nn import functional as F

METRICS = ("R1", "R5", "R10", "mAP", "mINP")
Figures = dict[str, dict[str, float]]  # {direction: {metric: percent}}, the directions "t2i" and "i2t"


SceneFigures = dict[str, float]  # R1, R5, R10, mAP and recall in percent, and num_queries


class Results(TypedDict, total=False):
    """The figures of an evaluation set: of each language, their average, and of fusion and re-ranking."""

    languages: dict[str, Figures]
    average: Figures
    num_undescribed: int  # images of the gallery without captions, which are no queries; where there are any
    msd: dict[str, dict[str, float]]  # {language: "mSD", "mSD_published" in percent}; with eval.msd
    # Of full-scene search: {language: {gallery: {"annotated", "detected": its figures}}}.
    scenes: dict[str, dict[str, dict[str, SceneFigures]]]
    rows: "dict[str, Results]"


@torch.no_grad()
def retrieval_metrics(
    query_features: Tensor, gallery_features: Tensor, query_ids: Tensor, gallery_ids: Tensor, chunk: int = 512
) -> dict[str, float]:
    """Rank-k, mAP and mINP of ranking the gallery by cosine similarity for each query, in percent.

    Args:
        query_features, gallery_features: (Q, D) and (G, D), of any norm.
        query_ids, gallery_ids: (Q,) and (G,) integer person ids; a hit is a gallery row of the query's id.
        chunk: queries scored at once; memory grows with chunk x G, the result does not depend on it.

    Raises:
        ValueError: a query has no hit in the gallery, or a feature is not finite.
    """
    queries, gallery = unit_rows(query_features), unit_rows(gallery_features)
    return summarise(score_metrics(lambda rows: queries[rows] @ gallery.T, query_ids, gallery_ids, chunk))


def summarise(rows: Tensor) -> dict[str, float]:
    """(Q, 5) figures of single queries -> their means in percent, by name."""
    return dict(zip(METRICS, (rows.double().mean(dim=0) * 100).tolist(), strict=True))


@torch.no_grad()
def score_metrics(
    scores_of: Callable[[Tensor], Tensor], query_ids: Tensor, gallery_ids: Tensor, chunk: int = 512
) -> Tensor:
    """The (Q, 5) figures of single queries, columns as METRICS, for scores of any kind.

    Args:
        scores_of: row numbers of at most `chunk` queries (B,) -> their scores (B, G), higher is nearer.

    With r_1 < r_2 < ... < r_P the ranks of a query's P hits: R@k = [r_1 <= k], AP = mean of i / r_i,
    INP = P / r_P.
    """
    if not len(query_ids):
        return torch.zeros(0, len(METRICS), device=query_ids.device)
    hits, num_hits = hits_of(query_ids, gallery_ids)
    rows = torch.arange(len(query_ids), device=query_ids.device).split(chunk)
    return torch.cat([_figures(scores_of(part), hits[part], num_hits[part]) for part in rows])


def unit_rows(features: Tensor) -> Tensor:
    """Features (N, D) of any norm, each divided by it, fp32: products of two are cosines.

    Raises:
        ValueError: one is not finite.
    """
    if not features.isfinite().all():
        raise ValueError("features hold NaN or infinity, which have no rank")
    return F.normalize(features.float(), dim=1)


def hits_of(query_ids: Tensor, gallery_ids: Tensor) -> tuple[Tensor, Tensor]:
    """The gallery rows of each query's person: (Q, P) ascending, the last one repeated; their number (Q,).

    Raises:
        ValueError: a query has none.
    """
    sorted_ids, order = gallery_ids.sort(stable=True)
    first = torch.searchsorted(sorted_ids, query_ids.contiguous())
    num_hits = torch.searchsorted(sorted_ids, query_ids.contiguous(), right=True) - first
    if (num_hits == 0).any():
        query = int((num_hits == 0).nonzero()[0])
        raise ValueError(f"query {query} (person {int(query_ids[query])}) has no image in the gallery")
    steps = torch.arange(int(num_hits.max()), device=gallery_ids.device)
    return order[first[:, None] + steps.minimum(num_hits[:, None] - 1)], num_hits


def hit_ranks(scores: Tensor, hits: Tensor, num_hits: Tensor) -> Tensor:
    """The ranks, from 1, of each query's hits, ascending; equal scores keep the order of the gallery.

    From scores (B, G), and hits (B, P) and num_hits (B,) of `hits_of`: (B, P) int64, and the largest int64
    beyond a query's number of hits.
    """
    places = torch.arange(hits.shape[1], device=scores.device)
    is_padding = places >= num_hits[:, None]
    own = scores.gather(1, hits).masked_fill(is_padding, -torch.inf)
    own, order = own.sort(dim=1, descending=True, stable=True)
    hits = hits.gather(1, order)
    ahead, not_behind = _num_above(scores, own)
    tied = (not_behind - ahead > 1) & ~is_padding
    gallery = torch.arange(scores.shape[1], device=scores.device)
    for place in tied.any(dim=0).nonzero()[:, 0].tolist():
        rows = tied[:, place]
        earlier = gallery < hits[rows, place, None]
        ahead[rows, place] += ((scores[rows] == own[rows, place, None]) & earlier).sum(dim=1)
    return (ahead + 1).masked_fill(is_padding, torch.iinfo(ahead.dtype).max)


def best_ranked(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k gallery rows with the best scores (B, G), best first, equal ones in the gallery's order.

    Returned: (B, k) rows and (B, k) scores; k is G where G is smaller.
    """
    k = min(k, scores.shape[1])
    values, rows = scores.topk(k, dim=1)
    is_tied = (scores >= values[:, -1:]).sum(dim=1) > k  # more than k tie for the last place
    rows, order = rows.sort(dim=1)
    values, best = values.gather(1, order).sort(dim=1, descending=True, stable=True)
    rows = rows.gather(1, best)
    if is_tied.any():
        all_values, all_rows = scores[is_tied].sort(dim=1, descending=True, stable=True)
        values[is_tied], rows[is_tied] = all_values[:, :k], all_rows[:, :k]
    return rows, values


def _num_above(scores: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
    """How many of a row's scores (B, G) are above, and how many at least, each of its levels: (B, P) both.

    Looking up scores among the few levels is faster; above one is at least the next floating-point number.
    """
    num_rows, above = len(levels), levels.nextafter(levels.new_tensor(torch.inf))
    thresholds, order = torch.cat([above, levels], dim=1).sort(dim=1)
    reached = torch.searchsorted(thresholds, scores, right=True, out_int32=True)
    width = thresholds.shape[1] + 1
    reached += width * torch.arange(num_rows, dtype=torch.int32, device=scores.device)[:, None]
    counts = torch.bincount(reached.flatten(), minlength=num_rows * width).view(num_rows, width)
    at_least = counts.flip(1).cumsum(dim=1).flip(1)[:, 1:]
    return torch.empty_like(at_least).scatter_(1, order, at_least).chunk(2, dim=1)


def _figures(scores: Tensor, hits: Tensor, num_hits: Tensor) -> Tensor:
    ranks = hit_ranks(scores, hits, num_hits)
    places = torch.arange(1, ranks.shape[1] + 1, device=ranks.device)
    precision = torch.where(places <= num_hits[:, None], places / ranks, 0.0)
    recall = [(ranks[:, 0] <= k).float() for k in (1, 5, 10)]
    inverse = precision.gather(1, num_hits[:, None] - 1)[:, 0]
    return torch.stack([*recall, precision.sum(dim=1) / num_hits, inverse], dim=1)
