"""The ranked images of each query, as a table, JSON, CSV or a figure."""

import io
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from data.images.decode import load_image
from misc.process.csv_file import write_csv
from misc.process.logs import progress
from misc.report.contact_sheet import Cell, draw_contact_sheet
from misc.report.pictures import RULE
from misc.search.encoder import Encoder
from misc.search.explain import explain, overlay
from misc.search.index import Index
from misc.search.ranking.answer import rank
from misc.search.ranking.queries import Query, query_features
from model.protocol import JsonObject
from options import UserError

MAX_TITLE = 100  # characters of a query in the table


@dataclass(frozen=True)
class Result:
    """One image of a ranking; `missing`: the file no longer exists."""

    rank: int
    score: float
    image: str
    missing: bool


@dataclass(frozen=True)
class Answer:
    """The ranking of a query, best first; `title` describes the query."""

    title: str
    query: Query
    results: list[Result]


def find(
    index: Index, encoder: Encoder, queries: Sequence[Query], k: int, image: Path | None = None
) -> list[Answer]:
    """Answer the queries with k images each; `image` is the file of their image."""
    found = rank(index, query_features(encoder, queries, index), queries, k=k)
    answers = []
    for query, ranked in zip(queries, found, strict=True):
        results = [
            Result(result.rank, result.score, result.path, not (index.image_root / result.path).is_file())
            for result in ranked.results
        ]
        answers.append(Answer(_title(query, image), query, results))
    return answers


def _title(query: Query, image: Path | None) -> str:
    parts = [*(text for text, _ in query.texts), f"[{image}]" if query.images else None]
    title = " + ".join(part for part in parts if part)
    title += "".join(f", without {text}" for text in query.without)
    return title.encode("utf-8", "backslashreplace").decode()  # UTF-8 cannot encode unpaired surrogates


def table(answers: Sequence[Answer]) -> str:
    """Aligned text with a row per image."""
    lines = []
    for answer in answers:
        title = answer.title if len(answer.title) <= MAX_TITLE else answer.title[: MAX_TITLE - 1] + "…"
        lines += ["", title, "rank   score  image"]
        for result in answer.results:
            missing = "  (missing)" if result.missing else ""
            lines.append(f"{result.rank:4d}  {result.score:6.4f}  {printable(result.image)}{missing}")
    return "\n".join(lines[1:])


def as_json(answers: Sequence[Answer]) -> str:
    """A list with one {"query", "results": [{"rank", "score", "image", "missing"}]} per query."""
    content = [{"query": answer.title, "results": _rows(answer)} for answer in answers]
    return json.dumps(content, indent=1) + "\n"


def as_csv(answers: Sequence[Answer]) -> str:
    """Columns query, rank, score, image, missing, with a header."""
    text = io.StringIO()
    rows = ({"query": answer.title, **row} for answer in answers for row in _rows(answer))
    write_csv(text, ["query", "rank", "score", "image", "missing"], rows, lineterminator="\n")
    return text.getvalue()


def _rows(answer: Answer) -> list[JsonObject]:
    return [{**vars(result), "score": round(result.score, 6)} for result in answer.results]


def printable(path: str) -> str:
    """A path on one line, without characters that the terminal cannot show."""
    escaped = "".join(c if c.isprintable() else repr(c)[1:-1] for c in path)
    encoding = sys.stdout.encoding or "utf-8"
    return escaped.encode(encoding, "backslashreplace").decode(encoding)


def draw(answers: Sequence[Answer], index: Index, out: Path) -> None:
    """Write a PNG of the images with rank, score and name, and the query if there are several."""
    cells = []
    for answer in answers:
        for result in answer.results:
            captions = [printable(result.image), *([answer.title] if len(answers) > 1 else [])]
            image = _load(index, result) or Image.new("RGB", (100, 240), RULE)
            cells.append(Cell(image, f"{result.rank}.   {result.score:.4f}", captions))
    draw_contact_sheet(cells, out)


def explain_all(answers: Sequence[Answer], index: Index, encoder: Encoder, folder: Path) -> None:
    """Write QUERY-RANK.png of each image found: the regions that its score depends on."""
    explained = [
        (number, text, result)
        for number, answer in enumerate(answers, start=1)
        for result in answer.results
        for text, _ in answer.query.texts[:1]
    ]
    for number, text, result in progress(explained, "explaining"):
        image = _load(index, result)
        if image is not None:
            overlay(image, explain(encoder, image, text)).save(folder / f"{number}-{result.rank}.png")


def _load(index: Index, result: Result) -> Image.Image | None:
    """The image, or None if it can no longer be read."""
    try:
        return load_image(index.image_root / result.image, truncated="accept")  # as the index did, if need be
    except UserError:
        return None
