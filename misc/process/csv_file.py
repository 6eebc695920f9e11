"""CSV files that spreadsheets open as what they are: UTF-8, and no cell a formula."""

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TextIO

ENCODING = "utf-8-sig"  # of a file: spreadsheets detect UTF-8 by the byte order mark
FORMULA = re.compile(r"""[\s'"\ufeff\u200b]*[=+\-@＝＋－＠]|[\t\r\n]""")
NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?", re.ASCII)


def write_csv(
    file: TextIO,
    columns: Sequence[str],
    rows: Iterable[Mapping[str, object]],
    lineterminator: str = "\r\n",
) -> None:
    """Write a header and the rows. A text that a spreadsheet would run as a formula begins with an apostrophe
    in the file, which `unescape` takes away; numbers, negative ones included, stay as they are.
    """
    writer = csv.DictWriter(file, columns, lineterminator=lineterminator)
    writer.writeheader()
    writer.writerows({name: _escape(value) for name, value in row.items()} for row in rows)


def unescape(cell: str) -> str:
    """The text that `write_csv` wrote as `cell`."""
    return cell[1:] if cell.startswith("'") and _is_formula(cell[1:]) else cell


def _escape(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and _is_formula(value) else value


def _is_formula(text: str) -> bool:
    """Whether the text begins with =, +, -, @, a tab or a line break, also after spaces and quotes."""
    return FORMULA.match(text) is not None and NUMBER.fullmatch(text) is None
