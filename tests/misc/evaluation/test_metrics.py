"""The metrics against a naive loop that sorts each query's gallery."""

import numpy as np
import pytest
import torch

from misc.metrics import METRICS, best_ranked, retrieval_metrics


def naive(
    queries: np.ndarray, gallery: np.ndarray, query_ids: np.ndarray, gallery_ids: np.ndarray
) -> dict[str, float]:
    rows = []
    for query, person in zip(queries, query_ids, strict=True):
        scores = [float(query @ image) for image in gallery]
        order = sorted(range(len(gallery)), key=lambda j: -scores[j])  # Python's sort is stable
        ranks = [rank for rank, j in enumerate(order, 1) if gallery_ids[j] == person]
        precisions = [number / rank for number, rank in enumerate(ranks, 1)]
        recalls = [float(ranks[0] <= k) for k in (1, 5, 10)]
        rows.append([*recalls, sum(precisions) / len(ranks), len(ranks) / ranks[-1]])
    return dict(zip(METRICS, (100 * np.mean(rows, axis=0)).tolist(), strict=True))


def one_hot(rows: list[int], width: int) -> torch.Tensor:
    return torch.eye(width)[rows]


@pytest.mark.parametrize("chunk", [1, 7, 1000])
@pytest.mark.parametrize("num_persons", [3, 40])
def test_metrics_equal_a_naive_loop_whatever_the_chunk(chunk: int, num_persons: int) -> None:
    rng = np.random.default_rng(num_persons)
    gallery_ids = np.concatenate([np.arange(num_persons), rng.integers(0, num_persons, 120)])
    query_ids = rng.integers(0, num_persons, 90)
    # Signs in 16 dimensions have norm 4 exactly: ties abound and no rounding hides them.
    gallery = rng.choice([-1.0, 1.0], (len(gallery_ids), 4)).repeat(4, axis=1)
    queries = rng.choice([-1.0, 1.0], (len(query_ids), 4)).repeat(4, axis=1)
    expected = naive(queries, gallery, query_ids, gallery_ids)
    got = retrieval_metrics(*map(torch.tensor, (queries, gallery, query_ids, gallery_ids)), chunk=chunk)
    assert got == pytest.approx(expected, abs=1e-4)


def test_metrics_of_a_small_case_worked_out_by_hand() -> None:
    """One query, ranking x o x o o: hits at 2, 4 and 5."""
    gallery = torch.tensor([[1.0, 0.0], [0.9, 0.4], [0.8, 0.6], [0.5, 0.9], [0.0, 1.0]])
    got = retrieval_metrics(
        torch.tensor([[1.0, 0.0]]), gallery, torch.tensor([8]), torch.tensor([1, 8, 1, 8, 8])
    )
    average_precision = (1 / 2 + 2 / 4 + 3 / 5) / 3
    expected = {"R1": 0, "R5": 100, "R10": 100, "mAP": 100 * average_precision, "mINP": 100 * 3 / 5}
    assert got == pytest.approx(expected, abs=1e-4)


def test_equal_scores_keep_the_order_of_the_gallery() -> None:
    query, gallery = one_hot([0], 2), one_hot([0, 0, 0], 2)
    first = retrieval_metrics(query, gallery, torch.tensor([5]), torch.tensor([5, 1, 2]))
    last = retrieval_metrics(query, gallery, torch.tensor([5]), torch.tensor([1, 2, 5]))
    assert first["mAP"] == pytest.approx(100)
    assert last["mAP"] == pytest.approx(100 / 3, abs=1e-4)


def test_features_need_not_be_normalised() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, gallery = torch.randn(30, 8, generator=generator), torch.randn(50, 8, generator=generator)
    ids = torch.arange(50) % 10
    plain = retrieval_metrics(queries, gallery, ids[:30], ids)
    scaled = retrieval_metrics(queries * 7, gallery * torch.arange(1, 51)[:, None], ids[:30], ids)
    assert scaled == pytest.approx(plain, abs=1e-4)


def test_a_query_without_a_hit_is_refused_by_number() -> None:
    with pytest.raises(ValueError, match=r"query 1 \(person 9\)"):
        retrieval_metrics(torch.eye(2), torch.eye(2), torch.tensor([1, 9]), torch.tensor([1, 2]))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_features_that_are_not_finite_are_refused(value: float) -> None:
    broken, ids = torch.eye(3), torch.arange(3)
    broken[1, 1] = value
    for queries, gallery in ((broken, torch.eye(3)), (torch.eye(3), broken)):
        with pytest.raises(ValueError, match="NaN or infinity"):
            retrieval_metrics(queries, gallery, ids, ids)


def test_the_best_ranked_are_those_of_a_stable_sort_also_among_ties() -> None:
    generator = torch.Generator().manual_seed(0)
    for levels in (2, 5, 1000):
        scores = torch.randint(levels, (40, 30), generator=generator).float()
        for k in (1, 10, 30, 50):
            rows, values = best_ranked(scores, k)
            for of_query, found, value in zip(scores.tolist(), rows.tolist(), values.tolist(), strict=True):
                order = sorted(range(30), key=lambda j: -of_query[j])[:k]
                assert found == order
                assert value == [of_query[j] for j in order]


def test_a_model_that_tells_nothing_apart_ranks_by_the_order_of_the_gallery() -> None:
    ids = torch.tensor([1, 2, 1, 3])
    got = retrieval_metrics(torch.ones(1, 4), torch.ones(4, 4), torch.tensor([1]), ids)
    assert got["mAP"] == pytest.approx(100 * (1 / 1 + 2 / 3) / 2, abs=1e-4)
