"""The figures of docs/search.md on people in scenes and videos."""

import re
from pathlib import Path

import pytest

from data.synthetic.__main__ import main as draw
from misc.search.benchmark_people import main
from tests.helpers.search import save_run


@pytest.mark.slow
def test_true_boxes_are_found_as_their_crops_are_and_tracks_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("cv2", reason="pip install -r requirements-people.txt")
    pytest.importorskip("av", reason="pip install -r requirements-people.txt")
    assert draw(["--scenes", "4", "--videos", "2", "--out", str(tmp_path / "scenes"), "--workers", "1"]) == 0
    assert main([str(save_run(tmp_path / "run.pth")), str(tmp_path / "scenes")]) == 0
    out = capsys.readouterr().out
    figures = dict(re.findall(r"^\| (true boxes[\w ]*) \|(.+?\|.+?\|.+?)\|", out, re.MULTILINE))
    assert len(figures) == 2
    assert figures["true boxes"].split() == figures["true boxes cut out by hand"].split()
    assert re.search(r"6 appearances of \d persons in videos, \d+ tracks", out)
    assert main([str(tmp_path / "run.pth"), str(tmp_path)]) == 2
    assert "has no boxes.json" in capsys.readouterr().err
