"""mSD: the right one and the published one against plain loops, and against numbers worked out by hand."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from main import main
from misc.evaluation.features import load_features
from misc.evaluation.similarity_distribution import (
    mean_similarity_distribution,
    published_similarity_distribution,
    similarity_distribution,
)
from tests.helpers.whole_runs import results_of


def naive(scores: list[float], hits: set[int], ranked: bool) -> float:
    """SD of one query in plain Python; `ranked`: s' follows the ranks, not the gallery."""
    order = sorted(range(len(scores)), key=lambda row: (-scores[row], row))
    values = [(scores[row] + 1) / 2 for row in (order if ranked else range(len(scores)))]
    is_hit = [row in hits for row in order]
    positive = [value for value, hit in zip(values, is_hit, strict=True) if hit]
    negative = [value for value, hit in zip(values, is_hit, strict=True) if not hit]
    factor = 1 - math.exp(-(sum(positive) / len(positive)) / (sum(negative) / len(negative)))
    up_to_k, all_up_to_k, shares = 0.0, 0.0, []
    for value, hit in zip(values, is_hit, strict=True):
        up_to_k, all_up_to_k = up_to_k + value * hit, all_up_to_k + value
        shares += [up_to_k / all_up_to_k] * hit
    return factor * sum(shares) / len(shares)


def as_published(similarity: Tensor, query_ids: Tensor, gallery_ids: Tensor) -> float:
    """mSD by the published calculator's own steps: whole matrices, s' never reordered."""
    halved = similarity / 2 + 0.5
    matches = gallery_ids[torch.argsort(halved, dim=1, descending=True)].eq(query_ids.view(-1, 1))
    of_matches, number = halved * matches, matches.sum(1)
    others = (halved.sum(1) - of_matches.sum(1)) / (halved.shape[1] - number)
    factor = 1 - torch.exp(-(of_matches.sum(1) / number) / others)
    shares = of_matches.cumsum(1) / halved.cumsum(1) * matches
    return float((shares.sum(1) / number * factor).mean() * 100)


@pytest.mark.parametrize("chunk", [1, 7, 512])
def test_msd_equals_a_naive_loop_for_any_size_of_chunk(chunk: int) -> None:
    generator = torch.Generator().manual_seed(0)
    gallery_ids = torch.randint(5, (40,), generator=generator)
    query_ids = gallery_ids[torch.randint(40, (23,), generator=generator)]
    queries, gallery = torch.randn(23, 3, generator=generator), torch.randn(40, 3, generator=generator)
    gallery[20:30] = gallery[:10]  # ties, also between hits and others
    found = mean_similarity_distribution(queries, gallery, query_ids, gallery_ids, chunk)
    scores = F.normalize(queries, dim=1) @ F.normalize(gallery, dim=1).T
    for name, ranked in (("mSD", True), ("mSD_published", False)):
        rows = [
            naive(row.tolist(), set((gallery_ids == person).nonzero()[:, 0].tolist()), ranked)
            for row, person in zip(scores, query_ids, strict=True)
        ]
        assert found[name] == pytest.approx(100 * sum(rows) / len(rows), rel=1e-6)


def test_the_published_variant_equals_the_published_calculator_on_the_same_similarities() -> None:
    generator = torch.Generator().manual_seed(1)
    queries, gallery = torch.randn(10, 768, generator=generator), torch.randn(30, 768, generator=generator)
    query_ids = torch.tensor([1, 1, 3, 7, 5, 6, 6, 8, 8, 10])
    gallery_ids = torch.tensor([*(n for n in range(1, 11) for _ in range(2)), *range(11, 21)])
    scores = F.normalize(queries, dim=1) @ F.normalize(gallery, dim=1).T
    rows = published_similarity_distribution(scores, query_ids, gallery_ids)
    assert 100 * float(rows.mean()) == pytest.approx(as_published(scores, query_ids, gallery_ids), rel=1e-5)


def test_two_images_by_hand_and_the_order_of_the_gallery_counts_only_as_published() -> None:
    scores, query_ids, gallery_ids = torch.tensor([[0.0, 0.5]]), torch.tensor([7]), torch.tensor([3, 7])
    factor = 1 - math.exp(-0.75 / 0.5)  # s' is 0.75 for the hit, which is first, and 0.5 for the other
    assert float(similarity_distribution(scores, query_ids, gallery_ids)) == pytest.approx(factor)
    wrong = 1 - math.exp(-0.5 / 0.75)  # rank 1 is a hit, and s' of the gallery's first image is 0.5
    assert float(published_similarity_distribution(scores, query_ids, gallery_ids)) == pytest.approx(wrong)
    turned = scores.flip(1), query_ids, gallery_ids.flip(0)
    assert float(similarity_distribution(*turned)) == pytest.approx(factor)
    assert float(published_similarity_distribution(*turned)) == pytest.approx(factor)


def test_a_gallery_of_hits_alone_and_one_of_opposite_features_have_finite_figures() -> None:
    ids = torch.zeros(2, dtype=torch.int64)
    assert similarity_distribution(torch.tensor([[0.3, 0.1]]), ids[:1], ids).tolist() == [1.0]
    opposite = similarity_distribution(torch.full((1, 2), -1.0), ids[:1], torch.tensor([0, 1]))
    assert opposite.isfinite().all()


def test_queries_without_a_hit_and_features_that_are_not_finite_are_refused() -> None:
    features, ids = torch.eye(2), torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"query 1 \(person 5\) has no image in the gallery"):
        mean_similarity_distribution(features, features, torch.tensor([0, 5]), ids)
    with pytest.raises(ValueError, match="NaN or infinity"):
        mean_similarity_distribution(features / 0, features, ids, ids)


def test_an_evaluation_reports_it_where_it_is_asked_for(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, features = ["--config", str(finished_run / "options.yaml")], tmp_path / "features"
    weights = ["--evaluate", str(finished_run / "checkpoint_best.pth"), "--save-features", str(features)]
    assert main([*config, *weights, "--output-dir", str(tmp_path / "a")]) == 0
    assert "msd" not in results_of(tmp_path / "a")
    scored = ["--evaluate", str(features), "--output-dir", str(tmp_path / "b")]
    capsys.readouterr()
    assert main([*config, *scored, "eval.msd=true"]) == 0
    saved = next(iter(load_features(features, "--evaluate").sets.values()))
    queries = saved.evaluation_set.queries["en"]
    sides = saved.features.texts["en"], saved.features.images
    expected = mean_similarity_distribution(*sides, queries.person_ids, saved.evaluation_set.person_ids)
    assert results_of(tmp_path / "b")["msd"] == {"en": expected}
    line = f"mSD {expected['mSD']:.2f} (by the published calculator {expected['mSD_published']:.2f})"
    assert line in capsys.readouterr().out
