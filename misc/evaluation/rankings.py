"""--save-rankings: a row for each query, to look at failures."""

import codecs
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from misc.evaluation.evaluator import Encoded, cosine
from misc.metrics import best_ranked, hit_ranks, hits_of
from misc.process.csv_file import ENCODING, write_csv
from misc.process.durable import replacing
from misc.process.logs import progress

SUFFIXES = (".csv", ".jsonl")
Row = dict[str, str | int | float]


def save_rankings(sets: Mapping[str, Encoded], path: Path, top: int = 10) -> None:
    """Write how each caption of each set ranks the images by cosine similarity.

    JSON lines, or CSV with a header, as the name ends (`SUFFIXES`). Columns: set, language, query (its
    number from 0), caption, image (the one described), person_id, first_hit_rank (from 1), and for each of
    the best, i = 1 to `top`: image_i, score_i (cosine), person_id_i; empty beyond a smaller gallery.
    """
    best = [f"{name}_{place}" for place in range(1, top + 1) for name in ("image", "score", "person_id")]
    columns = ["set", "language", "query", "caption", "image", "person_id", "first_hit_rank", *best]
    with replacing(path) as binary:
        if path.suffix == ".jsonl":
            file = codecs.getwriter("utf-8")(binary)
            for row in _rows(sets, top):
                file.write(json.dumps(dict.fromkeys(columns) | row, ensure_ascii=False) + "\n")
        else:
            write_csv(codecs.getwriter(ENCODING)(binary), columns, _rows(sets, top))


def _rows(sets: Mapping[str, Encoded], top: int) -> Iterator[Row]:
    for name, encoded in sets.items():
        for language in encoded.features.texts:
            for row in _rows_of(encoded, language, top):
                yield {"set": name, "language": language, **row}


def _rows_of(encoded: Encoded, language: str, top: int) -> Iterator[Row]:
    own, images = encoded.evaluation_set, encoded.features.images
    queries = own.queries[language]
    paths = [str(own.image_root / image) for image in own.images]
    persons, asked = own.person_ids.tolist(), queries.person_ids.tolist()
    described = queries.image_indices.tolist()
    hits, num_hits = hits_of(queries.person_ids.to(images.device), own.person_ids.to(images.device))
    scores_of = cosine(encoded.features.texts[language], images)
    for part in progress(torch.arange(len(asked), device=images.device).split(256), f"rankings ({language})"):
        scores = scores_of(part)
        ranks = hit_ranks(scores, hits[part], num_hits[part])[:, 0].tolist()
        indices, values = (best.tolist() for best in best_ranked(scores, top))
        for query, rank, of_query, similarities in zip(part.tolist(), ranks, indices, values, strict=True):
            row = {"query": query, "caption": queries.captions[query], "image": paths[described[query]]}
            row |= {"person_id": asked[query], "first_hit_rank": rank}
            for place, (index, value) in enumerate(zip(of_query, similarities, strict=True), start=1):
                row[f"image_{place}"] = paths[index]
                row[f"score_{place}"] = round(value, 6)
                row[f"person_id_{place}"] = persons[index]
            yield row
