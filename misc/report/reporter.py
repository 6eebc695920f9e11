"""The outcome of a run: tables on the screen, `results.json`, `ranking.png`, and what the flags ask for."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from torch import Tensor

from data.scenes import DETECTED, SceneSearch, scene_search
from data.types import EvaluationSet
from misc.checkpoints.run_options import features_depend_on
from misc.evaluation.evaluator import Encoded, ScoresOf, msd_of, score
from misc.evaluation.features import INDEX, SavedFeatures, check_same_sets, fuse, load_features, save_features
from misc.evaluation.rankings import SUFFIXES, save_rankings
from misc.evaluation.rerank import Reranker
from misc.evaluation.scenes import scene_results
from misc.evaluation.tables import metrics_table, summary_table
from misc.metrics import Results, best_ranked
from misc.process import distributed
from misc.process.durable import make_folder, write_text
from misc.report.pictures import RankingRow, draw_curves, draw_rankings
from options import Options, UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reporter:
    """Scores test sets and writes the results.

    Attributes:
        folder: where `results.json` and `ranking.png` go.
        fused: (weight, features) of other models; the weight of the model's own features is 1.
        msd: whether to report mSD, of the model's own features.
        rerank: (queries, gallery) features -> scores re-ranked; None: off.
        rankings: file for the ranking of each query; None: none.
        features: folder for the features; None: none.
        options: those that the features depend on, by "section.name".
        scenes: of the frames that the first set is of; None: of none.
    """

    folder: Path
    fused: Sequence[tuple[float, SavedFeatures]]
    msd: bool
    rerank: Callable[[Tensor, Tensor], ScoresOf] | None
    rankings: Path | None
    features: Path | None
    options: Mapping[str, object]
    scenes: SceneSearch | None = None

    def __call__(
        self, sets: Mapping[str, Encoded], weights: Path, select_on: str | None
    ) -> dict[str, Results]:
        """Score the sets, the first of which is the run's own, and write everything. A set without queries is
        of the boxes that a detector found in the frames of the first one.

        Args:
            weights: the file they were encoded with.
            select_on: what selected its epoch: "val", "test" or "last"; None for an evaluation.

        Returns the results of each set; with fusion or re-ranking they have "rows".
        """
        detected = sets.get(DETECTED)
        sets = {name: encoded for name, encoded in sets.items() if encoded.evaluation_set.queries}
        results = {name: self._score(name, encoded) for name, encoded in sets.items()}
        if self.scenes:
            first = next(iter(sets))
            results[first]["scenes"] = scene_results(self.scenes, sets[first], detected)
        if distributed.is_main():
            self._write(results, sets, weights, select_on)
        return results

    def _score(self, name: str, encoded: Encoded) -> Results:
        results, rows, kinds = score(encoded), {}, {"": encoded}
        if self.msd:
            results["msd"] = msd_of(encoded)
        if self.fused:
            device = encoded.features.images.device
            others = [(weight, saved.sets[name].features.to(device)) for weight, saved in self.fused]
            kinds["fusion"] = replace(encoded, features=fuse([(1.0, encoded.features), *others]))
            rows["fusion"] = score(kinds["fusion"])
        for kind, features in kinds.items() if self.rerank else ():
            logger.info(f"re-ranking {kind or 'the features'} of set {name}")
            rows["+".join(filter(None, (kind, "rerank")))] = score(features, self.rerank)
        if num_undescribed := encoded.evaluation_set.num_undescribed:
            results["num_undescribed"] = num_undescribed
        return {**results, "rows": rows} if rows else results

    def _write(
        self, results: dict[str, Results], sets: Mapping[str, Encoded], weights: Path, select_on: str | None
    ) -> None:
        first = next(iter(sets))
        figures = {key: value for key, value in results[first].items() if key != "rows"}
        record = {"split": "test", "select_on": select_on, "checkpoint": str(weights), **figures}
        if len(sets) > 1 or "rows" in results[first]:
            record["sets"] = results
        write_text(self.folder / "results.json", json.dumps(record, indent=2) + "\n")
        chosen = f", epoch selected on {select_on}" if select_on else ""
        for name, figures in results.items():
            title = "test split" if len(sets) == 1 else f"{name}, test split"
            logger.info(f"\n{title}, {weights}{chosen}\n{metrics_table(figures)}")
        if len(sets) > 1:
            logger.info(f"\nall test sets, text to image\n{summary_table(results)}")
        draw_rankings(ranking_rows(sets[first]), self.folder / "ranking.png")
        logger.info(f"written to {self.folder}: results.json, ranking.png")
        if self.features:
            save_features(sets, self.features, weights, self.options)
            logger.info(f"written to {self.features}: the features; --evaluate {self.features} scores them")
        if self.rankings:
            save_rankings(sets, self.rankings)
            logger.info(f"written: {self.rankings}, the ranking of each query")


def build_reporter(
    options: Options,
    folder: Path,
    tests: Mapping[str, EvaluationSet],
    rankings: str | None,
    features: str | None,
) -> Reporter:
    """The reporter of a run on these test sets. All it needs is checked now, not after the training.

    Raises:
        UserError: features to fuse that are missing or of other sets; a path that cannot be written to, or
            that has features already.
    """
    settings = options.eval
    first = next(iter(tests.values()))
    scenes = scene_search(options, first)
    if settings.detections and DETECTED not in tests:
        raise UserError(
            "eval.detections: the boxes are of frames, and the test split has none; leave it out, or name "
            "the folder of PRW-TBPS or CUHK-SYSU-TBPS in data.annotation_file"
        )
    tests = {name: each for name, each in tests.items() if each.queries}
    fused = [(weight, load_features(Path(name), "eval.fuse")) for name, weight in settings.fuse.items()]
    for _, saved in fused:
        check_same_sets(tests, saved)
    k1, k2, lambda_ = settings.rerank_k1, settings.rerank_k2, settings.rerank_lambda
    rerank = partial(Reranker, k1=k1, k2=k2, lambda_=lambda_) if settings.rerank else None
    if rankings:
        if Path(rankings).is_dir() or Path(rankings).suffix not in SUFFIXES:
            raise UserError(f"--save-rankings: '{rankings}' is not a file name that ends in .csv or .jsonl")
        make_folder(Path(rankings).parent, "--save-rankings")
    if features:
        if (Path(features) / INDEX).exists() and not options.output.overwrite:
            raise UserError(
                f"--save-features: '{features}' has features already; choose another folder, or set "
                "output.overwrite=true"
            )
        make_folder(Path(features), "--save-features")
    rankings_file, features_folder = rankings and Path(rankings), features and Path(features)
    kept = features_depend_on(options)
    return Reporter(folder, fused, settings.msd, rerank, rankings_file, features_folder, kept, scenes)


def report_curves(folder: Path) -> None:
    """Draw `curves.png` from the run's `metrics.jsonl`."""
    if distributed.is_main():
        draw_curves(folder / "metrics.jsonl", folder / "curves.png")
        logger.info(f"written to {folder}: curves.png")


def ranking_rows(encoded: Encoded, num_rows: int = 12) -> list[RankingRow]:
    """Queries spread evenly over the split, in alternating languages, with their top ten images."""
    own, features = encoded.evaluation_set, encoded.features
    rows, languages = [], list(features.texts)
    for number in range(num_rows):
        language = languages[number % len(languages)]
        queries = own.queries[language]
        query = number * len(queries.captions) // num_rows
        scores = features.texts[language][query : query + 1] @ features.images.T
        indices, values = (best[0].tolist() for best in best_ranked(scores, 10))
        person = queries.person_ids[query]
        results = [
            (own.image_root / own.images[index], bool(own.person_ids[index] == person), value)
            for index, value in zip(indices, values, strict=True)
        ]
        described = own.image_root / own.images[int(queries.image_indices[query])]
        rows.append(RankingRow(queries.captions[query], described, results))
    return rows
