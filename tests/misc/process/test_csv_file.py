"""CSV files: a cell is never a formula, and what was written can be read back."""

import csv
import io
from pathlib import Path

import pytest

from misc.process.csv_file import unescape, write_csv

FORMULAS = (
    *("=1+1", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "  =1", "\u00a0=1", '"=1"', "'=1"),
    *("＝1", "＋1", "－cmd", "＠x", "-1.jpg", "- a man", "=", "\u200b=1", "''=1", "-5 ", "--5", "-5%"),
)
TEXTS = ("a man", "-5", "+0.5", "-1e-05", "1-2", "a=b", "'a'", "'", "", "red, blue", 'a "b"')


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_begins_with_an_apostrophe_and_is_read_back(text: str) -> None:
    (row,) = written({"text": text})
    assert row["text"] == f"'{text}"
    assert unescape(row["text"]) == text


@pytest.mark.parametrize("text", TEXTS)
def test_other_texts_stay_as_they_are(text: str) -> None:
    (row,) = written({"text": text})
    assert row["text"] == unescape(row["text"]) == text


def test_negative_numbers_are_numbers(tmp_path: Path) -> None:
    rows = [{"text": "=x", "score": -0.5}, {"text": "红色", "score": -1e-7}, {"text": "c", "score": -3}]
    with (tmp_path / "a.csv").open("w", encoding="utf-8-sig", newline="") as file:
        write_csv(file, ["text", "score"], rows)
    with (tmp_path / "a.csv").open(encoding="utf-8-sig", newline="") as file:
        found = [(unescape(row["text"]), float(row["score"])) for row in csv.DictReader(file)]
    assert found == [(row["text"], row["score"]) for row in rows]


def written(*rows: dict[str, object]) -> list[dict[str, str]]:
    text = io.StringIO(newline="")
    write_csv(text, list(rows[0]), rows)
    return list(csv.DictReader(io.StringIO(text.getvalue(), newline="")))


def test_every_csv_is_written_here() -> None:
    for folder in ("config", "data", "misc", "model"):
        for path in Path(folder).rglob("*.py"):
            if path != Path("misc/process/csv_file.py"):
                assert "csv.DictWriter" not in path.read_text(encoding="utf-8"), path
                assert "csv.writer" not in path.read_text(encoding="utf-8"), path
