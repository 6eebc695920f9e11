"""k-reciprocal re-ranking against the paper's formulas, written out in loops over whole matrices."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import misc.evaluation.rerank
from misc.evaluation.rerank import Reranker


def distance(a: Tensor, b: Tensor) -> float:
    return float(((a - b) ** 2).sum())


def nearest(row: Tensor, others: Tensor, k: int, skip: int = -1) -> list[int]:
    order = sorted((j for j in range(len(others)) if j != skip), key=lambda j: distance(row, others[j]))
    return order[:k]


def naive(queries: Tensor, gallery: Tensor, k1: int, k2: int, lambda_: float) -> list[list[float]]:
    """The distances of `Reranker`'s formulas, (Q, G)."""
    size = len(gallery)

    def near(g: int, k: int) -> list[int]:
        return nearest(gallery[g], gallery, k, skip=g)

    def reciprocal(g: int, k: int) -> set[int]:
        return {g} | {n for n in near(g, k) if g in near(n, k)}

    def expanded(own: set[int]) -> set[int]:
        grown = set(own)
        for n in own:
            half = reciprocal(n, k1 // 2)
            if len(own & half) >= 2 / 3 * len(half):
                grown |= half
        return grown

    def encoded(row: Tensor, members: set[int]) -> list[float]:
        values = [math.exp(-distance(row, gallery[i])) if i in members else 0.0 for i in range(size)]
        return [value / max(sum(values), 1e-12) for value in values]

    def averaged(own: list[float], neighbours: list[int]) -> list[float]:
        rows = [own, *(gallery_rows[n] for n in neighbours)]
        return [sum(column) / len(rows) for column in zip(*rows, strict=True)]

    gallery_rows = [encoded(gallery[g], expanded(reciprocal(g, k1))) for g in range(size)]
    averaged_gallery = [averaged(gallery_rows[g], near(g, k2 - 1)) for g in range(size)]
    distances = []
    for p, row in enumerate(queries):
        found = nearest(row, gallery, k1)
        mutual = {g for g in found if p in nearest(gallery[g], queries, k1)}
        v_p = averaged(encoded(row, expanded(mutual)), nearest(row, gallery, k2 - 1))
        line = []
        for g, v_g in enumerate(averaged_gallery):
            pairs = list(zip(v_p, v_g, strict=True))
            jaccard = 1 - sum(min(pair) for pair in pairs) / sum(max(pair) for pair in pairs)
            line.append((1 - lambda_) * jaccard + lambda_ * distance(row, gallery[g]))
        distances.append(line)
    return distances


def features(num_queries: int, num_images: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Clustered, with a gap between the two modalities."""
    generator = torch.Generator().manual_seed(seed)
    centres, gap = torch.randn(6, 12, generator=generator), torch.randn(12, generator=generator)

    def rows(count: int) -> Tensor:
        noise = torch.randn(count, 12, generator=generator)
        return centres[torch.randint(6, (count,), generator=generator)] + 0.7 * noise

    return F.normalize(rows(num_queries) + gap, dim=1), F.normalize(rows(num_images), dim=1)


@pytest.mark.parametrize(
    ("num_queries", "num_images", "k1", "k2", "lambda_"),
    [
        *((31, 40, 8, 3, 0.3), (25, 30, 5, 1, 0.6), (12, 9, 20, 6, 0.3), (3, 20, 1, 2, 0.0)),
        *((4, 1, 20, 6, 0.3), (25, 30, 4, 9, 1.0), (25, 30, 4, 9, 0.3)),
    ],
)
def test_scores_equal_the_formulas_whatever_the_blocks(
    num_queries: int, num_images: int, k1: int, k2: int, lambda_: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries, gallery = features(num_queries, num_images)
    expected = -torch.tensor(naive(queries, gallery, k1, k2, lambda_))
    for rows_at_once, pairs_at_once in ((256, 2**21), (7, 50)):
        monkeypatch.setattr(misc.evaluation.rerank, "ROWS", rows_at_once)
        monkeypatch.setattr(misc.evaluation.rerank, "PAIRS", pairs_at_once)
        reranker = Reranker(queries, gallery, k1, k2, lambda_)
        parts = [reranker(rows) for rows in torch.arange(num_queries).split(5)]
        torch.testing.assert_close(torch.cat(parts), expected, rtol=0, atol=1e-5)


def test_equally_near_rows_count_in_the_order_of_the_gallery() -> None:
    generator = torch.Generator().manual_seed(0)
    signs = torch.tensor([-0.5, 0.5])[torch.randint(2, (70, 4), generator=generator)]  # of norm 1 exactly
    queries, gallery = signs[:30], signs[30:]
    got = Reranker(queries, gallery, 7, 3, 0.3)(torch.arange(30))
    torch.testing.assert_close(got, -torch.tensor(naive(queries, gallery, 7, 3, 0.3)), rtol=0, atol=1e-5)


def test_lambda_1_leaves_the_ranking_as_it_was() -> None:
    queries, gallery = features(20, 30)
    got = Reranker(queries, gallery, lambda_=1.0)(torch.arange(20))
    assert torch.equal(got.argsort(dim=1), (queries @ gallery.T).argsort(dim=1))


def test_images_that_no_caption_finds_gain_from_their_neighbours() -> None:
    """Two views of a person: the caption fits one of them; the other is like it and comes second."""
    gallery = F.normalize(
        torch.tensor([[1.0, 0.0, 0.1], [0.9, 0.0, 0.6], [0.6, 0.8, 0.0], [0.0, 1.0, 0.0]]), dim=1
    )
    caption = F.normalize(torch.tensor([[1.0, 0.4, -0.6], [0.0, 1.0, 0.0]]), dim=1)
    assert (caption @ gallery.T)[0].argsort(descending=True).tolist()[:2] == [0, 2]
    got = Reranker(caption, gallery, k1=2, k2=2, lambda_=0.1)(torch.tensor([0]))
    assert got[0].argsort(descending=True).tolist()[:2] == [0, 1]
