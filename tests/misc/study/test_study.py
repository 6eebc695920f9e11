"""The study: its figures, that it resumes, and its error for a run that fails."""

import json
import math
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from main import main as run_main
from misc.study.__main__ import RECIPES, Run, main
from misc.study.report import Found, Outcome, Part, summarise, write_report
from options import LOSSES, UserError, load_options

TITLES = {"no-trick": "plain", "sdm": "other"}
FIGURES = {  # R@1 and mAP of three seeds
    "no-trick": ((10.0, 20.0), (12.0, 22.0), (17.0, 27.0)),
    "sdm": ((50.0, 60.0), (50.0, 61.0), (50.0, 62.0)),
}


def outcomes(figures: dict[str, tuple[tuple[float, float], ...]] = FIGURES) -> list[Outcome]:
    return [
        Outcome(recipe, seed, 6400, 30.0 + seed**4, rank1, mean_ap)
        for recipe, values in figures.items()
        for seed, (rank1, mean_ap) in enumerate(values)
    ]


def write_metrics(folder: Path, lines: list[dict[str, Any]]) -> None:
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


class InThisProcess:
    """`subprocess.Popen` of `main.py`, without the start of an interpreter."""

    def __init__(self, command: list[str], **_: object) -> None:
        assert command[:2] == [sys.executable, str(Path("main.py").resolve())]
        self.returncode = run_main(command[2:])

    def poll(self) -> int:
        return self.returncode


@pytest.fixture
def study_config(people: Path, tmp_path: Path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(
        f"""
base: {Path("config/study.yaml").resolve()}
model: {{patch_size: 16, image_width: 16, image_layers: 1, image_heads: 2, text_width: 16, text_layers: 1,
  text_heads: 2, embed_dim: 16}}
data: {{annotation_file: '{people}', image_root: '{people}/imgs', image_size: [64, 32], batch_size: 16}}
""",
        encoding="utf-8",
    )
    return path


def test_the_recipes_differ_as_their_names_say(study_config: Path) -> None:
    options = {name: Run(name, 5, study_config, Path("x")).options() for name in RECIPES}
    on = {name: [loss for loss in LOSSES if getattr(o.experiment, loss)] for name, o in options.items()}
    assert on == {
        "no-trick": ["nitc"],
        "simplified": ["nitc", "ritc"],
        "full": ["nitc", "ritc", "citc", "ss"],
        "sdm": ["sdm"],
        "tal": ["tal"],
        "irra": ["mlm", "id", "sdm"],
        **{name: ["tal", "tse"] for name in ("rde", "rde-noise", "rde-noise-without")},
    }
    plain = options["no-trick"]
    assert (plain.experiment.image_aug, plain.experiment.text_aug) == ("none", "none")
    assert plain.experiment.dropout == plain.model.softlabel_ratio == 0
    assert plain.experiment.back_trans is False
    for name in ("sdm", "tal"):  # on the terms of the simplified recipe
        for field in ("image_aug", "text_aug", "eda_alpha", "back_trans", "dropout"):
            assert getattr(options[name].experiment, field) == getattr(
                options["simplified"].experiment, field
            )
    noisy, without = options["rde-noise"], options["rde-noise-without"]
    assert (noisy.data.noise, noisy.experiment.ccd, without.experiment.ccd) == (0.3, True, False)
    assert replace(without, experiment=noisy.experiment) == noisy, "nothing else differs"
    assert {o.misc.seed for o in options.values()} == {5}
    assert len({o.schedule.lr for o in options.values()}) == 1


def test_mean_and_sample_standard_deviation_are_those_worked_out_by_hand() -> None:
    row = summarise(outcomes()[:3], "plain")
    assert row.rank1 == pytest.approx((13.0, math.sqrt((9 + 1 + 16) / 2)))
    assert row.mean_ap == pytest.approx((23.0, math.sqrt(13)))
    assert (row.num_samples, row.seconds) == (6400, [30.0, 31.0, 46.0])


def test_figures_and_cost_are_read_from_the_files_of_a_run(study_config: Path, tmp_path: Path) -> None:
    run = Run("tal", 2, study_config, tmp_path)
    place = {"kind": "train", "epoch": 1, "steps_per_epoch": 60, "lr": 1.0, "loss": 1.0, "parts": {}}
    costs = {50: 8.0, 60: 3.5, 110: 4.5}
    lines = [place | {"step": step, "seconds": 9.0, "cpu_seconds": cpu} for step, cpu in costs.items()]
    other = {"t2i": {"R1": 99.0, "mAP": 99.0}}
    divisions = [(2, 0.5, 0.25, 0.75), (2, 0.4, 0.5, 0.625)]  # the run was killed, and divided again
    lines += [
        {"kind": "division", "epoch": epoch, "step": 61, "noisy_share": share, "precision": p, "recall": r}
        for epoch, share, p, r in divisions
    ]
    lines.insert(
        2, {"kind": "eval", "epoch": 1, "split": "test", "average": other, "languages": {}, "best": True}
    )
    write_metrics(tmp_path, lines)
    figures = {"t2i": {"R1": 12.5, "mAP": 20.25}, "i2t": {"R1": 1.0, "mAP": 2.0}}
    (tmp_path / "results.json").write_text(json.dumps({"split": "test", "average": figures}))
    # batches of 16: 110 steps are 1760 samples
    assert run.outcome() == Outcome("tal", 2, 1760, 16.0, 12.5, 20.25, {2: Found(0.4, 0.5, 0.625)})

    del lines[1]["cpu_seconds"]
    write_metrics(tmp_path, lines)
    with pytest.raises(UserError, match="expected cpu_seconds in every line"):
        run.outcome()


def test_the_report_says_what_the_numbers_say(tmp_path: Path) -> None:
    part = Part(TITLES, load_options("config/study.yaml"))
    write_report(outcomes(), part, None, tmp_path)
    text = (tmp_path / "study.md").read_text(encoding="utf-8")
    assert "| plain | 6,400 | 31 s (30-46) | 13.00 ± 3.61 | 23.00 ± 3.61 |" in text
    assert "| other | 6,400 | 31 s (30-46) | 50.00 ± 0.00 | 61.00 ± 1.00 |" in text
    assert (
        "other is 37.00 R@1 above plain, more than twice the spread of the seeds (3.61): it helps here."
        in text
    )
    assert "Highest R@1: other, 50.00 ± 0.00.\n" in text
    assert Image.open(tmp_path / "study.png").width > 1000

    worse = FIGURES | {"sdm": ((9.0, 1.0), (11.0, 1.0), (13.0, 1.0))}
    write_report(outcomes(worse), part, None, tmp_path)
    text = (tmp_path / "study.md").read_text(encoding="utf-8")
    assert "Highest R@1: plain, 13.00 ± 3.61. Within the spread of it: other.\n" in text
    assert "other is 2.00 R@1 below plain, which is within the spread of the seeds (4.12)" in text

    hint = FIGURES | {"sdm": ((18.0, 1.0), (18.0, 1.0), (18.0, 1.0))}
    write_report(outcomes(hint), part, None, tmp_path)
    text = (tmp_path / "study.md").read_text(encoding="utf-8")
    assert (
        "other is 5.00 R@1 above plain, more than the spread of the seeds (3.61) and less than twice" in text
    )

    worst = FIGURES | {"sdm": ((1.0, 1.0), (1.0, 1.0), (1.0, 1.0))}
    write_report(outcomes(worst), part, None, tmp_path)
    assert "it does not help here" in (tmp_path / "study.md").read_text(encoding="utf-8")


def test_the_report_of_wrong_captions_has_the_mean_of_the_divisions(tmp_path: Path) -> None:
    divisions = ({2: Found(0.5, 0.25, 0.5)}, {2: Found(0.25, 0.5, 0.25), 3: Found(0.25, 0.75, 0.5)})
    divisions = (*divisions, {2: Found(0.0, None, 0.0), 3: Found(0.25, 1.0, 1.0)})
    noisy = [
        replace(one, divisions=divisions[one.seed]) if one.recipe == "sdm" else one for one in outcomes()
    ]
    titles = {"sdm": "with it", "no-trick": "without it"}
    overrides = ["data.noise=0.3", "experiment.ccd_first_epoch=2"]
    write_report(noisy, None, Part(titles, load_options("config/study.yaml", overrides)), tmp_path)
    text = (tmp_path / "study.md").read_text(encoding="utf-8")
    assert "30 % of the training captions of `datasets/study` are exchanged (`data.noise=0.3`)" in text
    assert "| with it | 6,400 | 31 s (30-46) | 50.00 ± 0.00 | 61.00 ± 1.00 |" in text
    assert "| 2 | 25.0 % | 37.5 % | 25.0 % |\n| 3 | 25.0 % | 87.5 % | 75.0 % |\n" in text
    assert "- with it is 37.00 R@1 above without it, more than twice the spread of the seeds" in text
    assert "are +40.00, +38.00, +33.00: +37.00 on average, more than their own spread (3.61)." in text
    assert "Equal compute" not in text
    assert not (tmp_path / "study.png").exists()


def test_a_study_resumes_keeps_finished_runs_and_replaces_those_of_other_options(
    study_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("subprocess.Popen", InThisProcess)
    runs, out = tmp_path / "runs", tmp_path / "out"
    other = Run("no-trick", 0, study_config, runs / "no-trick-0")
    other.folder.mkdir(parents=True)
    shutil.copy(study_config, other.folder / "options.yaml")  # of the full recipe, into another folder
    (other.folder / "results.json").write_text("{}")
    assert not other.can_resume()
    command = ["--config", str(study_config), "--runs", str(runs), "--out", str(out), "--seeds", "0"]
    command += ["--recipes", "no-trick", "full"]
    assert main(command) == 0
    assert other.is_finished()
    assert json.loads((other.folder / "results.json").read_text())["split"] == "test"
    table = (out / "study.md").read_text(encoding="utf-8")
    before = {path: path.stat().st_mtime_ns for path in other.folder.rglob("*") if path.is_file()}
    figures = json.loads((runs / "full-0" / "results.json").read_text())["average"]["t2i"]
    steps = [json.loads(line) for line in (runs / "full-0" / "metrics.jsonl").read_text().splitlines()]
    num_samples = 16 * max(step["step"] for step in steps)
    assert f"| TBPS-CLIP, full | {num_samples} |" in table
    assert f"| {figures['R1']:.2f} | {figures['mAP']:.2f} |" in table

    (runs / "full-0" / "results.json").unlink()  # interrupted after its last epoch, before its report
    assert main(command) == 0
    again = json.loads((runs / "full-0" / "results.json").read_text())["average"]["t2i"]
    assert again == figures
    assert before
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())

    (other.folder / "options.yaml").write_text("experiment: {no_such_option: 1}")  # of another version
    assert not other.is_finished()


def test_a_run_that_fails_is_named_with_its_last_lines(
    study_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study_config.write_text(study_config.read_text().replace("image_size: [64, 32]", "image_size: [65, 32]"))
    folders = ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    command = ["--config", str(study_config), *folders]
    assert main([*command, "--seeds", "0", "--recipes", "tal"]) == 2
    error = capsys.readouterr().err
    assert "the run tal-0 ended with status 2" in error
    assert "data.image_size" in error
    assert not (tmp_path / "out").exists()
