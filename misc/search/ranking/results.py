"""The ranked entries of each query, as a table, JSON, CSV, or a list of files."""

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
COLUMNS = ("query", "rank", "score", "image", "missing", "width", "height", "taken")
OF_PEOPLE = ("path", "box", "time", "first", "last", "detection", "crops")


@dataclass(frozen=True)
class Listing:
    """The answer to a query.

    Attributes:
        title: describes the query.
        settings: of the search: {"folder": ..., "min_score": ...}, those that were given.
        per_file: as in `rank`.
        missing: places of entries whose files no longer exist.
        sharing: {id: path} of what shares the places of the results.
    """

    title: str
    query: Query
    answer: Answer
    index: Index
    settings: dict[str, object]
    per_file: bool
    missing: set[int]
    sharing: dict[int, str]

    def file_of(self, result: Result) -> Path:
        """The file of an entry."""
        return self.index.image_root / result.place.file


def find(
    index: Index,
    encoder: Encoder,
    queries: Sequence[Query],
    *,
    k: int,
    filters: Filters,
    min_score: float | None = None,
    group: bool = False,
    per_file: bool = False,
    image_names: Sequence[str] = (),
) -> tuple[list[Listing], list[str]]:
    """Answer the queries with k places each; returns what the user should know of them, too.

    Args:
        image_names: how to name the images of a query.
    """
    features = query_features(encoder, queries, index)
    ranking = {"k": k, "filters": filters, "min_score": min_score, "group": group, "per_file": per_file}
    answers = rank(index, features, queries, **ranking)
    settings = {name: value for name, value in vars(filters).items() if value}
    settings |= {} if min_score is None else {"min_score": min_score}
    files = {result.place.file for answer in answers for result in answer.results}
    gone = {file for file in files if not (index.image_root / file).is_file()}
    listings = []
    for query, answer in zip(queries, answers, strict=True):
        missing = {r.rank for r in answer.results if r.place.file in gone}
        sharing = index.paths_of([number for r in answer.results for number in (*r.duplicates, *r.others)])
        title = _title(query, index, image_names)
        listings.append(Listing(title, query, answer, index, settings, per_file, missing, sharing))
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
    """Aligned text with a row per place."""
    lines = []
    for listing in listings:
        title = listing.title
        lines += [
            "",
            title if len(title) <= MAX_TITLE else title[: MAX_TITLE - 1] + "…",
            "rank   score  image",
        ]
        for result in listing.answer.results:
            notes = [f"({note})" for note in numbers_of(result)]
            notes += ["(missing)"] if result.rank in listing.missing else []
            parts = [f"{result.score:6.4f}", printable(result.path), *span_of(result), *notes]
            lines.append("  ".join([f"{result.rank:4d}", *parts]))
        if listing.settings:
            lines.append(_summary(listing))
    return "\n".join(lines[1:])


def span_of(result: Result) -> list[str]:
    """When a person is seen in the video, in words, where that is known."""
    sighting = result.sighting
    is_track = sighting is not None and sighting.first is not None
    return [f"{sighting.first:.1f} to {sighting.last:.1f} s"] if is_track else []


def numbers_of(result: Result) -> list[str]:
    """How many share the place, in words."""
    numbers = {"duplicates": len(result.duplicates), "others": len(result.others)}
    return [f"+{number} {name}" for name, number in numbers.items() if number]


def _summary(listing: Listing) -> str:
    answer, entries = listing.answer, "entries" if listing.index.has_people else "images"
    summary = f"{answer.matching:,} of {answer.total:,} {entries} pass the filters"
    return summary if answer.passing is None else f"{summary}, {answer.passing:,} of these the minimum score"


def as_json(listings: Sequence[Listing]) -> str:
    """A list with an object per query: {"query", "image_root", "filters", "total", "matching", "passing",
    "results": [{"rank", "score", "image", "missing", "width", "height", "taken", "duplicates": [paths]}]}.

    In an index of people, "image" is the file, and there are "path" (of the entry), "box" [left, top, width,
    height] in pixels, "time", "first" and "last" in seconds of the video, "detection" (the score of the
    box) and "crops" [paths]. With `per_file` there is "others" [paths].
    """
    content = [
        {
            "query": listing.title,
            "image_root": str(listing.index.image_root),
            "filters": listing.settings,
            **{name: getattr(listing.answer, name) for name in ("total", "matching", "passing")},
            "results": _rows(listing),
        }
        for listing in listings
    ]
    return json.dumps(content, indent=1) + "\n"


def as_csv(listings: Sequence[Listing]) -> str:
    """What `as_json` has of each place, in a row, with a header; paths are counted, and a box is the text
    "left,top,width,height".
    """
    text, (first, *_) = io.StringIO(), listings
    columns = [*COLUMNS, *(OF_PEOPLE if first.index.has_people else ()), "duplicates"]
    columns += ["others", "image_root", "filters"] if first.per_file else ["image_root", "filters"]
    rows = (
        {
            "query": listing.title,
            **{name: _cell(name, value) for name, value in row.items()},
            "image_root": str(listing.index.image_root),
            "filters": json.dumps(listing.settings, ensure_ascii=False) if listing.settings else "",
        }
        for listing in listings
        for row in _rows(listing)
    )
    write_csv(text, columns, rows, lineterminator="\n")
    return text.getvalue()


def _cell(name: str, value: object) -> object:
    if name == "box":
        return ",".join(map(str, value or ()))
    return len(value) if isinstance(value, list) else value


def _rows(listing: Listing) -> list[JsonObject]:
    rows = []
    for result in listing.answer.results:
        sharing = {"duplicates": result.duplicates}
        sharing |= {"others": result.others} if listing.per_file else {}
        rows.append(
            {
                "rank": result.rank,
                "score": round(result.score, 6),
                "image": result.place.file,
                "missing": result.rank in listing.missing,
                **{name: getattr(result, name) for name in ("width", "height", "taken")},
                **_whereabouts(result),
                **{name: [listing.sharing[number] for number in ids] for name, ids in sharing.items()},
            }
        )
    return rows


def _whereabouts(result: Result) -> JsonObject:
    """The values of `OF_PEOPLE`, in an index of people."""
    if result.sighting is None:
        return {}
    (_, time, box), sighting = result.place, result.sighting
    values = (result.path, box and list(box), time, sighting.first, sighting.last, sighting.score)
    return dict(zip(OF_PEOPLE, (*values, list(sighting.crops)), strict=True))


def file_list(listings: Sequence[Listing], end: str) -> bytes:
    """The absolute paths of the files that exist, each once, with `end` behind each."""
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
