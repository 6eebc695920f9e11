"""mSD, the mean similarity distribution of UFine3C (UFineBench, CVPR 2024): a ranking's order and margins."""

from collections.abc import Callable

import torch
from torch import Tensor

from misc.metrics import hits_of, unit_rows


@torch.no_grad()
def mean_similarity_distribution(
    query_features: Tensor, gallery_features: Tensor, query_ids: Tensor, gallery_ids: Tensor, chunk: int = 512
) -> dict[str, float]:
    """The means of `similarity_distribution` over the queries in percent: {"mSD", "mSD_published"}.

    Args:
        query_features, gallery_features: (Q, D) and (G, D), of any norm.
        query_ids, gallery_ids: (Q,) and (G,) integer person ids; a hit is a gallery row of the query's id.
        chunk: queries scored at once; memory grows with chunk x G, the result does not depend on it.

    Raises:
        ValueError: a query has no hit in the gallery, or a feature is not finite.
    """
    queries, gallery = unit_rows(query_features), unit_rows(gallery_features)
    hits_of(query_ids, gallery_ids)
    kinds: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
        "mSD": similarity_distribution,
        "mSD_published": published_similarity_distribution,
    }
    sums = dict.fromkeys(kinds, 0.0)
    for rows in torch.arange(len(queries), device=queries.device).split(chunk):
        scores = queries[rows] @ gallery.T
        for name, of_scores in kinds.items():
            sums[name] += float(of_scores(scores, query_ids[rows], gallery_ids).sum())
    return {name: 100 * total / max(len(queries), 1) for name, total in sums.items()}


def similarity_distribution(scores: Tensor, query_ids: Tensor, gallery_ids: Tensor) -> Tensor:
    """SD of each query, 0 to 1 (B,) float64, from its cosine similarities to the gallery (B, G).

    With s' = (cos + 1) / 2 and f = 1 - exp(-(mean s' of the hits) / (mean s' of the others)),

        SD = f x mean over the hits, at rank k, of (sum of s' of hits up to k) / (sum of s' of all up to k)

    Equal scores keep the order of the gallery; f is 1 where all of the gallery are hits.
    """
    similarities, is_hit, order = _ranked(scores, query_ids, gallery_ids)
    return _distribution(similarities.gather(1, order), is_hit)


def published_similarity_distribution(scores: Tensor, query_ids: Tensor, gallery_ids: Tensor) -> Tensor:
    """SD as UFineBench's `mSD_Calculator.py` computes it: it ranks the hits, but leaves s' in gallery order.

    A rank's hit is thus multiplied by the similarity of another image, and the figure depends on the order of
    the gallery. Only for comparison with published figures. Shapes as in `similarity_distribution`.
    """
    similarities, is_hit, _ = _ranked(scores, query_ids, gallery_ids)
    return _distribution(similarities, is_hit)


def _ranked(scores: Tensor, query_ids: Tensor, gallery_ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """All (B, G): s' in the order of the gallery, whether each rank is a hit, the gallery row of each."""
    order = scores.argsort(dim=1, descending=True, stable=True)
    return (scores.double() + 1) / 2, gallery_ids[order] == query_ids[:, None], order


def _distribution(similarities: Tensor, is_hit: Tensor) -> Tensor:
    """SD from s' and hits (B, G), column by column."""
    tiny = torch.finfo(torch.float64).tiny  # a sum is 0 where all cosines are -1, or there are no others
    of_hits, num_hits = similarities * is_hit, is_hit.sum(dim=1)
    mean_of_others = (similarities * ~is_hit).sum(dim=1) / (~is_hit).sum(dim=1).clamp_min(1)
    ratio = of_hits.sum(dim=1) / num_hits / mean_of_others.clamp_min(tiny)
    share = of_hits.cumsum(dim=1) / similarities.cumsum(dim=1).clamp_min(tiny)
    return (1 - (-ratio).exp()) * (share * is_hit).sum(dim=1) / num_hits
