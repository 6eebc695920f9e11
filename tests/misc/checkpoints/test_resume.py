"""From which checkpoint a run resumes, what it removes, and which options must not change."""

import shutil
from pathlib import Path

import pytest
import torch

from main import main, parse_command_line
from misc.training.engine import Trainer
from tests.helpers.tiny_config import without_val
from tests.helpers.whole_runs import assert_same_runs, torchrun, write_program


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_resume_auto_leaves_a_run_alone_of_which_it_can_read_nothing(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(["--config", str(config), "schedule.epoch=1"]) == 0
    for path in run.glob("*.pth"):
        path.write_bytes(b"")
    before = files(run)
    capsys.readouterr()
    for more in ([], ["output.overwrite=true"]):
        assert main(["--config", str(config), "--resume", "auto", *more]) == 2
        assert "none can be read" in capsys.readouterr().err
        assert files(run) == before


def test_a_run_that_goes_back_leaves_the_later_checkpoints_behind(config: Path, tmp_path: Path) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    common = ["--config", str(config), "log.checkpoint_period=1", "log.keep_checkpoints=5"]
    assert main([*common, "--output-dir", str(whole)]) == 0
    shutil.copytree(whole, run)
    assert len(list(run.glob("*.pth"))) == 5, "steps 1 to 3, the last and the best"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "fit", interrupt)
        with pytest.raises(KeyboardInterrupt):
            main([*common, "--resume", str(run / "checkpoint_step_1.pth")])
    assert [path.name for path in run.glob("*.pth")] == ["checkpoint_step_1.pth"]
    assert f"removed '{run / 'checkpoint_last.pth'}' of step 4" in (run / "log.txt").read_text()
    assert main([*common, "--resume", "auto"]) == 0
    assert_same_runs(whole, run)


def interrupt(_: Trainer) -> None:
    raise KeyboardInterrupt


def test_a_run_that_goes_on_from_another_folder_mixes_nothing(config: Path, tmp_path: Path) -> None:
    one, fresh, held = tmp_path / "one", tmp_path / "fresh", tmp_path / "held"
    common = ["--config", str(config), "log.checkpoint_period=1"]
    assert main([*common, "schedule.epoch=1", "--output-dir", str(one)]) == 0
    assert main([*common, "log.keep_checkpoints=5", "misc.seed=7", "--output-dir", str(held)]) == 0
    before, resumed = files(one), ["--resume", str(one / "checkpoint_last.pth"), "log.keep_checkpoints=3"]
    assert main([*common, *resumed, "--output-dir", str(held)]) == 2
    for folder in (fresh, held):
        assert main([*common, *resumed, "output.overwrite=true", "--output-dir", str(folder)]) == 0
    assert files(fresh).keys() == files(held).keys()
    assert_same_runs(fresh, held)
    assert files(one) == before


def test_a_checkpoint_is_of_the_folder_however_the_two_are_written(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("run")
    common = ["--config", str(config), "schedule.epoch=1"]
    assert main([*common, "--output-dir", "run"]) == 0
    checkpoint = str(tmp_path / "run" / "checkpoint_last.pth")
    for folder in ("run", "link"):
        assert main([*common, "--output-dir", folder, "--resume", checkpoint]) == 0


def test_a_file_to_resume_from_may_have_a_sign_of_equality_in_its_name() -> None:
    for words, resume, epochs in (
        (["--resume", "runs/lr=1e-4/checkpoint_last.pth"], "runs/lr=1e-4/checkpoint_last.pth", 5),
        (["--resume", "schedule.epoch=3"], "auto", 3),
        (["--resume", "auto", "schedule.epoch=3"], "auto", 3),
    ):
        flags, options = parse_command_line(words)
        assert (flags.resume, options.schedule.epoch) == (resume, epochs)


APART = """
if os.environ['RANK'] == '1':
    sys.argv[sys.argv.index('--output-dir') + 1] += ' of another machine'
"""


def test_processes_that_do_not_share_the_folder_are_told(config: Path, tmp_path: Path) -> None:
    common = ["--config", str(config), "--output-dir", str(tmp_path / "run")]
    assert main([*common, "schedule.epoch=1"]) == 0
    program = write_program(tmp_path / "program.py", APART)
    process = torchrun(*common, "data.batch_size=8", "--resume", "auto", program=program)
    output, _ = process.communicate(timeout=600)
    lines = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, output
    for words in ("output.dir", "process 0 would resume after step 2, process 1 after step 0", "shared"):
        assert words in lines[0]


def test_what_an_epoch_is_drawn_by_may_change_only_at_its_end(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    common = ["--config", str(config), "log.checkpoint_period=1", "log.keep_checkpoints=5"]
    assert main([*common, "schedule.epoch=1"]) == 0
    before, changes = (files(run), ("misc.seed=7", "data.languages=[ch]", "data.few_shot_by=identities"))
    for change in changes:
        capsys.readouterr()
        assert main([*common, change, "--resume", str(run / "checkpoint_step_1.pth")]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {change.split('=')[0]}: ")
        assert "\n" not in error.strip()
    assert files(run) == before
    assert main([*common, *changes, "--resume", "auto"]) == 0


def test_the_best_epoch_is_selected_again_on_another_split(
    config: Path, people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of one epoch picked on val, two on test, and three, the last: there is no val split any more."""
    without = without_val(people, tmp_path / "no val")
    common = ["--config", str(config), "--resume", "auto"]
    for number, more in enumerate(([], ["eval.select_on=test"], without, []), start=1):
        assert main([*common, f"schedule.epoch={number}", *more]) == 0
        best = torch.load(tmp_path / "run" / "checkpoint_best.pth", weights_only=True)
        assert (best["epoch"], best["best"]["epoch"]) == (number, number)
    capsys.readouterr()
    assert main([*common, "schedule.epoch=4", "eval.select_on=test"]) == 2
    error = capsys.readouterr().err
    for words in ("checkpoint_best.pth", "'test'", "schedule.epoch"):
        assert words in error
