"""Tables, for your own data: CSV, JSON or an Excel workbook, with a row for each caption.

| column | |
|---|---|
| `image` | path below the image root |
| `person_id` | whole number or any text, such as a name; -1 for nobody |
| `caption` | one description; further ones of the image are rows of their own. Empty: nobody describes it |
| `split` | train, val or test. Without this column all rows are test: a set to evaluate on |
| `language` | such as en or zh. Without this column all captions are English |

`data.readers.cells` has other names of the columns that are understood. Other columns are ignored. CSV has a
header and is UTF-8 or UTF-16; cells are separated by commas, semicolons (as Excel writes them), tabs or "|",
and a caption that contains the separator is in double quotes. JSON is an object in each line, or an array of
them, where `caption` may hold several. Either every row has `split` (or `language`), or none.
"""

import logging
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data.readers.cells import EXTRA, NUMBERS, looks_like_rows, plain, read_cells
from data.readers.cells import Row as CellsOfRow
from data.records import (
    MALFORMED,
    NO_WORDS,
    REWRITES,
    UNPAIRED_SURROGATE,
    Report,
    field,
    image_path,
    pick_languages,
    read_bytes,
    read_record,
    read_split,
)
from data.types import NOBODY, SPLITS, ByLanguage, Format, Record, language_name
from options import UserError
from text_utils.captions import clean_caption

logger = logging.getLogger(__name__)

DEFAULTS = {"split": "test", "language": "en"}
MAX_DIGITS = 18  # of a person id that is a number: tensors hold 64 bits
NUMBER = re.compile(r"([+-]?\d+)(\.0*|,00?)?")  # a whole number, as people and spreadsheets write it
# What programs write for no value, and for numbers whose digits they may have dropped.
LOST = re.compile(r"nan|NaN|null|NULL|None|<NA>|#N/A|[+-]?\d+([.,]\d+)?[eE][+-]?\d+")
LIST = re.compile(r"\[\s*(['\"]).*\1\s*\]", re.DOTALL)  # as pandas writes one into a cell


@dataclass(frozen=True)
class Row:
    """A row of one caption, or a record of several; `person` as the table spells it, but for numbers."""

    record: Record  # of person 0
    person: str
    split: str


def recognises(path: Path, content: bytes, form: Format) -> bool:
    """Whether a file begins as a table does: with the header, or an object of these columns."""
    return bool(content) and looks_like_rows(content)


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
    return as_records(list(_read_rows(path, content, DEFAULTS, report)), path, splits, languages, report)


def read_files(
    files: Mapping[str, Mapping[str, Path]],
    folder: Path,
    splits: Sequence[str],
    languages: Sequence[str] | None,
    report: Report,
) -> dict[str, ByLanguage]:
    """As `read`, of {split: {language: a file of rows}} in `folder`; rows may name their language."""
    rows: list[Row] = []
    for split, by_language in files.items():
        for language, path in by_language.items():
            of_file = list(_read_rows(path, read_bytes(path), {"split": split, "language": language}, report))
            other = next((row.split for row in of_file if row.split != split), split)
            if other != split:
                raise UserError(f"'{path}': records of the {other} split, in the file of the {split} split")
            rows += of_file
    return as_records(rows, folder, splits, languages, report)


def as_records(
    rows: list[Row], path: Path, splits: Sequence[str], languages: Sequence[str] | None, report: Report
) -> dict[str, ByLanguage]:
    """A record for each row, as `read` returns them."""
    ids = _number_persons(row.person for row in rows)
    found: dict[str, ByLanguage] = {split: {} for split in SPLITS}
    for row in rows:
        record = replace(row.record, person_id=ids[row.person])
        found[row.split].setdefault(record.language, []).append(record)
    chosen = pick_languages(languages, {split: found[split] for split in splits}, path, report)
    return {split: {name: found[split][name] for name in names} for split, names in chosen.items()}


def _number_persons(persons: Iterable[str]) -> dict[str, int]:
    """{person as spelt: its number}."""
    nobody = {str(NOBODY): NOBODY}
    distinct = [person for person in dict.fromkeys(persons) if person not in nobody]
    if all(person.isdecimal() and len(person) <= MAX_DIGITS for person in distinct):
        return {person: int(person) for person in distinct} | nobody
    distinct.sort(key=lambda person: person != "0")  # which is nobody where no caption describes it
    return {person: number for number, person in enumerate(distinct)} | nobody


def _read_rows(path: Path, content: bytes, defaults: Mapping[str, str], report: Report) -> Iterator[Row]:
    cells_of_rows, person_name = read_cells(path, content)
    columns = {name for _, cells in cells_of_rows if isinstance(cells, dict) for name in cells}
    defaults = {name: value for name, value in defaults.items() if name not in columns}
    rows = parse_rows(cells_of_rows, defaults, path, report)
    _check_person_column(path, person_name, rows)
    yield from rows


def parse_rows(
    cells_of_rows: Sequence[CellsOfRow], defaults: Mapping[str, str], path: Path, report: Report
) -> list[Row]:
    """The rows of `read_cells`, without malformed ones, which are reported; `defaults`: of other columns."""
    rows = []
    for place, cells in cells_of_rows:
        where = f"'{path}' {place}"
        try:
            row = _read_row({**defaults, **cells} if isinstance(cells, dict) else cells, where, report)
        except UserError as error:
            report(MALFORMED, str(error))
            continue
        rows += [row] if row else []
    return rows


def _read_row(cells: Any, where: str, report: Report) -> Row | None:
    """None: malformed, and reported. Raises UserError where a column is missing or holds something else."""
    if isinstance(cells, dict) and EXTRA in cells:
        raise UserError(
            f"{where}: more cells than the header has columns (from {cells[EXTRA]!r:.40} on); a caption "
            "that contains the separator must be in double quotes"
        )
    stripped = cells
    if isinstance(cells, dict):
        stripped = {name: cell.strip() if isinstance(cell, str) else cell for name, cell in cells.items()}
    image = image_path(stripped, "image", where)
    person = _person(stripped.get("person_id"), where)
    language = field(stripped, "language", str, where)
    if not language:
        raise UserError(f"{where}: field 'language' should be a language such as en, found ''")
    split, captions, language = (
        read_split(stripped, where),
        stripped.get("caption", ""),
        language_name(language),
    )
    if isinstance(captions, list) or (captions and stripped.get(REWRITES)):
        item = {**stripped, "id": 0, "captions": captions if isinstance(captions, list) else [captions]}
        record = read_record(item, "image", language, where, report)
        return Row(record, person, split) if record else None
    caption = "" if captions is None else field(stripped, "caption", str, where)
    if LIST.fullmatch(caption):
        raise UserError(f"{where}: field 'caption' holds a list, {caption!r:.40}; give each caption a row")
    if caption and not clean_caption(caption):
        report(NO_WORDS, f"{where}: field 'caption' should have words, found {caption!r:.40}")
    return Row(Record(image, 0, (caption,) if caption else (), (), language), person, split)


def _person(value: Any, where: str) -> str:
    """The one spelling of a person: 7, 7.0 and 007 are 7, a name has one Unicode form and single spaces."""
    if type(value) is int or (type(value) is float and value.is_integer()):
        return str(int(value))
    is_text = isinstance(value, str) and value.strip() and not UNPAIRED_SURROGATE.search(value)
    if not is_text or LOST.fullmatch(value.strip()):
        expected = "should be a whole number or a name"
        raise UserError(f"{where}: field 'person_id' {expected}, found {value!r:.40}")
    name = unicodedata.normalize("NFC", " ".join(value.split()))
    number = NUMBER.fullmatch(name) if len(name) <= MAX_DIGITS else None
    return str(int(number[1])) if number else name


def _check_person_column(path: Path, name: str, rows: Sequence[Row]) -> None:
    """Whether a column that may number the images (`NUMBERS`) or the rows (`id`) holds persons.

    Raises:
        UserError: it may number something else.
    """
    persons = {row.person for row in rows}
    images = {row.record.image for row in rows}
    if plain(name) == plain(NUMBERS):
        pairs = {(row.split, row.person, row.record.image) for row in rows}
        if len({pair[:2] for pair in pairs}) == len(pairs):
            found = f"'{path}': '{name}' may number the images or the persons: no two images share one"
            raise UserError(f"{found}. Call it 'person_id' if it is the person, else add that column")
        logger.warning("'%s': '%s' is taken for the person, as several images share one", path, name)
    elif plain(name) == "id" and len(persons) == len(rows) > 1:
        if len(images) < len(rows):
            found = f"'{path}': 'id' is another one in each row, also in those of one image"
            raise UserError(f"{found}: it numbers the rows. Add a column 'person_id'")
        logger.warning("'%s': 'id' is taken for the person, and is another one in each row", path)
