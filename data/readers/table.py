"""Tables, for your own data: CSV or JSON lines, with a row for each caption.

| column | |
|---|---|
| `image` | path below the image root |
| `person_id` | whole number or any text, such as a name; -1 for nobody |
| `caption` | one description; further ones of the image are rows of their own. Empty: nobody describes it |
| `split` | train, val or test. Without this column all rows are test: a set to evaluate on |
| `language` | such as en or zh. Without this column all captions are English |

Other columns are ignored. CSV has a header and is UTF-8; cells are separated by commas, semicolons (as Excel
writes them) or tabs, and a caption that contains the separator is in double quotes. JSON lines have an object
in each line. Either every row has `split` (or `language`), or none.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from data.records import (
    MALFORMED,
    NO_WORDS,
    UNPAIRED_SURROGATE,
    Report,
    field,
    image_path,
    pick_languages,
    read_split,
)
from data.types import NOBODY, SPLITS, ByLanguage, Format, Record, language_name
from options import UserError
from text_utils.captions import clean_caption

REQUIRED = ("image", "person_id", "caption")
DEFAULTS = {"split": "test", "language": "en"}
EXTRA = "\0"  # no column of a CSV file has this name
MAX_DIGITS = 18  # of a person id that is a number: tensors hold 64 bits


@dataclass(frozen=True)
class Row:
    """One caption; `person` as the table spells it."""

    image: str
    person: str
    caption: str
    split: str
    language: str


def recognises(path: Path, content: bytes, form: Format) -> bool:
    """Whether a file begins as a table does: with the header, or an object of these columns."""
    start = content.removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(b"["):  # JSON, which may be one long line
        return False
    head = start.partition(b"\n")[0].decode("utf-8", "replace")
    first = _json(head)
    if isinstance(first, dict):
        return any(name in first for name in REQUIRED)
    return set(REQUIRED) <= {cell.strip().strip('"').lower() for cell in head.split(_delimiter(head))}


def read(
    path: Path,
    content: bytes,
    form: Format,
    splits: Sequence[str],
    languages: Sequence[str] | None,
    report: Report,
) -> dict[str, ByLanguage]:
    """See `data.formats`. A record for each row, in order.

    Person ids that are all whole numbers stay so. Otherwise all are numbered from 0 in order of appearance.
    """
    rows = list(_read_rows(path, content, report))
    ids = _number_persons(row.person for row in rows)
    found: dict[str, ByLanguage] = {split: {} for split in SPLITS}
    for row in rows:
        captions = (row.caption,) if row.caption.strip() else ()
        record = Record(row.image, ids[row.person], captions, (), row.language)
        found[row.split].setdefault(row.language, []).append(record)
    chosen = pick_languages(languages, {split: found[split] for split in splits}, path, report)
    return {split: {name: found[split][name] for name in names} for split, names in chosen.items()}


def _number_persons(persons: Iterable[str]) -> dict[str, int]:
    """{person as spelt: its number}."""
    nobody = {str(NOBODY): NOBODY}
    distinct = [person for person in dict.fromkeys(persons) if person not in nobody]
    if all(person.isdecimal() and len(person) <= MAX_DIGITS for person in distinct):
        return {person: int(person) for person in distinct} | nobody
    return {person: number for number, person in enumerate(distinct)} | nobody


def _read_rows(path: Path, content: bytes, report: Report) -> Iterator[Row]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        found = f"'{path}' is not UTF-8 text (byte {error.start})"
        raise UserError(f"data.annotation_file: {found}; save it as 'CSV UTF-8'") from error
    rows = list(_json_rows(text) if text.lstrip().startswith("{") else _csv_rows(path, text))
    if not rows:
        raise UserError(f"data.annotation_file: '{path}' has no rows with captions")
    columns = {name for _, cells in rows if isinstance(cells, dict) for name in cells}
    defaults = {name: value for name, value in DEFAULTS.items() if name not in columns}
    for line, cells in rows:
        where = f"'{path}' line {line}"
        try:
            row = _read_row({**defaults, **cells} if isinstance(cells, dict) else cells, where)
        except UserError as error:
            report(MALFORMED, str(error))
            continue
        if row.caption.strip() and not clean_caption(row.caption):
            report(NO_WORDS, f"{where}: field 'caption' should have words, found {row.caption!r:.40}")
        yield row


def _read_row(cells: Any, where: str) -> Row:
    """Raises UserError where a column is missing, or holds what it should not."""
    if isinstance(cells, dict) and EXTRA in cells:
        raise UserError(
            f"{where}: more cells than the header has columns (from {cells[EXTRA]!r:.40} on); a caption "
            "that contains the separator must be in double quotes"
        )
    image = image_path(cells, "image", where)
    person = cells.get("person_id")
    if type(person) is int:
        person = str(person)
    elif not isinstance(person, str) or not person.strip() or UNPAIRED_SURROGATE.search(person):
        expected = "should be a whole number or a name"
        raise UserError(f"{where}: field 'person_id' {expected}, found {person!r:.40}")
    caption = "" if cells.get("caption", "") is None else field(cells, "caption", str, where)
    language = field(cells, "language", str, where).strip()
    if not language:
        raise UserError(f"{where}: field 'language' should be a language such as en, found ''")
    return Row(image, person.strip(), caption, read_split(cells, where), language_name(language))


def _json_rows(text: str) -> Iterator[tuple[int, Any]]:
    """(line, its object, or its text where that is no JSON)."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            row = _json(line)
            yield number, line if row is None else row


def _json(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _csv_rows(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    """(line that the row begins in, {column: cell}); cells beyond the header's are under `EXTRA`."""
    delimiter = _delimiter(text.lstrip().partition("\n")[0])
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] = []
    line = 1
    try:
        for cells in reader:
            is_blank = not "".join(cells).strip()
            if not is_blank and not header:
                header = [cell.strip().lower() for cell in cells]
                _check_header(header, path)
            elif not is_blank:
                extra = "".join(cells[len(header) :]).strip()
                row = dict(zip_longest(header, cells[: len(header)], fillvalue=""))
                yield line, {**row, EXTRA: extra} if extra else row
            line = reader.line_num + 1
    except csv.Error as error:
        advice = "put a cell with quotes in quotes, its own doubled"
        raise UserError(f"'{path}' line {line}: not CSV ({error}); {advice}") from error


def _check_header(header: list[str], path: Path) -> None:
    missing = [name for name in REQUIRED if name not in header]
    if missing:
        raise UserError(f"'{path}' line 1: no column '{missing[0]}'; the header has {', '.join(header):.80}")
    for name in (*REQUIRED, *DEFAULTS):
        if header.count(name) > 1:
            raise UserError(f"'{path}' line 1: two columns '{name}'; give each caption a row")


def _delimiter(header: str) -> str:
    return max(",;\t", key=header.count)
