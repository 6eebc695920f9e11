"""Runs that keep the last short batch of an epoch: in two processes, in parts, resumed inside the epoch."""

import json
import shutil
from pathlib import Path

import pytest

from main import main
from tests.helpers.gloo import run_in_processes
from tests.helpers.tiny_config import write_tiny
from tests.helpers.whole_runs import assert_mentions, assert_same_runs, error_line, train_lines

DIVIDED = ("experiment.tal=true", "experiment.ccd=true")
KEEP = ("data.drop_last=false", "log.print_period=1", "log.checkpoint_period=1", "log.keep_checkpoints=9")


@pytest.fixture
def config(people: Path, tmp_path: Path) -> Path:
    """Of a run on 39 captions, one less than `people` has: two steps of 16, and 7 are left."""
    annotations = tmp_path / "annotations"
    annotations.mkdir()
    for path in people.glob("*_reid_en.json"):
        records = json.loads(path.read_text(encoding="utf-8"))
        if path.name.startswith("train"):
            records[0]["captions"].pop()
            records[0].pop("captions_bt", None)
        (annotations / path.name).write_text(json.dumps(records), encoding="utf-8")
    config = write_tiny(tmp_path / "tiny.yaml", people, tmp_path / "run")
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace(f"annotation_file: {people}", f"annotation_file: {annotations}"))
    return config


def test_two_processes_in_parts_train_as_one_and_resume_inside_the_epoch(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On 3 and 4 samples of the last step, fewer than the parts asked for; divided before each epoch."""
    alone, ranks, resumed = (tmp_path / name for name in ("alone", "ranks", "resumed"))
    common = ["--config", str(config), *KEEP, "experiment.dropout=0", *DIVIDED]
    parts = [*common, "data.batch_size=8", "schedule.accumulate=5"]
    assert main([*common, "--output-dir", str(alone)]) == 0
    assert run_in_processes(main, 2, tmp_path, [*parts, "--output-dir", str(ranks)]) == [0, 0]
    lines = [train_lines(folder) for folder in (alone, ranks)]
    assert [line["steps_per_epoch"] for line in lines[0]] == [3] * 6
    for one, other in zip(*lines, strict=True):
        for value in ("loss", "gradient_norm"):
            assert other[value] == pytest.approx(one[value], rel=1e-3), f"step {one['step']}"

    shutil.copytree(ranks, resumed)
    checkpoint = ["--resume", str(resumed / "checkpoint_step_4.pth"), "--output-dir", str(resumed)]
    assert run_in_processes(main, 2, tmp_path, [*parts, *checkpoint]) == [0, 0]
    assert_same_runs(ranks, resumed)
    capsys.readouterr()
    assert main([*common, "data.drop_last=true", "--resume", "auto", "--output-dir", str(alone)]) == 2
    assert_mentions(error_line(capsys), "epochs have 3 steps, these would have 2", "data.drop_last")
