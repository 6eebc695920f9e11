"""PAB, people in ordinary and anomalous situations (ICCV 2025): JSON lines of an image and its captions.

A line has `image` (in the folder "train/" or "test/" of the image root), `caption` (a text; a list in the
test split) and `image_id`, which tells what images a caption finds: it takes the place of the person. Other
fields are ignored. The split is the first folder of `image`: "train" is train, every other one is test. Lines
of several files may be joined into one.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from data.readers import table
from data.readers.cells import COLUMNS, NUMBERS, Row, read_cells
from data.records import Report
from data.types import ByLanguage, Format

FIELDS = {"image", "caption", NUMBERS}
FOLDERS = ("train/", "test/")


def recognises(path: Path, content: bytes, form: Format) -> bool:
    """JSON lines whose first has these fields, an image of these folders, and no other column of a table."""
    if not content.lstrip().startswith(b"{"):
        return False
    try:
        first = json.loads(content.lstrip().partition(b"\n")[0])
    except (ValueError, RecursionError):
        return False
    is_other_table = bool(first.keys() & {*COLUMNS} - FIELDS)
    return first.keys() >= FIELDS and not is_other_table and str(first["image"]).startswith(FOLDERS)


def read(
    path: Path,
    content: bytes,
    form: Format,
    splits: Sequence[str],
    languages: Sequence[str] | None,
    report: Report,
) -> dict[str, ByLanguage]:
    """See `data.formats`. Ids that are not all whole numbers are numbered from 0 in order of appearance."""
    rows = [_with_split(row) for row in read_cells(path, content)[0]]
    parsed = table.parse_rows(rows, {"language": "en"}, path, report)
    return table.as_records(parsed, path, splits, languages, report)


def _with_split(row: Row) -> Row:
    where, cells = row
    if not isinstance(cells, dict):
        return row
    return where, {**cells, "split": "train" if str(cells.get("image")).startswith("train/") else "test"}
