"""Released checkpoints against the published figures: the table, the verdict, the exit status."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import torch

from misc import verify_release
from misc.verify_release import FIGURES, PUBLISHED, compare_figures, main
from model import build_model
from options import load_options
from tests.helpers.tiny import SIZES

README = Path("README.md").read_text(encoding="utf-8")
ON_TINY = [
    f"{key}={value}" for key, value in SIZES.items() if key.startswith(("data.", "experiment.text_length"))
]
HEADS = ["model.image_heads=2", "model.text_heads=2", "misc.device=cpu", "data.num_workers=0"]


@pytest.fixture
def arguments(people: Path, tmp_path: Path) -> list[str]:
    """Of a tiny model at random under bare names, on the rendered data set."""
    torch.manual_seed(0)
    overrides = [f"{key}={value}" for key, value in SIZES.items()]
    model, _, _ = build_model(load_options("config/s.config.yaml", overrides), num_identities=0)
    torch.save({"model": model.clip.state_dict()}, tmp_path / "released.pth")
    given = ["--benchmark", "rstpreid", "--checkpoint", str(tmp_path / "released.pth")]
    given += ["--annotations", str(people), "--images", str(people / "imgs")]
    return [*given, "--output-dir", str(tmp_path / "run"), *ON_TINY, *HEADS]


def test_the_verdict_and_the_status_say_whether_the_figures_are_met(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    out = capsys.readouterr().out
    measured = json.loads((tmp_path / "run" / "results.json").read_text())["average"]["t2i"]
    for name, published in zip(FIGURES, (61.95, 83.55, 88.75, 48.26), strict=True):
        row = re.search(rf"^{name} +(\S+) +(\S+) +(\S+)   not met$", out, re.MULTILINE)
        assert row, out
        assert float(row[1]) == published
        assert float(row[2]) == pytest.approx(measured[name], abs=0.0051)
        assert float(row[3]) == pytest.approx(measured[name] - published, abs=0.0051)
    assert "released.pth does not meet the published figures within 0.1" in out

    figures = tuple(measured[name] + 0.05 for name in FIGURES)
    monkeypatch.setitem(verify_release.PUBLISHED["simplified"], "rstpreid", figures)
    assert main([*arguments, "--recipe", "simplified"]) == 0
    out = capsys.readouterr().out
    assert "not met" not in out
    assert "released.pth meets the published figures within 0.1" in out


@pytest.mark.parametrize(
    ("change", "meets"), [(0.1, True), (-0.1, True), (0.104, True), (0.11, False), (-0.11, False), (5, False)]
)
def test_the_limit_is_a_tenth_of_what_is_printed(change: float, meets: bool) -> None:
    published = (73.54, 88.19, 92.35, 65.38)
    measured = dict(zip(FIGURES, published, strict=True))
    measured["R5"] += change
    is_met, table = compare_figures(measured, published)
    assert is_met == meets
    assert [line.split()[0] for line in table.splitlines() if "not met" in line] == ([] if meets else ["R5"])


def test_the_published_figures_are_those_of_the_readme() -> None:
    for recipe, name in (("full", "TBPS-CLIP"), ("simplified", "Simplified TBPS-CLIP")):
        (row,) = re.findall(rf"^\| {name} ViT-B/16 \|(.*)\|$", README, re.MULTILINE)
        rows = [tuple(float(number) for number in cell.split("/")) for cell in row.split("|")]
        assert rows == list(PUBLISHED[recipe].values())
    assert (
        list(PUBLISHED["full"]) == ["cuhk-pedes", "icfg-pedes", "rstpreid"] == list(PUBLISHED["simplified"])
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--benchmark", "market"], ["--benchmark", "market", "rstpreid"]),
        (["--recipe", "half"], ["--recipe", "half", "simplified"]),
        (["--checkpoint", "none.pth"], ["none.pth", "does not exist"]),
        (["--checkpoint", ""], ["--checkpoint", "empty"]),
        (["--annotations", "nowhere"], ["data.annotation_file", "nowhere"]),
        (["--images", "nowhere"], ["data.image_root", "nowhere"]),
    ],
)
def test_a_mistake_is_one_line_and_status_two(
    change: list[str], said: list[str], arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, *change]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    for words in said:
        assert words in line


def test_the_make_target_passes_on_what_it_is_given() -> None:
    given = ["BENCHMARK=icfg-pedes", "CHECKPOINT=a b.pth", "RECIPE=simplified", "ANNOTATIONS=x", "IMAGES=y"]
    command = ["make", "--dry-run", "--silent", "--assume-old=.venv/ready", "verify-release"]
    done = subprocess.run([*command, *given], capture_output=True, text=True, check=True)
    words = " ".join(done.stdout.replace("\\\n", " ").split())
    assert words.endswith(
        '-m misc.verify_release --benchmark "icfg-pedes" --checkpoint "a b.pth" --recipe simplified '
        '--annotations "x" --images "y"'
    )
