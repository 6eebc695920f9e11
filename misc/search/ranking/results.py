"""The ranked images of each query, as a table, JSON, CSV, or a list of files."""

import io
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from misc.process.csv_file import write_csv
from misc.search.encoder import Encoder
from misc.search.index import Index
from misc.search.ranking.answer import Answer, Result, rank
from misc.search.ranking.filters import Filters
from misc.search.ranking.queries import Query, query_features
from misc.search.ranking.warnings import text_warnings
from model.protocol import JsonObject

MAX_TITLE = 100  # characters of a query in the table
COLUMNS = ("query", "rank", "score", "image", "missing", "width", "height", "taken", "duplicates")


@dataclass(frozen=True)
class Listing:
    """The answer to a query.

    Attributes:
        title: describes the query.
        settings: of the search: {"folder": ..., "min_score": ...}, those that were given.
        missing: places of images whose files no longer exist.
        duplicates: {id: path} of the duplicates of the results.
    """

    title: str
    query: Query
    answer: Answer
    image_root: Path
    settings: dict[str, object]
    missing: set[int]
    duplicates: dict[int, str]

    def file_of(self, result: Result) -> Path:
        """The file of an image."""
        return self.image_root / result.path


def find(
    index: Index,
    encoder: Encoder,
    queries: Sequence[Query],
    *,
    k: int,
    filters: Filters,
    min_score: float | None = None,
    group: bool = False,
    image_names: Sequence[str] = (),
) -> tuple[list[Listing], list[str]]:
    """Answer the queries with k images each; returns what the user should know of them, too.

    Args:
        image_names: how to name the images of a query.
    """
    features = query_features(encoder, queries, index)
    answers = rank(index, features, queries, k=k, filters=filters, min_score=min_score, group=group)
    settings = {name: value for name, value in vars(filters).items() if value}
    settings |= {} if min_score is None else {"min_score": min_score}
    listings = []
    for query, answer in zip(queries, answers, strict=True):
        missing = {r.rank for r in answer.results if not (index.image_root / r.path).is_file()}
        duplicates = index.paths_of([number for r in answer.results for number in r.duplicates])
        title = _title(query, index, image_names)
        listings.append(Listing(title, query, answer, index.image_root, settings, missing, duplicates))
    warnings = text_warnings(encoder, [text for query in queries for text in query.all_texts])
    return listings, [*warnings, *dict.fromkeys(text for answer in answers for text in answer.warnings)]


def _title(query: Query, index: Index, image_names: Sequence[str]) -> str:
    weights = {weight for _, weight in query.texts}
    texts = [f"{text} ({weight:g})" if len(weights) > 1 else text for text, weight in query.texts]
    title = " + ".join([*texts, *(f"[{name}]" for name in image_names)])
    title += "".join(f", without {text}" for text in query.without)
    for word, ids in (("like", query.more), ("unlike", query.less)):
        title += "".join(f", {word} [{path}]" for path in index.paths_of(ids).values())
    # UTF-8 cannot encode unpaired surrogates.
    return title.removeprefix(", ").encode("utf-8", "backslashreplace").decode()


def table(listings: Sequence[Listing]) -> str:
    """Aligned text with a row per image."""
    lines = []
    for listing in listings:
        title = listing.title
        lines += [
            "",
            title if len(title) <= MAX_TITLE else title[: MAX_TITLE - 1] + "…",
            "rank   score  image",
        ]
        for result in listing.answer.results:
            notes = f"  (+{len(result.duplicates)} duplicates)" if result.duplicates else ""
            notes += "  (missing)" if result.rank in listing.missing else ""
            lines.append(f"{result.rank:4d}  {result.score:6.4f}  {printable(result.path)}{notes}")
        if listing.settings:
            lines.append(_summary(listing.answer))
    return "\n".join(lines[1:])


def _summary(answer: Answer) -> str:
    summary = f"{answer.matching:,} of {answer.total:,} images pass the filters"
    return summary if answer.passing is None else f"{summary}, {answer.passing:,} of these the minimum score"


def as_json(listings: Sequence[Listing]) -> str:
    """A list with an object per query: {"query", "image_root", "filters", "total", "matching", "passing",
    "results": [{"rank", "score", "image", "missing", "width", "height", "taken", "duplicates": [paths]}]}.
    """
    content = [
        {
            "query": listing.title,
            "image_root": str(listing.image_root),
            "filters": listing.settings,
            **{name: getattr(listing.answer, name) for name in ("total", "matching", "passing")},
            "results": _rows(listing),
        }
        for listing in listings
    ]
    return json.dumps(content, indent=1) + "\n"


def as_csv(listings: Sequence[Listing]) -> str:
    """The columns of `COLUMNS`, image_root and filters, with a header; duplicates are counted."""
    text = io.StringIO()
    rows = (
        {
            "query": listing.title,
            **row,
            "duplicates": len(row["duplicates"]),
            "image_root": str(listing.image_root),
            "filters": json.dumps(listing.settings, ensure_ascii=False) if listing.settings else "",
        }
        for listing in listings
        for row in _rows(listing)
    )
    write_csv(text, [*COLUMNS, "image_root", "filters"], rows, lineterminator="\n")
    return text.getvalue()


def _rows(listing: Listing) -> list[JsonObject]:
    return [
        {
            "rank": result.rank,
            "score": round(result.score, 6),
            "image": result.path,
            "missing": result.rank in listing.missing,
            **{name: getattr(result, name) for name in ("width", "height", "taken")},
            "duplicates": [listing.duplicates[number] for number in result.duplicates],
        }
        for result in listing.answer.results
    ]


def file_list(listings: Sequence[Listing], end: str) -> bytes:
    """The absolute paths of the images that exist, each once, with `end` behind each."""
    files = dict.fromkeys(
        str(listing.file_of(result))
        for listing in listings
        for result in listing.answer.results
        if result.rank not in listing.missing
    )
    return b"".join(os.fsencode(file + end) for file in files)


def printable(path: str) -> str:
    """A path on one line, without characters that the terminal cannot show."""
    escaped = "".join(c if c.isprintable() else repr(c)[1:-1] for c in path)
    encoding = sys.stdout.encoding or "utf-8"
    return escaped.encode(encoding, "backslashreplace").decode(encoding)
