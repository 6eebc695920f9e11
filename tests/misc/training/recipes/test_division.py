"""The consensus division: by an independent reference, on planted noise, in two processes, over a kill."""

import logging
import os
import shutil
import signal
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.nn import functional as F

from data.annotations import load_data
from data.datasets import seeded
from data.loaders import build_loaders
from data.types import Batch
from main import main
from misc.process import distributed
from misc.process.signals import StopSignals
from misc.report.pictures import draw_curves
from misc.training import division
from misc.training.build import build_trainer
from misc.training.division import Division, Verdict, consensus
from misc.training.engine import Trainer
from model import build_model
from model.objective import Pairs
from model.objectives import TAL
from model.tbps import TBPS
from options import load_options
from tests.helpers.gloo import run_in_processes
from tests.helpers.tiny_config import write_tiny
from tests.helpers.whole_runs import (
    assert_mentions,
    assert_same,
    assert_same_runs,
    content,
    error_line,
    read_metrics,
    train_lines,
)

CCD = ["experiment.nitc=false", "experiment.ritc=false", "experiment.tal=true", "experiment.ccd=true"]
MIXTURE = {"max_iter": 10, "tol": 1e-2, "reg_covar": 5e-4}
MARGIN, TAU = 0.1, 0.015


def trainer_of(config: Path, *overrides: str) -> Trainer:
    options = load_options(config, [*CCD, "misc.seed=1", *overrides])
    splits = load_data(options)
    torch.manual_seed(0)
    model, tokenizer, processor = build_model(options, splits.num_identities)
    place = (distributed.rank(), distributed.world_size())
    loaders = build_loaders(options, splits, tokenizer, processor, model.inputs, *place)
    setting = (torch.device("cpu"), torch.float32, StopSignals())
    return build_trainer(options, model, loaders, {}, *setting)


def divisions(run: Path) -> list[dict[str, Any]]:
    return [line for line in read_metrics(run) if line["kind"] == "division"]


def triplet_alignment(cosines: np.ndarray, persons: list[int]) -> list[float]:
    """TAL of each row as the paper writes it, by exp and log."""
    losses = []
    for row, person in zip(cosines, persons, strict=True):
        same = [c for c, other in zip(row, persons, strict=True) if other == person]
        others = [c for c, other in zip(row, persons, strict=True) if other != person]
        weights = [np.exp(c / TAU) for c in same]
        positive = sum(w * c for w, c in zip(weights, same, strict=True)) / sum(weights)
        negative = TAU * np.log(sum(np.exp(c / TAU) for c in others)) if others else -np.inf
        losses.append(max(0.0, MARGIN - positive + negative))
    return losses


@torch.no_grad()
def losses_by_hand(trainer: Trainer, epoch: int, batch_size: int) -> np.ndarray:
    """(K, n) TAL in both directions, on the pooled features and on those of selected tokens, in a shuffle and
    with an augmentation of its own, over all batches."""
    samples, model = trainer.division.training_set, trainer.model.eval()
    width = model.clip.embed_dim  # of the pooled features, beside which a model has those of selected tokens
    key, losses = -1 - epoch, np.full((1 + (model.embed_dim > width), len(samples)), np.nan)
    generator = torch.Generator().manual_seed(seeded(1, key).getrandbits(63))
    order = torch.randperm(len(samples), generator=generator).tolist()
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        batch = trainer.train_loader.dataset.collate([samples[key, index] for index in indices])
        images, texts = model.embed(batch.images["view1"]), model.embed(batch.tokens)
        for number, columns in enumerate([slice(width), slice(width, None)][: len(losses)]):
            rows = (F.normalize(features[:, columns].double(), dim=1) for features in (images, texts))
            cosines, persons = np.inner(*(features.numpy() for features in rows)), batch.person_ids.tolist()
            both = (triplet_alignment(of_rows, persons) for of_rows in (cosines, cosines.T))
            losses[number, indices] = np.sum(list(both), axis=0)
    return losses


def clean_by_hand(losses: np.ndarray, epoch: int) -> np.ndarray:
    scaled = ((losses - losses.min()) / (losses.max() - losses.min())).reshape(-1, 1)
    mixture = GaussianMixture(n_components=2, random_state=seeded(1, -1 - epoch).getrandbits(32), **MIXTURE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        p = mixture.fit(scaled).predict_proba(scaled)[:, np.argmin(mixture.means_.ravel())]
    if (p > 0.5).all():
        return p > sorted(p)[len(p) // 100]
    return p > 0.5


@pytest.mark.parametrize(
    "more",
    [
        [],
        ["experiment.tse=true", "schedule.accumulate=3"],
        ["experiment.tal=false", "experiment.tse=true", "experiment.tse_batchnorm=trained"],
        ["data.languages=[en,de]"],
        ["data.sampler=identity"],
    ],
)
def test_the_division_is_that_of_an_independent_computation(config: Path, more: list[str]) -> None:
    trainer = trainer_of(config, *more, "experiment.dropout=0.3")
    trainer.model.train()
    for epoch in (0, 3):
        before = torch.get_rng_state()
        record = trainer.division.divide(epoch, iter)
        assert torch.equal(torch.get_rng_state(), before), "dropout goes on as without the pass"
        assert trainer.model.training
        found = trainer.division.is_clean.numpy()
        losses = losses_by_hand(trainer, epoch, 16)[-len(trainer.model.objectives) :]
        votes = [clean_by_hand(each, epoch) for each in losses]
        assert all(0 < vote.sum() < len(vote) for vote in votes)
        agree = votes[0] == votes[-1]
        assert found[agree].tolist() == votes[0][agree].tolist()
        assert record["agreed_share"] == pytest.approx(agree.mean())
        assert record["noisy_share"] == pytest.approx(1 - found.mean())
        trainer.model.train()


def losses_of(noisy: np.ndarray, seed: int, distance: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(distance * noisy, 0.1)


def test_samples_that_all_losses_call_clean_count_and_those_of_disagreement_are_drawn() -> None:
    first, second = np.arange(400) % 4 == 0, np.arange(400) % 8 == 0
    verdict = consensus({"tal": losses_of(first, 1), "tse": losses_of(second, 2)}, 5, MIXTURE)
    assert verdict.is_clean[~first & ~second].all()
    assert not verdict.is_clean[first & second].any()
    assert verdict.num_agreed == 350
    assert 10 < verdict.is_clean[first ^ second].sum() < 40, "50 samples of disagreement"
    again = consensus({"tal": losses_of(first, 1), "tse": losses_of(second, 2)}, 5, MIXTURE)
    other = consensus({"tal": losses_of(first, 1), "tse": losses_of(second, 2)}, 6, MIXTURE)
    assert (again.is_clean == verdict.is_clean).all()
    assert (other.is_clean != verdict.is_clean).any()


def test_where_every_sample_is_clean_the_lowest_hundredth_counts_as_noisy() -> None:
    """The part of the larger mean is so wide that it has p < 0.5 everywhere."""
    losses = np.concatenate([np.full(1, 1.0), np.linspace(0, 1e-3, 299)])
    is_clean = consensus({"tal": losses}, 0, MIXTURE | {"reg_covar": 1.0}).is_clean
    assert (~is_clean).sum() == 1 + 300 // 100


@pytest.mark.parametrize("losses", [np.full(9, 0.3), np.zeros(1), 0.3 + 1e-8 * np.arange(9.0)])
def test_where_all_losses_are_alike_all_samples_are_clean(
    losses: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.clear()
    assert consensus({"tal": losses}, 0, MIXTURE).is_clean.all()
    assert caplog.messages == ["the losses of tal are alike: by them, all samples count as clean"]


def test_a_mixture_that_did_not_converge_is_no_warning(recwarn: pytest.WarningsRecorder) -> None:
    consensus({"tal": np.random.default_rng(0).random(300)}, 0, MIXTURE | {"max_iter": 1, "tol": 1e-12})
    assert not recwarn.list


def test_planted_captions_of_others_are_found_and_do_not_count(
    config: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By towers that know the person of each image and caption, up to some noise; every fifth caption is of
    another person."""
    trainer = trainer_of(config, "experiment.dropout=0")
    samples, generator = trainer.division.training_set, torch.Generator().manual_seed(0)
    samples.noisy = np.arange(len(samples)) % 5 == 0
    shown = torch.from_numpy(samples.persons)
    described = torch.where(torch.from_numpy(samples.noisy), (shown + 3) % (shown.max() + 1), shown)
    people = torch.randn(int(shown.max()) + 1, 64, generator=generator)
    images, texts = (
        people[persons] + 0.7 * torch.randn(len(samples), 64, generator=generator)
        for persons in (shown, described)
    )

    def encode(model: TBPS, batch: Batch, *_: object) -> Pairs:
        return model.gather({"view1": images[batch.indices], "tokens": texts[batch.indices]}, batch, 0.0)

    monkeypatch.setattr(division, "encode_in_parts", encode)
    with caplog.at_level(logging.INFO):
        records = [trainer.division.divide(epoch, iter) for epoch in range(5)]
    for record in records:
        assert record["precision"] >= 0.8
        assert record["recall"] >= 0.5
    assert (
        f", precision {100 * record['precision']:.1f} %, recall {100 * record['recall']:.1f} %, "
        in (caplog.messages[-1])
    )
    trainer.train_loader.batch_sampler.set_epoch(0)
    batch = next(iter(trainer.train_loader))
    is_clean = trainer.division.is_clean[batch.indices]
    assert not is_clean.all()
    for epoch, weights in ((3, None), (4, is_clean.float())):
        trainer.epoch = epoch
        trainer.meter.reset()
        with_weights = trainer.model(replace(batch, weights=weights), 0.0)
        trainer.train_step(trainer.model, batch)
        assert trainer.meter.means()["tal"] == pytest.approx(with_weights.parts["tal"].item())


@pytest.mark.parametrize(("noisy_every", "is_doubted"), [(0, True), (3, True), (1, False)])
def test_a_division_that_calls_more_noisy_than_can_be_is_doubted(
    noisy_every: int, is_doubted: bool, config: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Three quarters of the samples are called noisy; of all, none, a third or every one is known to be."""
    found = trainer_of(config).division
    number = len(found.training_set)
    found.training_set.noisy = np.arange(number) % noisy_every == 0 if noisy_every else np.zeros(number, bool)
    verdict = Verdict(np.arange(number) % 4 == 0, number)
    caplog.clear()
    found._record(verdict, np.ones(number, dtype=bool), "division before epoch 1", 0.0)
    warned = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert [("ccd_first_epoch" in message, "75%" in message) for message in warned] == [
        (True, True)
    ] * is_doubted


STEPS = 5  # of an epoch: 40 samples in batches of 8
COMMON = [*CCD, "data.batch_size=8", "experiment.dropout=0.3", "log.print_period=3"]
Act = Callable[[], object]


@pytest.fixture(scope="module")
def whole(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of two epochs that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole")
    assert main(["--config", str(write_tiny(folder / "tiny.yaml", people, folder / "run")), *COMMON]) == 0
    return folder / "run"


class CrashError(Exception):
    pass


def crash() -> None:
    raise CrashError


def stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def in_step(patch: pytest.MonkeyPatch, number: int, act: Act) -> None:
    """Something happens in a step, counted from 1."""
    original = Trainer.train_step

    def train_step(self: Trainer, *arguments: Any) -> None:
        if self.step + 1 == number:
            act()
        original(self, *arguments)

    patch.setattr(Trainer, "train_step", train_step)


def in_pass(patch: pytest.MonkeyPatch, epoch: int, number: int, act: Act) -> list[int]:
    """Something happens in a batch of a division, both counted from 1; the batches that were made follow."""
    original, made = Division._rows, []

    def rows(self: Division, batch: Batch) -> torch.Tensor:
        made.append(len(made))
        if len(made) == (epoch - 1) * STEPS + number:
            act()
        return original(self, batch)

    patch.setattr(Division, "_rows", rows)
    return made


def test_a_run_divides_before_each_epoch_and_logs_it(whole: Path) -> None:
    found = divisions(whole)
    assert [(line["epoch"], line["step"]) for line in found] == [(1, 1), (2, STEPS + 1)]
    assert all(0 < line["noisy_share"] < 1 and line["seconds"] > 0 for line in found)
    log = (whole / "log.txt").read_text()
    for line in found:
        number, share = round(40 * line["noisy_share"]), 100 * line["noisy_share"]
        said = f"division before epoch {line['epoch']}: {number} of 40 samples called noisy ({share:.1f} %), "
        assert log.count(said) == 1
    kinds = [line["kind"] for line in read_metrics(whole)]
    assert kinds.index("division") < kinds.index("train")
    state = content(whole / "checkpoint_last.pth")["division"]
    assert (state["epoch"], state["is_clean"].sum().item()) == (1, round(40 * (1 - found[1]["noisy_share"])))
    board = EventAccumulator(str(whole / "tensorboard")).Reload()
    assert [event.step for event in board.Scalars("division/noisy_share")] == [1, STEPS + 1]
    draw_curves(whole / "metrics.jsonl", whole / "curves.png")


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_killed_inside_an_epoch_goes_on_with_its_division(
    config: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    arguments = ["--config", str(config), *COMMON, "log.checkpoint_period=2", f"data.num_workers={workers}"]
    with monkeypatch.context() as patch:
        in_step(patch, STEPS + 5, crash)
        with pytest.raises(CrashError):
            main(arguments)
    torch.rand(1)  # whatever the process drew in between
    made = in_pass(monkeypatch, 9, 9, crash)
    assert main([*arguments, "--resume"]) == 0
    assert made == [], "nothing is divided again"
    assert_same_runs(whole, tmp_path / "run")


def test_a_division_that_was_killed_is_made_again(
    config: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        in_pass(patch, 2, 3, crash)
        with pytest.raises(CrashError):
            main(["--config", str(config), *COMMON])
    assert len(divisions(tmp_path / "run")) == 1
    with monkeypatch.context() as patch:  # after the record of the division, before a step is saved
        in_step(patch, STEPS + 1, crash)
        with pytest.raises(CrashError):
            main(["--config", str(config), *COMMON, "--resume"])
    assert len(divisions(tmp_path / "run")) == 2
    assert main(["--config", str(config), *COMMON, "--resume"]) == 0
    assert_same_runs(whole, tmp_path / "run")


def test_a_signal_ends_a_division_with_its_batch(
    config: Path,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patch:
        made = in_pass(patch, 2, 3, stop)
        assert main(["--config", str(config), *COMMON]) == 75
    assert len(made) in (STEPS + 3, STEPS + 4)  # the processes agree on it while the next batch is computed
    assert f"stopped by SIGTERM after step {STEPS} of {2 * STEPS}: saved in" in capsys.readouterr().err
    assert main(["--config", str(config), *COMMON, "--resume"]) == 0
    assert_same_runs(whole, tmp_path / "run")


def test_checkpoints_without_a_division_go_on_with_and_without_one(
    config: Path, finished_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    last = torch.load(run / "checkpoint_last.pth", weights_only=True)
    assert "division" not in last
    ccd = ["experiment.tal=true", "experiment.ccd=true"]
    for epochs, more in ((3, ccd), (4, [])):
        assert main(["--config", str(config), *more, f"schedule.epoch={epochs}", "--resume", "auto"]) == 0
    assert [line["epoch"] for line in divisions(run)] == [3]
    assert "division" not in torch.load(run / "checkpoint_last.pth", weights_only=True)


def test_epochs_before_the_first_division_train_on_all_samples(config: Path, tmp_path: Path) -> None:
    run, later = tmp_path / "run", [*COMMON, "schedule.epoch=2", "experiment.ccd_first_epoch=2"]
    assert main(["--config", str(config), *later, "experiment.ccd=false"]) == 0
    without = train_lines(run)
    assert main(["--config", str(config), *later, "output.overwrite=true"]) == 0
    assert [(line["epoch"], line["step"]) for line in divisions(run)] == [(2, STEPS + 1)]
    losses = [[line["loss"] for line in lines] for lines in (without, train_lines(run))]
    in_first = sum(line["epoch"] == 1 for line in without)
    assert losses[0][:in_first] == losses[1][:in_first]
    assert losses[0][in_first:] != losses[1][in_first:]


def test_without_the_losses_that_divide_nothing_is_divided_and_the_option_is_named(
    config: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert main(["--config", str(config), "experiment.ccd=true", "schedule.epoch=1"]) == 0
    said = [message for message in caplog.messages if message.startswith("experiment.ccd")]
    off = " and ".join(f"experiment.{name} is false" for name in ("tal", "tse", "grab"))
    assert said == [f"experiment.ccd has no effect while {off}"]
    assert divisions(tmp_path / "run") == []


def test_losses_that_are_not_finite_end_the_run_with_a_line(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = TAL.rows
    monkeypatch.setattr(TAL, "rows", lambda self, pairs: rows(self, pairs) * torch.nan)
    assert main(["--config", str(config), *CCD]) == 2
    assert_mentions(error_line(capsys), "division before epoch 1", ".jpg", "36 more", "misc.precision=fp32")


@pytest.mark.parametrize(
    "more",
    [
        ["data.languages=[en,ch]", "data.language_draw=one", "data.few_shot=0.8", "experiment.mlm=true"],
        ["schedule.accumulate=2", "experiment.mixgen=true", "experiment.mixgen_p=1", "experiment.ss=true"],
    ],
)
def test_a_division_goes_with_other_options(config: Path, tmp_path: Path, more: list[str]) -> None:
    assert main(["--config", str(config), *CCD, *more]) == 0
    assert len(divisions(tmp_path / "run")) == 2


def test_a_sample_whose_image_cannot_be_read_is_not_counted(
    config: Path, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "people"
    shutil.copytree(people, copy)
    data = [f"data.annotation_file={copy}", f"data.image_root={copy}/imgs", "data.on_bad_image=skip"]
    trainer = trainer_of(config, *data)
    trainer.division.training_set.image_paths()[0].write_bytes(b"")
    monkeypatch.setattr(
        division, "consensus", lambda losses, *_: Verdict(np.zeros(len(losses["tal"]), dtype=bool), 0)
    )
    trainer.division.divide(0, iter)
    is_clean = trainer.division.is_clean
    assert len(is_clean) == 40
    assert is_clean.sum() == 2, "both captions of the image"


def of_39_samples(config: str) -> list[dict[str, Any]]:
    """The divisions of steps that leave 7 samples, and a single one, for the last step."""
    states = []
    for size in (16, 38):
        own = size // distributed.world_size()
        trainer = trainer_of(Path(config), f"data.batch_size={own}", "schedule.accumulate=2")
        samples = trainer.division.training_set
        samples.choices.ends[-1] -= 1
        samples.choices.numbers[-1] -= 1
        samples.noisy = samples.noisy[:-1]
        trainer.train_loader.batch_sampler.num_samples -= 1
        trainer.division.divide(0, iter)
        states.append(trainer.division.state_dict())
    return states


def test_two_processes_divide_as_one_does_where_the_last_step_is_uneven(config: Path, tmp_path: Path) -> None:
    wanted = of_39_samples(str(config))
    for found in run_in_processes(of_39_samples, 2, tmp_path, str(config)):
        assert_same(found, wanted)


def test_runs_of_two_processes_divide_and_train_as_one_does(config: Path, tmp_path: Path) -> None:
    common = ["--config", str(config), *CCD, "experiment.tse=true", "experiment.dropout=0"]
    one, two = tmp_path / "one", tmp_path / "two"
    assert main([*common, "data.batch_size=20", "--output-dir", str(one)]) == 0
    both = [*common, "data.batch_size=10", "--output-dir", str(two)]
    assert run_in_processes(main, 2, tmp_path, both) == [0, 0]
    first, second = (content(run / "checkpoint_last.pth")["division"] for run in (one, two))
    assert first["epoch"] == second["epoch"] == 1
    assert torch.equal(first["is_clean"], second["is_clean"])
    for one_line, line in zip(divisions(one), divisions(two), strict=True):
        assert line["noisy_share"] == one_line["noisy_share"]
    for run, said in ((one, 2), (two, 2)):
        assert (run / "log.txt").read_text().count("division before epoch") == said
    wanted = [line["loss"] for line in train_lines(one)]
    assert [line["loss"] for line in train_lines(two)] == pytest.approx(wanted, rel=1e-3)
