"""The main job from the command line: what a run writes, how it resumes, and that evaluation agrees."""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from data.annotations import load_data
from data.datasets import evaluation_set
from data.loaders import build_loaders
from main import main
from misc.evaluation.evaluator import build_evaluators, score
from misc.training.engine import Trainer
from misc.training.optimizer import build_optimizer, set_learning_rate
from model import build_model
from options import load_options
from tests.helpers.tiny_config import without_val
from tests.helpers.whole_runs import (
    assert_same,
    assert_same_runs,
    content,
    files,
    read_metrics,
    results_of,
    torchrun,
    train_lines,
)

FIGURES = {"R1", "R5", "R10", "mAP", "mINP"}


@pytest.mark.usefixtures("pictures")
def test_a_run_writes_all_its_files_and_an_evaluation_agrees_with_them(config: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert main(["--config", str(config)]) == 0
    evaluations = [line for line in read_metrics(run) if line["kind"] == "eval"]
    places = [(line["epoch"], line["split"]) for line in evaluations]
    assert places == [(1, "val"), (1, "test"), (2, "val"), (2, "test")]
    last = train_lines(run)[-1]
    assert last["step"] == 2 * last["steps_per_epoch"]
    assert last["loss"] == pytest.approx(sum(last["parts"].values()), rel=1e-5)

    results = results_of(run)
    assert (results["split"], results["select_on"]) == ("test", "val")
    assert results["languages"]["en"]["t2i"].keys() == results["average"]["i2t"].keys() == FIGURES
    by_val = [line["average"]["t2i"]["R1"] for line in evaluations if line["split"] == "val"]
    best_epoch = 1 + by_val.index(max(by_val))
    logged = next(e for e in evaluations if (e["epoch"], e["split"]) == (best_epoch, "test"))
    assert results["languages"] == logged["languages"]

    assert load_options(run / "options.yaml") == load_options(config)
    assert "R@1" in (run / "log.txt").read_text()
    assert list((run / "tensorboard").iterdir())
    for name in ("curves.png", "ranking.png"):
        assert Image.open(run / name).width > 800

    again = tmp_path / "again"
    arguments = ["--config", str(run / "options.yaml"), "--output-dir", str(again)]
    assert main([*arguments, "--evaluate", str(run / "checkpoint_best.pth")]) == 0
    assert results_of(again)["languages"] == logged["languages"]

    before = (run / "results.json").read_bytes()
    assert main(["--config", str(config), "--evaluate", str(run / "checkpoint_best.pth")]) == 0
    assert (run / "results.json").read_bytes() == before, "an evaluation must not touch the run in its folder"
    assert results_of(run / "evaluation")["languages"] == logged["languages"]


def test_an_evaluation_reads_nothing_of_the_training_split(
    config: Path, finished_run: Path, people: Path, tmp_path: Path
) -> None:
    test_only = tmp_path / "test only"
    shutil.copytree(people, test_only)
    for path in test_only.glob("train_*"):
        path.unlink()
    checkpoint = str(finished_run / "checkpoint_last.pth")
    data = [f"data.annotation_file={test_only}", f"data.image_root={test_only}/imgs"]
    assert main(["--config", str(config), "--evaluate", checkpoint, *data]) == 0


def test_a_resumed_run_equals_the_uninterrupted_one(config: Path, tmp_path: Path) -> None:
    """One process, dropout and augmentation on: weights, optimiser, random states and log to the bit."""
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    common = ["--config", str(config), "schedule.epoch=3", "experiment.dropout=0.3"]
    assert main([*common, "--output-dir", str(whole)]) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_train_epoch", fails_in_epoch(2))
        with pytest.raises(KeyboardInterrupt):
            main([*common, "--output-dir", str(parted)])
    torch.rand(1)  # whatever the process drew in between
    assert main([*common, "--output-dir", str(parted), "--resume", "auto"]) == 0

    assert_same_runs(whole, parted)


def fails_in_epoch(epoch: int) -> Any:
    original = Trainer._train_epoch

    def train_epoch(self: Trainer, *arguments: Any) -> None:
        original(self, *arguments)
        if self.epoch == epoch - 1:  # after its steps were made and logged, before anything was saved
            raise KeyboardInterrupt

    return train_epoch


@pytest.mark.slow
def test_a_killed_run_of_two_processes_resumes_to_the_same_end(config: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    common = ["--config", str(config), "schedule.epoch=3", "data.batch_size=8", "experiment.dropout=0.3"]
    uninterrupted = torchrun(*common, "--output-dir", str(whole))
    run = torchrun(*common, "--output-dir", str(killed))
    deadline = time.monotonic() + 600
    while not (killed / "checkpoint_last.pth").exists():
        assert run.poll() is None, run.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate()
    resumed = torchrun(*common, "--output-dir", str(killed), "--resume", "auto")
    for process in (uninterrupted, resumed):
        output, _ = process.communicate(timeout=600)
        assert process.returncode == 0, output
    assert_same_runs(whole, killed)


@pytest.mark.slow
def test_two_machines_that_share_no_folder_train_as_one_and_resume(
    config: Path, people: Path, tmp_path: Path
) -> None:
    """Two torchrun meet, each with one process, and with data and an output folder of its own."""
    whole, first, second = (tmp_path / name for name in ("whole", "first", "second"))
    common = ["--config", str(config), "data.batch_size=8", "experiment.dropout=0.3"]
    common += ["log.checkpoint_period=1", "log.keep_checkpoints=9"]
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{sock.getsockname()[1]}"
    meet = (
        "--rdzv_id=3",
        "--rdzv_backend=c10d",
        f"--rdzv_endpoint={place}",
        "--nnodes=2",
        "--nproc_per_node=1",
    )

    def run_to_end(*processes: subprocess.Popen[str]) -> None:
        for process in processes:
            output, _ = process.communicate(timeout=600)
            assert process.returncode == 0, output

    def on_machine(folder: Path, *more: str) -> subprocess.Popen[str]:
        data = (f"data.annotation_file={folder}", f"data.image_root={folder}/imgs")
        return torchrun(*common, *data, "--output-dir", str(folder / "run"), *more, launcher=meet)

    run_to_end(torchrun(*common, "--output-dir", str(whole)))
    for machine in (first, second):
        shutil.copytree(people, machine)
    run_to_end(on_machine(first), on_machine(second))
    assert_same_runs(whole, first / "run")
    back = ("--resume", str(first / "run" / "checkpoint_step_1.pth"))
    run_to_end(on_machine(first, *back), on_machine(second, *back))
    assert_same_runs(whole, first / "run")
    assert not any((second / "run").iterdir())


def test_resume_auto_starts_from_scratch_where_there_is_nothing_and_reports_a_finished_run_again(
    config: Path, tmp_path: Path
) -> None:
    run, resumed = tmp_path / "run", ["--config", str(config), "schedule.epoch=1", "--resume", "auto"]
    assert main(resumed) == 0
    before, report = content(run / "checkpoint_last.pth"), (run / "results.json").read_bytes()
    assert main(resumed) == 0
    assert_same(before, content(run / "checkpoint_last.pth"))
    assert (run / "results.json").read_bytes() == report


def test_a_fresh_run_replaces_an_earlier_one_only_when_asked(config: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = ["--config", str(config), "schedule.epoch=1"]
    assert main(arguments) == 0
    (run / "notes.txt").write_text("mine")
    before = files(run)
    for wrong in ([], ["output.overwrite=true", "data.annotation_file=nowhere"]):
        assert main([*arguments, *wrong]) == 2
        assert files(run) == before
    assert main([*arguments, "output.overwrite=true", "misc.seed=7"]) == 0
    assert (run / "notes.txt").read_text() == "mine"
    assert (run / "checkpoint_last.pth").read_bytes() != before["checkpoint_last.pth"]


def test_a_run_that_is_refused_removes_nothing(
    config: Path, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    (run / "checkpoint_step_1.pth").write_bytes((run / "checkpoint_last.pth").read_bytes())
    before = files(run)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    for more in ("output.overwrite=true", f"--resume={run / 'checkpoint_step_1.pth'}"):
        assert main(["--config", str(config), "model.image_width=512", more]) == 2
        assert main(["--config", str(config), "log.keep_checkpoints=99", more]) == 2
        assert files(run) == before
    monkeypatch.undo()
    (run / "bad_images.txt").mkdir()
    assert main(["--config", str(config), "output.overwrite=true"]) == 2
    (run / "bad_images.txt").rmdir()
    assert files(run) == before


def test_without_a_val_split_the_last_epoch_counts_and_the_report_says_so(
    config: Path, people: Path, tmp_path: Path
) -> None:
    data = without_val(people, tmp_path / "no val")
    assert main(["--config", str(config), *data]) == 0
    results = results_of(tmp_path / "run")
    last = read_metrics(tmp_path / "run")[-1]
    assert results["select_on"] == "last"
    assert (last["epoch"], last["split"]) == (2, "test")
    assert results["languages"] == last["languages"]


def test_every_language_is_trained_evaluated_and_averaged(config: Path, tmp_path: Path) -> None:
    languages = ["en", "ch", "de", "fr"]
    assert main(["--config", str(config), "data.languages=[en,ch,de,fr]", "schedule.epoch=1"]) == 0
    results = results_of(tmp_path / "run")
    assert list(results["languages"]) == languages
    mean = sum(results["languages"][language]["t2i"]["mAP"] for language in languages) / 4
    assert results["average"]["t2i"]["mAP"] == pytest.approx(mean)


def test_the_full_recipe_trains_and_all_its_losses_are_logged(config: Path, tmp_path: Path) -> None:
    full = [f"experiment.{name}=true" for name in ("citc", "ss", "mvs_image")]
    assert main(["--config", str(config), *full, "schedule.epoch=1"]) == 0
    assert train_lines(tmp_path / "run")[-1]["parts"].keys() == {"nitc", "ritc", "citc", "ss"}
    evaluation = ["--evaluate", str(tmp_path / "run" / "checkpoint_best.pth")]
    assert main(["--config", str(config), *evaluation]) == 0, "the heads are not needed"


def test_training_fits_its_samples_and_nothing_collapses(config: Path) -> None:
    options = load_options(config, ["data.batch_size=20", "experiment.eda_alpha=0"])
    splits = load_data(options)
    torch.manual_seed(0)
    model, tokenizer, processor = build_model(options, splits.num_identities)
    loaders = build_loaders(options, splits, tokenizer, processor, model.inputs)
    optimizer = build_optimizer(model, options.schedule)
    set_learning_rate(optimizer, 3e-3)
    for epoch in range(60):
        loaders.train_sampler.set_epoch(epoch)
        for batch in loaders.train:
            optimizer.zero_grad()
            model(batch, 0.0).total.backward()
            optimizer.step()
    parts = {"train": evaluation_set(splits.train, options.data.image_root)}
    setting = (loaders.images, options, torch.device("cpu"), torch.float32)
    encoded = build_evaluators(model, tokenizer, parts, *setting)["train"].encode()
    assert score(encoded)["average"]["t2i"]["R1"] > 60  # chance is 10 % of 10 persons
    for rows in (encoded.features.images, encoded.features.texts["en"]):
        cosines = rows @ rows.T - 2 * torch.eye(len(rows))
        assert cosines.max() < 1 - 1e-4, "two images, or two captions, have one feature"
