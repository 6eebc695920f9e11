"""docs/study.md and what lies beside it are those that the stored runs give."""

from pathlib import Path

import pytest

from misc.study.__main__ import main

DOCS = Path("docs")


@pytest.mark.parametrize("name", ["study.md", "study/study.csv", "study/study.tex"])
def test_the_document_is_made_of_its_stored_runs(name: str, tmp_path: Path) -> None:
    assert main(["--report", str(DOCS / "study/runs.jsonl"), "--out", str(tmp_path)]) == 0
    assert (tmp_path / name).read_text(encoding="utf-8") == (DOCS / name).read_text(encoding="utf-8")
