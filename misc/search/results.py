"""The ranked images of each query: as a table, JSON, CSV, a picture, and explained."""

import csv
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from data.decode import load_image
from misc.process.logs import progress
from misc.report.contact_sheet import Cell, draw_contact_sheet
from misc.report.pictures import RULE
from misc.search.encoder import Encoder
from misc.search.index import Index
from misc.search.queries import Query, query_features
from options import UserError


@dataclass(frozen=True)
class Result:
    """One image found; `missing`: it is not there any more."""

    rank: int
    score: float
    image: str
    missing: bool


@dataclass(frozen=True)
class Answer:
    """The images found for a query, best first; `title` says what was asked."""

    title: str
    query: Query
    results: list[Result]


def find(
    index: Index, encoder: Encoder, queries: Sequence[Query], k: int, image: Path | None = None
) -> list[Answer]:
    """The answers to the queries; `image` names the file of their image."""
    scores, rows = index.search(query_features(encoder, queries), k)
    answers = []
    for query, its_scores, its_rows in zip(queries, scores.tolist(), rows.tolist(), strict=True):
        paths = [index.paths[row] for row in its_rows]
        results = [
            Result(rank, score, path, not (index.image_root / path).is_file())
            for rank, (score, path) in enumerate(zip(its_scores, paths, strict=True), start=1)
        ]
        asked = [query.text, f"[{image}]" if query.image is not None else None]
        title = " + ".join(part for part in asked if part)
        title += "".join(f", without {text}" for text in query.without)
        title = title.encode("utf-8", "backslashreplace").decode()  # half signs, which no screen takes
        answers.append(Answer(title, query, results))
    return answers


def table(answers: Sequence[Answer]) -> str:
    """Aligned text: under each query a row for each image."""
    lines = []
    for answer in answers:
        title = answer.title if len(answer.title) <= 100 else answer.title[:99] + "…"
        lines += ["", title, "rank   score  image"]
        lines += [
            f"{result.rank:4d}  {result.score:6.4f}  {printable(result.image)}"
            + ("  (not there any more)" if result.missing else "")
            for result in answer.results
        ]
    return "\n".join(lines[1:])


def as_json(answers: Sequence[Answer]) -> str:
    """[{"query", "results": [{"rank", "score", "image", "missing"}]}], a list of the queries."""
    return (
        json.dumps([{"query": answer.title, "results": _rows(answer)} for answer in answers], indent=1) + "\n"
    )


def as_csv(answers: Sequence[Answer]) -> str:
    """Columns query, rank, score, image, missing, with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ["query", "rank", "score", "image", "missing"], lineterminator="\n")
    writer.writeheader()
    for answer in answers:
        writer.writerows({"query": answer.title, **row} for row in _rows(answer))
    return text.getvalue()


def _rows(answer: Answer) -> list[dict[str, Any]]:
    return [{**vars(result), "score": round(result.score, 6)} for result in answer.results]


def printable(path: str) -> str:
    """A path on one line, in what a terminal can show: names of files may hold anything."""
    escaped = "".join(c if c.isprintable() else repr(c)[1:-1] for c in path)
    encoding = sys.stdout.encoding or "utf-8"
    return escaped.encode(encoding, "backslashreplace").decode(encoding)


def draw(answers: Sequence[Answer], index: Index, out: Path) -> None:
    """Write a PNG of the images with rank, score and name, and with the query where there are several."""
    cells = []
    for answer in answers:
        for result in answer.results:
            captions = [printable(result.image), *([answer.title] if len(answers) > 1 else [])]
            image = _load(index, result) or Image.new("RGB", (100, 240), RULE)
            cells.append(Cell(image, f"{result.rank}.   {result.score:.4f}", captions))
    draw_contact_sheet(cells, out)


def explain_all(answers: Sequence[Answer], index: Index, encoder: Encoder, folder: Path) -> None:
    """Write, for each image found, QUERY-RANK.png: where the image tower looked for the sentence."""
    from misc.search.explain import explain, overlay

    shown = [
        (number, answer.query.text, result)
        for number, answer in enumerate(answers, start=1)
        for result in answer.results
        if answer.query.text
    ]
    for number, text, result in progress(shown, "explaining"):
        image = _load(index, result)
        if image is not None:
            overlay(image, explain(encoder, image, text)).save(folder / f"{number}-{result.rank}.png")


def _load(index: Index, result: Result) -> Image.Image | None:
    """The image; None where it cannot be read any more."""
    try:
        return load_image(index.image_root / result.image)
    except UserError:
        return None
