"""Galleries with images that nobody describes: figures, saved features, rankings, results."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from data.types import NOBODY, EvaluationSet, Queries
from main import main
from misc.evaluation.evaluator import Encoded, Features, score
from misc.evaluation.features import load_features, save_features
from misc.evaluation.rerank import Reranker
from misc.metrics import METRICS
from tests.helpers.whole_runs import results_of

PERSONS = (3, 3, NOBODY, 5, NOBODY, 5, 3)  # of the gallery
DESCRIBED = (0, 0, 1, 3, 3, 5)  # the image of each caption: 2, 4 and 6 have none


def encoded(rows: tuple[int, ...] = tuple(range(len(PERSONS)))) -> Encoded:
    """These rows of the gallery, and all captions."""
    generator = torch.Generator().manual_seed(3)
    images, texts = (
        F.normalize(torch.randn(count, 8, generator=generator), dim=1)
        for count in (len(PERSONS), len(DESCRIBED))
    )
    persons = torch.tensor(PERSONS)
    described = torch.tensor([rows.index(row) for row in DESCRIBED])
    captions = [f"caption {number}" for number in range(len(DESCRIBED))]
    queries = {"en": Queries(captions, persons[list(DESCRIBED)], described)}
    gallery = EvaluationSet(Path("imgs"), [f"{row}.jpg" for row in rows], persons[list(rows)], queries)
    return Encoded(gallery, Features(images[list(rows)], {"en": texts}))


def naive(scores: Tensor, query_ids: list[int], gallery_ids: list[int]) -> dict[str, float]:
    """The figures by the definitions, one query after another."""
    figures = []
    for row, person in zip(scores.tolist(), query_ids, strict=True):
        order = sorted(range(len(row)), key=lambda place: -row[place])
        ranks = [rank for rank, place in enumerate(order, start=1) if gallery_ids[place] == person]
        recall = [float(ranks[0] <= k) for k in (1, 5, 10)]
        precision = [number / rank for number, rank in enumerate(ranks, start=1)]
        figures.append([*recall, sum(precision) / len(ranks), len(ranks) / ranks[-1]])
    means = (100 * torch.tensor(figures, dtype=torch.float64).mean(dim=0)).tolist()
    return dict(zip(METRICS, means, strict=True))


def test_they_are_ranked_and_never_ask() -> None:
    whole = encoded()
    scores = whole.features.texts["en"] @ whole.features.images.T
    asked = [PERSONS[row] for row in DESCRIBED]
    asking = sorted(set(DESCRIBED))
    found = score(whole)["languages"]["en"]
    assert found["t2i"] == pytest.approx(naive(scores, asked, list(PERSONS)))
    assert found["i2t"] == pytest.approx(naive(scores.T[asking], [PERSONS[row] for row in asking], asked))


def test_without_them_image_to_text_is_the_same_and_text_to_image_another() -> None:
    for scorer in ({}, {"scorer": lambda a, b: Reranker(a, b, k1=4, k2=2)}):
        whole, bare = (score(encoded(*rows), **scorer)["languages"]["en"] for rows in ((), [(0, 1, 3, 5)]))
        assert whole["i2t"] == bare["i2t"]
        assert whole["t2i"] != bare["t2i"]


def test_saved_features_keep_them(tmp_path: Path) -> None:
    whole = encoded()
    (tmp_path / "weights").write_bytes(b"1")
    save_features({"a": whole}, tmp_path, tmp_path / "weights", {})
    read = load_features(tmp_path, "--evaluate").sets["a"]
    assert read.evaluation_set.person_ids.tolist() == list(PERSONS)
    assert read.evaluation_set.num_undescribed == 3
    assert score(read) == score(whole)


@pytest.fixture(scope="module")
def crowd(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`people`, and its training images as distractors of the test split: junk, 0, of a test person."""
    folder = tmp_path_factory.mktemp("crowd")
    items: dict[str, list[dict[str, Any]]] = {
        split: json.loads((people / f"{split}_reid_en.json").read_text())
        for split in ("train", "val", "test")
    }
    ids = (-1, 0, items["test"][0]["id"])
    for number, item in enumerate(items["train"]):
        items["test"].append({"file_path": item["file_path"], "id": ids[number % 3], "captions": []})
    (folder / "test_reid.json").write_text(json.dumps(items["test"]))
    return folder


def test_an_evaluation_counts_them_and_saved_features_score_alike(
    crowd: Path, finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = ["--config", str(finished_run / "options.yaml"), "eval.rerank=true", "eval.rerank_k1=6"]
    weights = ["--evaluate", str(finished_run / "checkpoint_best.pth"), f"data.annotation_file={crowd}"]
    save = ["--save-features", str(tmp_path / "saved"), "--save-rankings", str(tmp_path / "ranks.csv")]
    assert main([*start, *weights, *save, "--output-dir", str(tmp_path / "a")]) == 0
    results = results_of(tmp_path / "a")
    assert (results["num_undescribed"], results["sets"]["test"]["num_undescribed"]) == (20, 20)
    assert main([*start, "--evaluate", str(tmp_path / "saved"), "--output-dir", str(tmp_path / "b")]) == 0
    again = results_of(tmp_path / "b")
    assert {**again, "checkpoint": ""} == {**results, "checkpoint": ""}
    plain = results_of(finished_run)
    assert results["languages"]["en"]["t2i"]["mAP"] < plain["languages"]["en"]["t2i"]["mAP"]
    assert results["languages"]["en"]["i2t"] == plain["languages"]["en"]["i2t"]
    assert "num_undescribed" not in plain
    rows = list(csv.DictReader((tmp_path / "ranks.csv").open(encoding="utf-8-sig")))
    assert len(rows) == 24
    assert "-1" not in {row["person_id"] for row in rows}
    assert {"-1"} < {row[f"person_id_{place}"] for row in rows for place in range(1, 11)}
    assert "0" not in {row[f"person_id_{place}"] for row in rows for place in range(1, 11)}
    assert "20 images of the gallery have no captions and are no queries\nrerank" in capsys.readouterr().out
