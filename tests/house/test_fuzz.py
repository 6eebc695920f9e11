"""A share of `python -m tests.fuzz`: hostile inputs end with status 0, or with 2 and one line."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz.goods import make_goods
from tests.fuzz.guard import run_case
from tests.fuzz.kinds import SHARES, draw_cases, strategies

NUM_CASES = 60


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_goods(tmp_path_factory.mktemp("good").resolve())


@pytest.mark.parametrize("kind", SHARES)
def test_hostile_inputs_end_with_one_line_and_leave_nothing_behind(kind: str, good: Path) -> None:
    for case in draw_cases(strategies(good)[kind], round(NUM_CASES * SHARES[kind]), number=0):
        outcome = run_case(case, good)
        assert not outcome.faults, f"{case}\n{outcome.faults}"


def test_the_guard_sees_what_it_guards_against(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.fuzz.cases import Case

    def exit_status(main: object, kept: dict[str, bytes] | None = None) -> list[str]:
        monkeypatch.setattr("main.main", main)
        return run_case(Case("main", (), kept or {}), good).faults

    def speaks(*lines: str) -> object:
        import sys

        return lambda _: (sys.stderr.write("".join(line + "\n" for line in lines)), 2)[1]

    assert exit_status(speaks("error: one line")) == []
    assert "not one line" in exit_status(speaks("error: one", "two"))[0]
    assert "a traceback" in exit_status(speaks("Traceback (most recent call last):"))[0]
    assert "status 3" in exit_status(lambda _: 3)[0]
    assert "ZeroDivisionError" in exit_status(lambda _: 1 // 0)[0]
    assert "outside" in exit_status(lambda _: Path("left.txt").write_text("x") and 0)[-1]
    assert "outside" in exit_status(lambda _: Path("a").write_text("xy") and 0, {"a": b"x"})[-1]
    monkeypatch.setattr("tests.fuzz.guard.SECONDS", 0.2)
    assert "no end" in exit_status(lambda _: [None for _ in iter(int, 1)])[0]


def test_the_guard_sees_where_a_file_goes(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.fuzz.cases import Case

    for number, put in enumerate((os.rename, os.link, os.symlink, shutil.copyfile, shutil.move)):
        there = tmp_path / f"there-{number}"

        def main(_: object, put: Any = put, there: Path = there) -> int:
            here = Path(tempfile.gettempdir(), "here")
            here.write_text("x")
            put(str(here), str(there))
            return 0

        monkeypatch.setattr("main.main", main)
        faults = run_case(Case("main", (), {}), good).faults
        assert any(str(there) in fault for fault in faults), (put, faults)
