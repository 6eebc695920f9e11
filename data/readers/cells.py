"""From the content of a table, in any kind of file, to its rows: {column: cell}, by the names used here."""

import csv
import io
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from data.types import SPLIT_NAMES
from misc.process.failures import reason_of
from options import UserError

logger = logging.getLogger(__name__)

# The columns, and what else they are called. A column by its own name comes before all others.
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "image": (
        *("image_path", "file_path", "img_path", "filepath", "filename", "file_name", "image_file"),
        *("image_name", "img_name", "img", "path"),
    ),
    "person_id": ("pid", "id", "person", "identity"),
    "caption": ("captions", "text", "sentence", "sentences", "description", "descriptions"),
    "split": ("subset", "set", "phase"),
    "language": ("lang",),
}
REQUIRED = ("image", "person_id", "caption")
NUMBERS = "image_id"  # of the image or of the person: only the values tell
EXTRA = "\0"  # no column of a CSV file has this name
SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\s*$', re.IGNORECASE)  # as Excel reads and writes it

Row = tuple[str, Any]  # where it is in the file, and {column: cell}, or what stands there in place of a row


def looks_like_rows(content: bytes) -> bool:
    """Whether a file begins as a table does: with a header, or an object of these columns."""
    if _is_workbook(content):
        return True
    text = _decode(content, "replace").lstrip()
    if text[:1] not in ("[", "{"):
        return _has_columns(_split_header(text)[1])
    first = _json(text.partition("\n")[0])
    if isinstance(first, dict) and (_rows_in([first]) or any(name in first for name in REQUIRED)):
        return True
    document = _json(text)
    names = (
        [*document[0]] if isinstance(document, list) and document and isinstance(document[0], dict) else []
    )
    is_incomplete = bool(_names_by_column(names)["image"]) and _has_columns(names)
    return is_incomplete or _rows_in(document) is not None


def _has_columns(names: Sequence[str]) -> bool:
    """Whether two of these names are columns, so that a missing third is named."""
    found = _names_by_column(names)
    return sum(bool(found[column]) for column in (*REQUIRED, NUMBERS)) > 1


def read_cells(path: Path, content: bytes) -> tuple[list[Row], str]:
    """The rows of a file that are not blank, and what it calls the column of the person.

    Raises:
        UserError: no rows; a column that is needed and not there, or that two names may stand for.
    """
    if _is_workbook(content):
        rows = list(_with_header(_workbook_rows(path, content), path, "row"))
    else:
        try:
            text = _decode(content, "strict")
        except UnicodeDecodeError as error:
            found = f"'{path}' is not UTF-8 text (byte {error.start})"
            raise UserError(f"data.annotation_file: {found}; save it as 'CSV UTF-8'") from error
        is_json = text.lstrip()[:1] in ("[", "{")
        rows = list(_json_rows(text) if is_json else _with_header(_csv_rows(path, text), path, "line"))
    if not rows:
        raise UserError(f"data.annotation_file: '{path}' has no rows with captions")
    columns = dict.fromkeys(name for _, cells in rows if isinstance(cells, dict) for name in cells)
    names = names_of([name for name in columns if name != EXTRA], f"'{path}'") if columns else {}
    if others := {name: column for name, column in names.items() if name != column}:
        logger.info(
            "'%s': %s", path, ", ".join(f"'{name}' is read as {other}" for name, other in others.items())
        )
    renamed = [
        (
            where,
            {names.get(name, name): cell for name, cell in cells.items()}
            if isinstance(cells, dict)
            else cells,
        )
        for where, cells in rows
    ]
    return renamed, next((name for name, column in names.items() if column == "person_id"), "person_id")


def names_of(columns: Sequence[str], where: str) -> dict[str, str]:
    """{a name in the file: the column of `COLUMNS` that it stands for}, without columns that are not used.

    Raises:
        UserError: two names that may stand for one column, or a required column without a name.
    """
    by_column = _names_by_column(columns)
    by_column["person_id"] = by_column["person_id"] or by_column.pop(NUMBERS)
    found: dict[str, str] = {}
    for column in COLUMNS:
        names = by_column[column]
        if len(set(names)) > 1:
            either = " and ".join(f"'{name}'" for name in names)
            raise UserError(f"{where}: {either} may both be the column '{column}'; call one of them so")
        if len(names) > 1:
            raise UserError(f"{where}: two columns '{column}'; give each caption a row")
        if column in REQUIRED and not names:
            raise UserError(
                f"{where}: no column '{column}'; the header has {', '.join(columns):.80}. Also understood: "
                f"{', '.join(COLUMNS[column])}"
            )
        found |= dict.fromkeys(names, column)
    return found


def _names_by_column(columns: Sequence[str]) -> dict[str, list[str]]:
    """{column: the names in a file that may stand for it}; those of `NUMBERS` too."""
    found = {}
    for column, others in {**COLUMNS, NUMBERS: ()}.items():
        exact = [name for name in columns if plain(name) == plain(column)]
        found[column] = exact or [name for name in columns if plain(name) in map(plain, others)]
    return found


def plain(name: str) -> str:
    """A column's name as all its spellings have it: `Person ID`, `person-id` and `personId` are one."""
    return re.sub(r"[\W_]+", "", name.lower())


def _decode(content: bytes, errors: str) -> str:
    """Text of UTF-8, UTF-16 or UTF-32, with or without a mark; lines may end as on the first Macintosh."""
    text = content.decode(json.detect_encoding(content), errors).removeprefix("\ufeff")
    return text if "\n" in text else text.replace("\r", "\n")


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _json_rows(text: str) -> Iterator[Row]:
    """Of an array or an object of arrays, or of JSON lines: a line that is no JSON stands for itself."""
    document = _json(text)
    rows = _rows_in(document) or (_numbered(document, "record") if isinstance(document, list) else None)
    if rows is not None:
        yield from rows
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            row = _json(line)
            yield f"line {number}", line if row is None else row


def _rows_in(document: Any) -> list[Row] | None:
    """The rows of an array, of {split: array}, or of an object with one array of them; None: no rows.

    What is no array of rows is passed over, but under the name of a split, where only [] is.
    """
    if isinstance(document, list):
        first = document[0] if document else None
        names = _names_by_column([*first]) if isinstance(first, dict) else {}
        has_person = names.get("person_id") or names.get(NUMBERS)
        return (
            _numbered(document, "record")
            if names.get("image") and names.get("caption") and has_person
            else None
        )
    if not isinstance(document, dict):
        return None
    arrays = {name: items for name, items in document.items() if _rows_in(items) and isinstance(items, list)}
    splits = {name for name in document if name.strip().lower() in SPLIT_NAMES}
    if not splits:
        return _numbered(next(iter(arrays.values())), "record") if len(arrays) == 1 else None
    if arrays.keys() != {name for name in splits if document[name] != []}:
        return None
    return [
        (where, {"split": name, **item} if isinstance(item, dict) else item)
        for name, items in arrays.items()
        for where, item in _numbered(items, f"{name} record")
    ]


def _numbered(items: list[Any], word: str) -> list[Row]:
    return [(f"{word} {number}", item) for number, item in enumerate(items)]


def _with_header(lines: Iterable[tuple[int, list[str]]], path: Path, word: str) -> Iterator[Row]:
    """The rows below the first line that is not blank; cells beyond the header's are under `EXTRA`."""
    header: list[str] = []
    for number, cells in lines:
        cells = [cell.strip() for cell in cells]
        if not "".join(cells):
            continue
        if not header:
            header = [cell.lower() for cell in cells]
            names_of(header, f"'{path}' {word} {number}")
            continue
        extra = "".join(cells[len(header) :])
        row = dict(zip_longest(header, cells[: len(header)], fillvalue=""))
        yield f"{word} {number}", {**row, EXTRA: extra} if extra else row


def _split_header(text: str) -> tuple[str, list[str]]:
    """The separator of a CSV file, by its `sep=` line or its header, and the cells of the header."""
    first, _, rest = text.partition("\n")
    chosen = SEPARATOR_LINE.match(first)
    head = (rest.lstrip() if chosen else first).partition("\n")[0].strip()

    def cells(separator: str) -> list[str]:
        try:
            return next(csv.reader([head], delimiter=separator, skipinitialspace=True), [])
        except csv.Error:  # such as a line of megabytes
            return []

    def fit(separator: str) -> tuple[int, int]:
        names = _names_by_column(cells(separator))
        return sum(map(bool, names.values())), len(cells(separator))

    separator = chosen[1] if chosen else max(",;\t|", key=fit)
    return separator, cells(separator)


def _csv_rows(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """(line that the row begins in, its cells)."""
    separator, _ = _split_header(text.lstrip())
    file = io.StringIO(text, newline="")
    # csv skips spaces before a quoted cell, but not those behind it
    after_quotes = re.compile(f'(?<!")" +(?={re.escape(separator)}|\r?\n?$)')
    before = int(SEPARATOR_LINE.match(text.partition("\n")[0]) is not None)
    if before:
        file.readline()
    lines = (after_quotes.sub('"', line) for line in file)
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=True, strict=True)
    line = before + 1
    try:
        for cells in reader:
            yield line, cells
            line = before + reader.line_num + 1
    except csv.Error as error:
        advice = "put a cell with quotes in quotes, its own doubled"
        raise UserError(f"'{path}' line {line}: not CSV ({error}); {advice}") from error


def _is_workbook(content: bytes) -> bool:
    return content.startswith(b"PK\3\4") and b"xl/" in content


def _workbook_rows(path: Path, content: bytes) -> Iterator[tuple[int, list[str]]]:
    """(row, its cells as text) of the one sheet of an Excel workbook that is not empty."""
    try:
        from openpyxl import load_workbook
    except ModuleNotFoundError as error:
        advice = "pip install openpyxl, or save it as 'CSV UTF-8'"
        raise UserError(f"data.annotation_file: '{path}' is an Excel workbook; {advice}") from error
    try:
        workbook = load_workbook(io.BytesIO(content), read_only=True, data_only=True)
        sheets = {sheet.title: list(sheet.iter_rows(values_only=True)) for sheet in workbook.worksheets}
    except Exception as error:  # whatever a damaged archive makes of it
        reason = reason_of(error)
        advice = "save it as 'CSV UTF-8'"
        raise UserError(
            f"data.annotation_file: '{path}' is no workbook that can be read ({reason}); {advice}"
        ) from error
    filled = [
        title for title, rows in sheets.items() if any(cell is not None for row in rows for cell in row)
    ]
    if len(filled) > 1:
        found = ", ".join(f"'{title}'" for title in filled)
        raise UserError(
            f"data.annotation_file: '{path}' has the sheets {found}; expected one. Save it as 'CSV UTF-8'"
        )
    for number, row in enumerate(sheets[filled[0]] if filled else (), start=1):
        yield number, ["" if cell is None else str(cell) for cell in row]
