"""The outcome of a run: the table on the screen, `results.json` and `ranking.png`."""

import json
import logging
from pathlib import Path
from typing import Any

from misc import distributed
from misc.evaluate import Evaluator, Features, top_matches
from misc.logs import metrics_table
from misc.pictures import RankingRow, draw_curves, draw_rankings

logger = logging.getLogger(__name__)


def report(evaluator: Evaluator, folder: Path, checkpoint: Path, select_on: str | None) -> None:
    """Evaluate the test split and write what came out.

    Args:
        folder: where `results.json` and `ranking.png` go.
        checkpoint: the file of the weights, for the record.
        select_on: what picked its epoch: "val", "test" or "last"; None where it was not trained here.
    """
    features = evaluator.encode()
    results = evaluator.score(features)
    if not distributed.is_main():
        return
    record = {"split": "test", "select_on": select_on, "checkpoint": str(checkpoint), **results}
    (folder / "results.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    draw_rankings(ranking_rows(evaluator.gallery, features), folder / "ranking.png")
    chosen = f", epoch selected on {select_on}" if select_on else ""
    logger.info(f"\ntest split, {checkpoint}{chosen}\n{metrics_table(results)}")
    logger.info(f"written to {folder}: results.json, ranking.png")


def report_curves(folder: Path) -> None:
    """Draw `curves.png` from the run's `metrics.jsonl`."""
    if distributed.is_main():
        draw_curves(folder / "metrics.jsonl", folder / "curves.png")
        logger.info(f"written to {folder}: curves.png")


def ranking_rows(gallery: Any, features: Features, num_rows: int = 12) -> list[RankingRow]:
    """Queries spread evenly over the split, the languages taking turns, with their top ten images."""
    rows, languages = [], list(features.texts)
    for number in range(num_rows):
        language = languages[number % len(languages)]
        queries = gallery.queries[language]
        query = number * len(queries.captions) // num_rows
        indices, scores = top_matches(features.texts[language][query : query + 1], features.images)
        hits = gallery.person_ids[indices[0]] == queries.person_ids[query]
        results = [
            (gallery.image_root / gallery.images[index], hit, value)
            for index, hit, value in zip(indices[0].tolist(), hits.tolist(), scores[0].tolist(), strict=True)
        ]
        described = gallery.image_root / gallery.images[int(queries.image_indices[query])]
        rows.append(RankingRow(queries.captions[query], described, results))
    return rows
