"""A share of `python -m tests.fuzz`: hostile inputs end with status 0, or with 2 and one line."""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz.cases import Case
from tests.fuzz.goods import make_goods
from tests.fuzz.guard import run_case
from tests.fuzz.kinds import SHARES, draw_cases, strategies

Main = Callable[[Sequence[str]], int]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_goods(tmp_path_factory.mktemp("good").resolve())


@pytest.mark.parametrize("num_cases", [40, pytest.param(2000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", SHARES)
def test_hostile_inputs_end_with_one_line_and_leave_nothing_behind(
    kind: str, num_cases: int, good: Path
) -> None:
    for case in draw_cases(strategies(good)[kind], round(num_cases * SHARES[kind]), number=0):
        outcome = run_case(case, good)
        assert not outcome.faults, f"{case}\n{outcome.faults}"


@pytest.mark.slow
def test_hostile_inputs_to_programs_in_processes_of_their_own(good: Path) -> None:
    for kind, strategy in strategies(good).items():
        for case in draw_cases(strategy, 3, number=1):
            outcome = run_case(case, good, as_process=True)
            assert not outcome.faults, f"{kind}: {case}\n{outcome.faults}"


def writes_to_stderr(*lines: str) -> Main:
    """A program that writes these lines and ends with status 2."""

    def main(_: Sequence[str]) -> int:
        sys.stderr.writelines(line + "\n" for line in lines)
        return 2

    return main


def writes_and_removes(name: str) -> Main:
    """A program that writes a file and removes its folder."""

    def main(_: Sequence[str]) -> int:
        Path(name).parent.mkdir(parents=True)
        Path(name).write_text("x")
        shutil.rmtree(Path(name).parent)
        return 0

    return main


def test_the_guard_sees_what_it_guards_against(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def faults(main: Main, kept: dict[str, bytes] | None = None) -> list[str]:
        monkeypatch.setattr("main.main", main)
        return run_case(Case("main", (), kept or {}), good).faults

    assert faults(writes_to_stderr("error: one line")) == []
    assert faults(writes_to_stderr("warning: before it", "error: one line")) == []
    assert "not one line" in faults(writes_to_stderr("warning: no error"))[0]
    assert "not one line" in faults(writes_to_stderr("error: one", "two"))[0]
    assert "a traceback" in faults(writes_to_stderr("Traceback (most recent call last):"))[0]
    assert "status 3" in faults(lambda _: 3)[0]
    assert "ZeroDivisionError" in faults(lambda _: 1 // 0)[0]
    assert "outside" in faults(lambda _: Path("left.txt").write_text("x") and 0)[-1]
    assert "outside" in faults(lambda _: Path("a").write_text("xy") and 0, {"a": b"x"})[-1]
    in_out = writes_and_removes("out/parts/1.npy")
    assert faults(in_out) == []
    monkeypatch.setattr("tests.fuzz.guard.SECONDS", 0.2)
    assert "no end" in faults(lambda _: [None for _ in iter(int, 1)])[0]


@pytest.mark.parametrize("put", [os.rename, os.link, os.symlink, shutil.copyfile, shutil.move])
def test_the_guard_sees_where_a_file_goes(
    put: Callable[[str, str], Any], good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = str(tmp_path / "target")

    def main(_: Sequence[str]) -> int:
        source = Path(tempfile.gettempdir(), "source")
        source.write_text("x")
        put(str(source), target)
        return 0

    monkeypatch.setattr("main.main", main)
    assert any(target in fault for fault in run_case(Case("main", (), {}), good).faults)
