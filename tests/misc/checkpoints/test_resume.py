"""From which checkpoint a run resumes, what it removes, and which options must not change."""

import itertools
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from main import main, parse_command_line
from misc.process import distributed
from misc.training.build import build_trainer
from misc.training.engine import Trainer
from tests.helpers.gloo import run_in_processes
from tests.helpers.tiny_config import without_val
from tests.helpers.whole_runs import (
    assert_mentions,
    assert_same_runs,
    error_line,
    files,
    results_of,
    status_and_error,
    train_lines,
)


def test_resume_auto_leaves_a_run_alone_of_which_it_can_read_nothing(
    config: Path, finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    for path in run.glob("*.pth"):
        path.write_bytes(b"")
    before = files(run)
    capsys.readouterr()
    for more in ([], ["output.overwrite=true"]):
        assert main(["--config", str(config), "--resume", "auto", *more]) == 2
        assert "none can be read" in error_line(capsys)
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
    config: Path, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished_run, tmp_path / "run")
    (tmp_path / "link").symlink_to("run")
    checkpoint = str(tmp_path / "run" / "checkpoint_last.pth")
    for folder in ("run", "link"):
        assert main(["--config", str(config), "--output-dir", folder, "--resume", checkpoint]) == 0


def test_a_file_to_resume_from_may_have_a_sign_of_equality_in_its_name() -> None:
    for words, resume, epochs in (
        (["--resume", "runs/lr=1e-4/checkpoint_last.pth"], "runs/lr=1e-4/checkpoint_last.pth", 5),
        (["--resume", "schedule.epoch=3"], "auto", 3),
        (["--resume", "auto", "schedule.epoch=3"], "auto", 3),
    ):
        flags, options = parse_command_line(words)
        assert (flags.resume, options.schedule.epoch) == (resume, epochs)


def each_in_its_folder(config: str, folders: list[str], *more: str) -> tuple[int, str]:
    arguments = ["--config", config, "data.batch_size=8", "--output-dir", folders[distributed.rank()]]
    return status_and_error([*arguments, *more])


def test_processes_that_do_not_share_the_folder_train_and_resume_as_those_that_do(
    config: Path, tmp_path: Path
) -> None:
    shared, own, other = (str(tmp_path / name) for name in ("shared", "run", "run of another machine"))
    period = ("log.checkpoint_period=1", "log.keep_checkpoints=9", "experiment.dropout=0.3")
    for folders in ([shared, shared], [own, other]):
        ranks = run_in_processes(each_in_its_folder, 2, tmp_path, str(config), folders, *period)
        assert ranks == [(0, ""), (0, "")]
    assert_same_runs(Path(shared), Path(own))
    back = ("--resume", f"{own}/checkpoint_step_1.pth", *period)
    assert run_in_processes(each_in_its_folder, 2, tmp_path, str(config), [own, other], *back) == ranks
    assert_same_runs(Path(shared), Path(own))
    assert not any(Path(other).iterdir())


def test_checkpoints_of_another_machine_than_the_first_processs_are_not_passed_over(
    config: Path, finished_run: Path, tmp_path: Path
) -> None:
    folders = [str(tmp_path / "run of another machine"), str(finished_run)]
    ranks = run_in_processes(each_in_its_folder, 2, tmp_path, str(config), folders, "--resume", "auto")
    assert [status for status, _ in ranks] == [2, 2]
    (error,) = [error for _, error in ranks if error]
    assert_mentions(error, "output.dir", "process 1 finds checkpoints", "process 0", "share the folder")


def with_other_captions(config: str, people: str, folder: Path) -> tuple[int, str]:
    """Rank 1 has a copy of the annotations, from which a caption has gone."""
    arguments = ["--config", config, "data.batch_size=8", "--output-dir", str(folder / "run")]
    if distributed.rank() == 0:
        return status_and_error(arguments)
    for path in Path(people).glob("*_reid_en.json"):
        records = json.loads(path.read_text(encoding="utf-8"))
        if path.name.startswith("train"):
            records[0]["captions"][0] = "a person of another machine"
        (folder / path.name).write_text(json.dumps(records), encoding="utf-8")
    return status_and_error([*arguments, f"data.annotation_file={folder}"])


def test_machines_with_different_annotations_are_told(config: Path, people: Path, tmp_path: Path) -> None:
    ranks = run_in_processes(with_other_captions, 2, tmp_path, str(config), str(people), tmp_path)
    assert [status for status, _ in ranks] == [2, 2]
    (error,) = [error for _, error in ranks if error]
    assert_mentions(error, "data.annotation_file", "process 1 has other training images or captions")


def test_what_an_epoch_is_drawn_by_may_change_only_at_its_end(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    common = ["--config", str(config), "log.checkpoint_period=1", "log.keep_checkpoints=5"]
    assert main([*common, "schedule.epoch=1"]) == 0
    before, changes = (
        files(run),
        (
            *("misc.seed=7", "data.languages=[ch]", "data.few_shot_by=identities", "data.noise=0.5"),
            *("data.sampler=identity", "data.samples_per_identity=4"),
        ),
    )
    for change in changes:
        capsys.readouterr()
        assert main([*common, change, "--resume", str(run / "checkpoint_step_1.pth")]) == 2
        assert error_line(capsys).startswith(f"error: {change.split('=')[0]}: ")
    assert files(run) == before
    assert main([*common, *changes, "--resume", "auto"]) == 0


def test_a_noise_file_may_change_only_at_the_end_of_an_epoch(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, noise, pairs = tmp_path / "run", tmp_path / "noise.npy", np.arange(40)
    common = ["--config", str(config), f"data.noise={noise}"]
    np.save(noise, pairs)
    assert main([*common, "log.checkpoint_period=1", "log.keep_checkpoints=5", "schedule.epoch=1"]) == 0
    before, inside = files(run), ["schedule.epoch=1", "--resume", str(run / "checkpoint_step_1.pth")]
    np.save(noise, pairs[::-1])
    capsys.readouterr()
    assert main([*common, *inside]) == 2
    assert_mentions(error_line(capsys), "inside an epoch", "data.noise", "from the end of an epoch")
    assert files(run) == before
    assert main([*common, "--resume", "auto"]) == 0


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
    assert_mentions(error_line(capsys), "checkpoint_best.pth", "'test'", "schedule.epoch")


def cosine(progress: float, lr: float, lr_end: float = 5e-6) -> float:
    return lr_end + (lr - lr_end) * (1 + math.cos(math.pi * progress)) / 2


def test_a_learning_rate_that_a_resumed_run_changes_is_logged(
    config: Path, finished_run: Path, tmp_path: Path
) -> None:
    """Epochs of 2 steps, the first of which is the warm-up."""
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    common = ["--config", str(config), "--resume", "auto", "log.print_period=1"]
    longer, higher = ["schedule.epoch=4"], ["schedule.epoch=5", "schedule.lr=0.01"]
    for more, step, after, before, changes in (
        (longer, 4, cosine(2 / 6, 1e-3), cosine(1, 1e-3), "schedule.epoch was 2, is 4"),
        (
            higher,
            8,
            cosine(6 / 8, 1e-2),
            cosine(1, 1e-3),
            "schedule.lr was 0.001, is 0.01; schedule.epoch was 4",
        ),
    ):
        used = train_lines(run)[-1]["lr"]
        assert main([*common, *more]) == 0
        assert next(line["lr"] for line in train_lines(run) if line["step"] == step + 1) == pytest.approx(
            after
        )
        said = f"the learning rate of step {step + 1} is {after:.2e}; by the options of the checkpoint it "
        said += f"would be {before:.2e}, and step {step} had {used:.2e} ({changes}"
        assert said in (run / "log.txt").read_text(encoding="utf-8")
    assert main([*common, *more]) == 0
    assert (run / "log.txt").read_text(encoding="utf-8").count("the learning rate of step") == 2


OTHER = ("optimizer=adam", "decay_on=all_but_biases", "bias_factor=2", "rate_per=epoch", "tse_lr=1e-3")


def test_a_run_that_resumes_with_another_optimizer_keeps_the_moments_and_says_what_changes(
    config: Path, tmp_path: Path
) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    common = ["--config", str(config), "log.checkpoint_period=1", "log.keep_checkpoints=9"]
    assert main(common) == 0
    changes = [f"schedule.{setting}" for setting in OTHER]
    resumed = ["--resume", str(run / "checkpoint_step_3.pth"), "--output-dir", str(other)]
    assert main([*common, *resumed, *changes]) == 0
    log = (other / "log.txt").read_text(encoding="utf-8")
    said = (
        "the moments of the checkpoint are kept from step 4 on, though schedule.optimizer was adamw, is adam"
    )
    assert f"{said}; schedule.decay_on was matrices, is all_but_biases" in log
    # Of two epochs of two steps, one of them warm-up: by epoch the second one has the peak.
    said = f"the learning rate of step 4 is {1e-3:.2e}; by the options of the checkpoint it would be "
    said += f"{cosine(1 / 2, 1e-3):.2e}, and step 3 had {1e-3:.2e} (schedule.rate_per was step, is epoch; "
    assert f"{said}schedule.bias_factor was null, is 2.0; schedule.tse_lr was null, is 0.001)" in log
    before, after = (
        torch.load(path, weights_only=True)["optimizer"]
        for path in (run / "checkpoint_step_3.pth", other / "checkpoint_last.pth")
    )
    moments = [
        {name: state["state"][number]["step"].item() for name, number in named_numbers(state).items()}
        for state in (before, after)
    ]
    assert {(steps, moments[1][name]) for name, steps in moments[0].items()} == {(3, 4)}
    assert {group["lr_factor"] for group in after["param_groups"]} == {1.0, 2.0}


def named_numbers(optimizer: dict[str, Any]) -> dict[str, int]:
    """The number of the state of each parameter, by name."""
    pairs = [zip(group["names"], group["params"], strict=True) for group in optimizer["param_groups"]]
    return dict(itertools.chain(*pairs))


def test_a_checkpoint_from_before_these_options_resumes_bit_for_bit(config: Path, tmp_path: Path) -> None:
    run, older = tmp_path / "run", tmp_path / "older"
    common = ["--config", str(config), "log.checkpoint_period=1", "log.keep_checkpoints=9"]
    assert main(common) == 0
    shutil.copytree(run, older)
    for path in older.glob("*.pth"):
        state = torch.load(path, weights_only=True)
        for group in state["optimizer"]["param_groups"]:
            del group["names"]
        for setting in OTHER:
            del state["options"]["schedule"][setting.partition("=")[0]]
        torch.save(state, path)
    written = len((older / "log.txt").read_text(encoding="utf-8"))
    resumed = ["--resume", str(older / "checkpoint_step_3.pth"), "--output-dir", str(older)]
    assert main([*common, *resumed]) == 0
    assert_same_runs(run, older)
    log = (older / "log.txt").read_text(encoding="utf-8")[written:]
    assert "the learning rate of step" not in log
    assert "the moments of the checkpoint" not in log


def test_a_run_of_adam_by_epoch_that_is_stopped_in_an_epoch_resumes_bit_for_bit(
    config: Path, tmp_path: Path
) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    common = ["--config", str(config), *(f"schedule.{setting}" for setting in OTHER), "schedule.epoch=3"]
    common += ["log.checkpoint_period=1", "log.keep_checkpoints=9", "log.print_period=1"]
    assert main([*common, "--output-dir", str(whole)]) == 0
    rates = [line["lr"] for line in train_lines(whole)]
    wanted = [1e-6, 1e-3, cosine(1 / 2, 1e-3)]
    assert rates == pytest.approx([rate for rate in wanted for _ in range(2)])
    shutil.copytree(whole, run)
    assert main([*common, "--resume", str(run / "checkpoint_step_3.pth"), "--output-dir", str(run)]) == 0
    assert_same_runs(whole, run)
    assert "the learning rate of step" not in (run / "log.txt").read_text(encoding="utf-8")


def test_a_run_with_fewer_epochs_than_its_checkpoint_reports_and_ends(
    config: Path, finished_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    before = files(run)
    assert main(["--config", str(config), "--resume", "auto", "schedule.epoch=1"]) == 0
    said = (run / "log.txt").read_text(encoding="utf-8")[len((finished_run / "log.txt").read_text()) :]
    assert "nothing left to train: the checkpoint has 2 epochs, schedule.epoch is 1" in said
    assert "resuming after" not in said
    assert "learning rate" not in said
    assert "of 2, selected on" in (run / "model_card.md").read_text(encoding="utf-8")
    assert results_of(run)["languages"] == results_of(finished_run)["languages"]
    for name in ("checkpoint_last.pth", "checkpoint_best.pth", "metrics.jsonl"):
        assert (run / name).read_bytes() == before[name]


def in_precision(patch: pytest.MonkeyPatch, precision: torch.dtype) -> None:
    build = build_trainer

    def build_in_precision(*arguments: Any) -> Trainer:
        return build(*arguments[:5], precision, *arguments[6:])

    patch.setattr("misc.training.build.build_trainer", build_in_precision)


def test_a_run_may_resume_in_another_precision_with_a_fresh_loss_scale(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on an older GPU. By hand: misc.precision has no fp16 for a CPU."""
    run, precisions = tmp_path / "run", (torch.float32, torch.float16, torch.float16, torch.bfloat16)
    for epochs, precision in enumerate(precisions, start=1):
        in_precision(monkeypatch, precision)
        resumed = ["--resume"] if epochs > 1 else []
        assert main(["--config", str(config), *resumed, f"schedule.epoch={epochs}"]) == 0
        state = torch.load(run / "checkpoint_last.pth", weights_only=True)
        assert state["epoch"] == epochs
        assert bool(state["scaler"]) == (precision == torch.float16)
        log = (run / "log.txt").read_text(encoding="utf-8")
        assert log.count("misc.precision: ") == (0, 0, 1, 1, 2)[epochs]
    assert "the checkpoint was trained in fp32, this run computes in fp16" in log
    assert "the checkpoint was trained in fp16, this run computes in bf16" in log


@pytest.mark.parametrize("scaler", [{}, {"scale": 2.0, "growth_factor": 2.0, "backoff_factor": 0.5}])
def test_checkpoints_of_older_versions_do_not_name_their_precision(
    config: Path, finished_run: Path, tmp_path: Path, scaler: dict[str, float]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    state = torch.load(run / "checkpoint_last.pth", weights_only=True)
    del state["precision"]
    torch.save(state | {"scaler": scaler}, run / "checkpoint_last.pth")
    assert main(["--config", str(config), "--resume", "auto"]) == 0
    said = "the checkpoint was trained in fp16, this run computes in fp32"
    assert (said in (run / "log.txt").read_text(encoding="utf-8")) == bool(scaler)
