"""Retrieval metrics by the field's definitions, exact, by counting: no matrix is sorted or held whole."""

import torch
from torch import Tensor
from torch.nn import functional as F

METRICS = ("R1", "R5", "R10", "mAP", "mINP")


def retrieval_metrics(
    query_features: Tensor, gallery_features: Tensor, query_ids: Tensor, gallery_ids: Tensor, chunk: int = 512
) -> dict[str, float]:
    """Rank-k, mAP and mINP of ranking the gallery by cosine similarity for each query, in percent.

    Args:
        query_features: (Q, D), of any norm.
        gallery_features: (G, D), of any norm.
        query_ids: (Q,) integer person ids.
        gallery_ids: (G,) integer person ids; a hit is a gallery row of the query's id.
        chunk: queries scored at once; memory grows with chunk x G, the result does not depend on it.

    Raises:
        ValueError: a query has no hit in the gallery.
    """
    rows = query_metrics(query_features, gallery_features, query_ids, gallery_ids, chunk)
    return summarise(rows)


def summarise(rows: Tensor) -> dict[str, float]:
    """(Q, 5) figures of single queries -> their means in percent, by name."""
    means = rows.double().mean(dim=0) * 100
    return dict(zip(METRICS, means.tolist(), strict=True))


@torch.no_grad()
def query_metrics(
    query_features: Tensor, gallery_features: Tensor, query_ids: Tensor, gallery_ids: Tensor, chunk: int = 512
) -> Tensor:
    """The (Q, 5) figures of single queries, columns as METRICS; arguments as for `retrieval_metrics`.

    With r_1 < r_2 < ... < r_P the ranks of a query's P hits: R@k = [r_1 <= k], AP = mean of i / r_i,
    INP = P / r_P.
    """
    if not len(query_features):
        return query_features.new_zeros(0, len(METRICS))
    queries = F.normalize(query_features.float(), dim=1)
    gallery = F.normalize(gallery_features.float(), dim=1)
    hits, num_hits = _hits(query_ids, gallery_ids)
    rows = [
        _figures(queries[part] @ gallery.T, hits[part], num_hits[part])
        for part in torch.arange(len(queries), device=queries.device).split(chunk)
    ]
    return torch.cat(rows)


def _hits(query_ids: Tensor, gallery_ids: Tensor) -> tuple[Tensor, Tensor]:
    """The gallery rows of each query's person: (Q, P) padded by repeating the last, and their number (Q,)."""
    sorted_ids, order = gallery_ids.sort(stable=True)
    first = torch.searchsorted(sorted_ids, query_ids.contiguous())
    num_hits = torch.searchsorted(sorted_ids, query_ids.contiguous(), right=True) - first
    if (num_hits == 0).any():
        query = int((num_hits == 0).nonzero()[0])
        raise ValueError(f"query {query} (person {int(query_ids[query])}) has no image in the gallery")
    steps = torch.arange(int(num_hits.max()), device=gallery_ids.device)
    return order[first[:, None] + steps.minimum(num_hits[:, None] - 1)], num_hits


def _figures(scores: Tensor, hits: Tensor, num_hits: Tensor) -> Tensor:
    places = torch.arange(1, hits.shape[1] + 1, device=scores.device)
    real = places <= num_hits[:, None]
    ranks = torch.stack([_rank(scores, column) for column in hits.T], dim=1)
    ranks = ranks.masked_fill(~real, torch.iinfo(ranks.dtype).max).sort(dim=1).values
    precision = torch.where(real, places / ranks, 0.0)
    recall = [(ranks[:, 0] <= k).float() for k in (1, 5, 10)]
    inverse = precision.gather(1, num_hits[:, None] - 1)[:, 0]
    return torch.stack([*recall, precision.sum(dim=1) / num_hits, inverse], dim=1)


def _rank(scores: Tensor, column: Tensor) -> Tensor:
    """The rank, from 1, of one gallery row in each query's ranking; equal scores keep gallery order."""
    own = scores.gather(1, column[:, None])
    ahead = (scores > own).sum(dim=1)
    tied = (scores == own).sum(dim=1) > 1
    if tied.any():
        earlier = torch.arange(scores.shape[1], device=scores.device) < column[tied, None]
        ahead[tied] += ((scores[tied] == own[tied]) & earlier).sum(dim=1)
    return ahead + 1
