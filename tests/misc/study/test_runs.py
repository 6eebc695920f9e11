"""A study from its plan to its report: what it runs, keeps, resumes and replaces; runs that fail."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from main import main as run_main
from misc.study.__main__ import main
from misc.study.expand import training_runs
from misc.study.plan import read_plan
from misc.study.runs import FAILED, FINISHED, NEW, Job, devices, digest

TINY = (
    *("misc.device=cpu", "data.image_size=[64,32]", "data.batch_size=16", "data.num_workers=0"),
    *("model.clip_pretrained=null", "model.patch_size=16", "model.image_width=16", "model.image_layers=1"),
    *("model.image_heads=2", "model.text_width=16", "model.text_layers=1", "model.text_heads=2"),
    *("model.embed_dim=16", "model.lock_patch_embedding=false", "schedule.epoch=2"),
    "log.print_period=1",
)
Study = Callable[..., int]


class InThisProcess:
    """`subprocess.Popen` of `main.py`, without the start of an interpreter."""

    def __init__(self, command: list[str], stdout: Any, **_: object) -> None:
        assert command[:2] == [sys.executable, str(Path("main.py").resolve())]
        self.returncode = run_main(command[2:])
        if self.returncode:
            stdout.write(b"first line\nerror: what main.py says\n")

    def poll(self) -> int:
        return self.returncode


@pytest.fixture
def plan(people: Path, tmp_path: Path) -> Path:
    files = [f"data.annotation_file={people}", f"data.image_root={people}/imgs"]
    content = {
        "title": "A trial",
        "text": "Of the runner.",
        "options": list(TINY),
        "recipes": {
            "simplified": {"title": "Simplified", "config": str(Path("config/s.config.yaml").resolve())},
            "tal": {
                "title": "TAL",
                "config": str(Path("config/s.config.yaml").resolve()),
                "options": ["experiment.tal=true", "experiment.nitc=false", "experiment.ritc=false"],
                "against": "simplified",
            },
        },
        "sets": {"here": {"title": "Here", "options": files}},
        "seeds": [0, 1],
        "quick": {"options": ["schedule.epoch=1"]},
    }
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


@pytest.fixture
def study(plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.setattr("subprocess.Popen", InThisProcess)
    monkeypatch.setattr("misc.study.calibrate.ROUNDS", 2)
    monkeypatch.setattr("misc.study.calibrate.WARM_UP", 1)
    return lambda *flags: main(["--plan", str(plan), "--runs", str(tmp_path / "runs"), *flags])


def jobs_of(plan: Path, folder: Path) -> dict[str, Job]:
    return {run.name: Job(run) for run in training_runs(read_plan(plan), folder)}


def times_of(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "study/study.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_figures_and_cost_are_those_in_the_files_of_the_runs(study: Study, tmp_path: Path) -> None:
    assert study("--seeds", "0", "--recipes", "simplified") == 0
    runs = tmp_path / "runs"
    folder = runs / "simplified-here-0"
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [one for one in records if one["kind"] == "train"]
    on_test = [one["average"]["t2i"] for one in records if one["kind"] == "eval" and one["split"] == "test"]
    results = json.loads((folder / "results.json").read_text())["average"]["t2i"]
    by_split = {row["epoch_by"]: row for row in rows_of(runs)}
    assert {name: float(by_split["val"][name]) for name in results} == pytest.approx(results, abs=1e-4)
    assert float(by_split["test"]["R1"]) == pytest.approx(max(one["R1"] for one in on_test), abs=1e-4)
    assert int(by_split["val"]["num_samples"]) == 16 * max(one["step"] for one in steps)
    assert float(by_split["val"]["seconds"]) == pytest.approx(sum(s["cpu_seconds"] for s in steps), abs=0.06)
    assert int(by_split["val"]["peak_bytes"]) == max(one["peak_bytes"] for one in steps) > 50e6
    text = (runs / "study.md").read_text(encoding="utf-8")
    assert f"| Simplified | {by_split['val']['num_samples']} |" in text
    assert f"| {results['R1']:.2f} | {results['mAP']:.2f} |" in text


def test_seconds_are_the_least_that_a_run_of_the_recipe_took(study: Study, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    assert study("--seeds", "0", "1") == 0
    _, *lines = [json.loads(line) for line in (runs / "study/runs.jsonl").read_text().splitlines()]
    text = (runs / "study.md").read_text(encoding="utf-8")
    for recipe in {line["recipe"] for line in lines}:
        of_recipe = [line for line in lines if line["recipe"] == recipe]
        seconds = [line["cost"]["seconds"] for line in of_recipe]
        first = of_recipe[0]
        cells = f"{first['cost']['num_samples']} | {min(seconds):.0f} (to {max(seconds):.0f})"
        assert f"| {first['title']} | {cells} |" in text
    assert "the least that any run" in text


def test_finished_runs_are_kept_and_others_are_run_again(
    study: Study, plan: Path, people: Path, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    assert study() == 0
    before, text = times_of(runs), (runs / "study.md").read_bytes()
    jobs = jobs_of(plan, runs)
    assert {job.state() for job in jobs.values()} == {FINISHED}
    (runs / "tal-here-1" / "results.json").unlink()  # killed before its report
    (runs / "simplified-here-1" / "results.json").unlink()
    (runs / "simplified-here-1.json").write_text("{}")  # of another version, or of other data
    assert (jobs["simplified-here-1"].state(), jobs["tal-here-1"].state()) == (NEW, "interrupted")
    assert study() == 0
    after = times_of(runs)
    kept = {path for path in before if path.parent.name in ("simplified-here-0", "tal-here-0")}
    assert kept
    assert all(after[path] == before[path] for path in kept)
    names = [
        cell for line in text.decode().splitlines() if line.startswith("| TAL |") for cell in line.split("|")
    ]
    again = [
        c
        for line in (runs / "study.md").read_text().splitlines()
        if line.startswith("| TAL |")
        for c in line.split("|")
    ]
    assert [names[i] for i in (1, 2, 5, 6, 7, 8)] == [again[i] for i in (1, 2, 5, 6, 7, 8)]


def test_other_annotations_under_the_same_name_are_another_run(
    study: Study, plan: Path, people: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in people.glob("*.json"):
        (copy / file.name).write_bytes(file.read_bytes())
    plan.write_text(plan.read_text().replace(f"annotation_file={people}", f"annotation_file={copy}"))
    flags = ("--seeds", "0", "--recipes", "tal")
    assert study(*flags) == 0
    job = jobs_of(plan, tmp_path / "runs")["tal-here-0"]
    assert job.is_same()
    with (copy / "test_reid_en.json").open("a") as file:
        file.write("\n")
    digest.cache_clear()
    assert not job.is_same()
    assert job.state() == NEW


def test_a_run_that_fails_is_a_row_with_its_reason_and_the_others_go_on(
    study: Study, plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = yaml.safe_load(plan.read_text())
    content["recipes"]["tal"]["options"].append("data.annotation_file=/nowhere")
    plan.write_text(yaml.safe_dump(content), encoding="utf-8")
    runs = tmp_path / "runs"
    assert study("--seeds", "0") == 1
    text = (runs / "study.md").read_text(encoding="utf-8")
    assert "| TAL | here | 0 % | 0 | status 2: error: what main.py says |" in text
    assert "| TAL | - | - | - | - | - | - | - |" in text
    assert [row["failure"] for row in rows_of(runs) if row["recipe"] == "tal"] == [
        "status 2: error: what main.py says"
    ]
    assert "2 runs, 1 of them failed" in capsys.readouterr().out
    assert jobs_of(plan, runs)["tal-here-0"].state() == FAILED
    assert jobs_of(plan, runs)["simplified-here-0"].state() == FINISHED


def test_the_report_is_made_again_from_its_stored_runs_alone(study: Study, tmp_path: Path) -> None:
    out, again = tmp_path / "out", tmp_path / "again"
    assert study("--out", str(out), "--seeds", "0") == 0
    assert study("--report", str(out / "study/runs.jsonl"), "--out", str(again), "--seeds", "0") == 0
    files = [path.relative_to(out) for path in out.rglob("*") if path.is_file()]
    assert {path.name for path in files} == {"study.md", "runs.jsonl", "study.csv", "study.tex", "runs.png"}
    for path in files:
        assert (out / path).read_bytes() == (again / path).read_bytes(), path


def test_a_dry_run_names_states_and_commands_and_runs_nothing(
    study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert study("--dry-run", "--seeds", "3") == 0
    states, commands = [], []
    for line in capsys.readouterr().out.splitlines():
        (commands if line.startswith("  ") else states).append(line)
    *states, total = states
    assert [state.partition(" (")[0] for state in states] == ["to do: simplified-here-3", "to do: tal-here-3"]
    assert all(re.search(r"\(\d+ epochs of 40 samples, 0\.0 PFLOP, 0\.00 h\)$", state) for state in states)
    assert total.startswith("Expected, of what is not finished: 0.0 h of one device at 40 TFLOP/s")
    assert all("main.py --config" in line and "misc.seed=3" in line for line in commands)
    assert not (tmp_path / "runs").exists()


def test_the_epochs_of_equal_cost_are_measured_and_nothing_is_run(
    study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert study("--calibrate", "1") == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert [line.split()[0] for line in lines] == ["simplified", "tal"]
    assert all("s an epoch of" in line and "schedule.epoch=" in line for line in lines)
    assert not (tmp_path / "runs").exists()


def test_each_run_has_gpus_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 5)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert devices(False, 2) == [{"CUDA_VISIBLE_DEVICES": "0,1"}, {"CUDA_VISIBLE_DEVICES": "2,3"}]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-a")
    assert devices(False, 1) == [{"CUDA_VISIBLE_DEVICES": "4"}, {"CUDA_VISIBLE_DEVICES": "GPU-a"}]
    monkeypatch.setattr("misc.study.runs.num_cores", lambda: 7)
    assert devices(True, 2) == [{}] * 3


@pytest.mark.slow
def test_a_study_that_is_killed_at_three_moments_ends_with_the_same_table(plan: Path, tmp_path: Path) -> None:
    """Killed with its runs, before the first finished, then between others; and once without its runs."""

    def start(folder: Path) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "misc.study", "--plan", str(plan), "--runs", str(folder)]
        return subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)

    def finished(folder: Path) -> int:
        return len(list(folder.glob("*/results.json")))

    def wait_until(is_so: Callable[[], bool], process: "subprocess.Popen[bytes]") -> None:
        while not is_so():
            assert process.poll() is None, "the study ended before it could be killed"
            time.sleep(0.02)

    whole, parted = tmp_path / "whole", tmp_path / "parted"
    assert start(whole).wait() == 0
    moments = [
        lambda: any(parted.glob("*/metrics.jsonl")),
        lambda: finished(parted) == 1,
        lambda: (
            finished(parted) >= 2
            and any(not (p.parent / "results.json").exists() for p in parted.glob("*/run.lock"))
        ),
    ]
    for number, moment in enumerate(moments):
        process = start(parted)
        wait_until(moment, process)
        if number < 2:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()  # its runs go on, and the next study waits for them
        process.wait()
    assert start(parted).wait() == 0

    def table(folder: Path) -> list[list[str]]:
        cost = ("seconds", "peak_bytes")
        return [[value for key, value in row.items() if key not in cost] for row in rows_of(folder)]

    assert table(parted) == table(whole)
    assert len(table(whole)) == 8
