"""Training on rewritten captions (ICL): the second term of a loss, its weight, and what goes with it."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from data.annotations import load_data
from data.loaders import build_loaders
from data.types import Batch
from main import main
from misc.process.signals import StopSignals
from misc.training import division
from misc.training.build import build_trainer
from misc.training.engine import Trainer
from model import build_model
from model.objective import Pairs
from model.objectives import OBJECTIVES
from model.tbps import TBPS
from options import load_options
from tests.helpers.gloo import run_in_processes
from tests.helpers.gradients import SOFT_LABEL, assert_same_gradients, gradients
from tests.helpers.tiny import ALL_OFF, NUM_ROWS, tiny_batch, tiny_model
from tests.helpers.whole_runs import assert_mentions, assert_same_runs, error_line, train_lines

GROUPS = [["a tall man", "a man of height"], ["red shirt"], ["walking", "strolling", "on foot"]]
MASK = 49405
ON = "experiment.rewrites=true"
RDE = [f"experiment.{name}=false" for name in ("nitc", "ritc")]
RDE += ["experiment.tal=true", "experiment.tse=true", "experiment.ccd=true", "experiment.dropout=0"]
WITH_TERM = [name for name, kind in OBJECTIVES.items() if name not in ("ss", "mlm")]


@pytest.mark.parametrize("case", [*WITH_TERM, "id cid tse", "id cid grab"])
def test_a_loss_has_its_term_on_the_rewritten_captions(case: str) -> None:
    """That of the model without rewrites, given the rewritten captions as the captions."""
    switches = ALL_OFF | {"experiment.id_on": "all"}
    for name in case.split():
        switches |= {f"experiment.{name}": "true", f"experiment.{name}_ratio": 2}
    model, plain = tiny_model(switches | {"experiment.rewrites": "true"}), tiny_model(switches)
    assert model.inputs == plain.inputs | {"rewritten"}
    batch = tiny_batch()
    batch.weights = torch.arange(NUM_ROWS) / NUM_ROWS
    other = dataclasses.replace(batch, tokens=batch.rewritten)
    raw, rewritten = (plain(each, SOFT_LABEL).total for each in (batch, other))
    expected = raw + 0.7 * rewritten
    expected.backward()
    output = model(batch, SOFT_LABEL)
    torch.testing.assert_close(output.total, expected, rtol=1e-5, atol=1e-6)
    output.total.backward()
    assert_same_gradients(gradients(model), gradients(plain))


def test_a_loss_that_reads_no_caption_or_its_tokens_has_no_other_term() -> None:
    for name in ("ss", "mlm"):
        switches = {**ALL_OFF, f"experiment.{name}": "true"}
        model, plain = tiny_model(switches | {"experiment.rewrites": "true"}), tiny_model(switches)
        assert model.inputs == plain.inputs
        assert model(tiny_batch(), 0.0).total == plain(tiny_batch(), 0.0).total


def test_trained_batch_normalisation_counts_an_image_once() -> None:
    switches = ALL_OFF | {"experiment.tse": "true", "experiment.tse_batchnorm": "trained"}
    model, plain = tiny_model(switches | {"experiment.rewrites": "true"}), tiny_model(switches)
    for each in (model, plain):
        each(tiny_batch(), 0.0)
    found, wanted = (dict(each.objectives["tse"].head.named_buffers()) for each in (model, plain))
    for name, values in wanted.items():
        assert torch.equal(found[name], values) == name.startswith("image"), name


@pytest.fixture
def rewritten(people: Path, tmp_path: Path) -> list[str]:
    """The options of data in which the first caption of each training image has rewrites."""
    folder = tmp_path / "annotations"
    shutil.copytree(people, folder)
    path = folder / "train_reid_en.json"
    records = json.loads(path.read_text(encoding="utf-8"))
    for record in records:
        record["diversity_captions"] = [GROUPS, *([] for _ in record["captions"][1:])]
    path.write_text(json.dumps(records), encoding="utf-8")
    return [f"data.annotation_file={folder}", f"data.image_root={folder}/imgs"]


def trainer_of(config: Path, *overrides: str) -> Trainer:
    options = load_options(config, overrides)
    splits = load_data(options)
    torch.manual_seed(0)
    model, tokenizer, processor = build_model(options, splits.num_identities)
    loaders = build_loaders(options, splits, tokenizer, processor, model.inputs)
    return build_trainer(options, model, loaders, {}, torch.device("cpu"), torch.float32, StopSignals())


def first_batch(trainer: Trainer) -> Batch:
    trainer.train_loader.batch_sampler.set_epoch(0)
    return next(iter(trainer.train_loader))


def test_the_division_reads_the_captions_alone_and_its_labels_apply_to_both_terms(
    config: Path, rewritten: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, plain = (trainer_of(config, *rewritten, *RDE, *more) for more in ([ON], []))
    encode, seen = division.encode_in_parts, []

    def encode_and_note(*arguments: object) -> Pairs:
        pairs = encode(*arguments)
        seen.extend([*pairs.features, *pairs.local])
        return pairs

    monkeypatch.setattr(division, "encode_in_parts", encode_and_note)
    for each in (trainer, plain):
        each.division.divide(0, iter)
    assert "tokens/tse_head" in seen
    assert not [name for name in seen if name.startswith("rewritten")]
    is_clean = trainer.division.is_clean
    assert torch.equal(is_clean, plain.division.is_clean)

    batch = first_batch(trainer)
    labels = is_clean[batch.indices].float()
    assert 0 < labels.sum() < len(labels)
    with torch.no_grad():
        pairs = [
            plain.model.gather(plain.model.encode(each)[0], each, 0.0)
            for each in (batch, dataclasses.replace(batch, tokens=batch.rewritten))
        ]
        rows = {
            name: [objective.rows(each) for each in pairs]
            for name, objective in plain.model.objectives.items()
        }
    trainer.train_step(trainer.model, batch)
    means = trainer.meter.means()
    for name, (raw, other) in rows.items():
        assert means[name] == pytest.approx((labels * (raw + 0.97 * other)).sum().item(), rel=1e-4)


def test_the_term_decays_from_epoch_to_epoch(config: Path, rewritten: list[str]) -> None:
    trainer = trainer_of(config, *rewritten, ON, "experiment.dropout=0", "model.softlabel_ratio=0")
    batch = first_batch(trainer)
    for epoch, weight in ((0, 0.97), (1, 0.94), (9, 0.7), (28, 0.13), (29, 0.1), (30, 0.1), (59, 0.1)):
        with torch.no_grad():
            raw = trainer.model(dataclasses.replace(batch, rewritten_weight=0.0), 0.0).total.item()
            whole = trainer.model(dataclasses.replace(batch, rewritten_weight=1.0), 0.0).total.item()
        trainer.epoch = epoch
        trainer.meter.reset()
        trainer.train_step(trainer.model, batch)
        assert trainer.meter.means()["loss"] == pytest.approx(raw + weight * (whole - raw), rel=1e-5)


def test_a_run_that_resumes_goes_on_with_the_weight_of_its_epoch(
    config: Path,
    rewritten: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And not inside an epoch without rewrites, or with others."""
    gather, weights = TBPS.gather, []

    def gather_and_note(self: TBPS, features: object, batch: Batch, soft_label: float) -> Pairs:
        weights.append(batch.rewritten_weight)
        return gather(self, features, batch, soft_label)

    monkeypatch.setattr(TBPS, "gather", gather_and_note)
    arguments = ["--config", str(config), *rewritten, ON, "experiment.mixgen=true", "data.noise=0.5"]
    arguments += ["log.checkpoint_period=1", "log.keep_checkpoints=9"]
    assert main(arguments) == 0
    assert weights == pytest.approx([0.97, 0.97, 0.94, 0.94])
    weights.clear()
    resumed = tmp_path / "resumed"
    shutil.copytree(tmp_path / "run", resumed)
    checkpoint = ["--resume", str(resumed / "checkpoint_step_3.pth"), "--output-dir", str(resumed)]
    assert main([*arguments, *checkpoint]) == 0
    assert weights == pytest.approx([0.94])
    assert_same_runs(tmp_path / "run", resumed)
    capsys.readouterr()
    assert main([*arguments, *checkpoint, "experiment.rewrites=false"]) == 2
    assert error_line(capsys).startswith("error: experiment.rewrites: the checkpoint is inside an epoch ")
    path = Path(rewritten[0].partition("=")[2], "train_reid_en.json")
    path.write_text(path.read_text(encoding="utf-8").replace("red shirt", "blue shirt"), encoding="utf-8")
    assert main([*arguments, *checkpoint]) == 2
    assert_mentions(error_line(capsys), "the training images or captions are not those that it began with")


def test_two_processes_divide_and_train_as_one_does(
    config: Path, rewritten: list[str], tmp_path: Path
) -> None:
    common = ["--config", str(config), *rewritten, *RDE, ON, "log.print_period=1"]
    one, two = tmp_path / "one", tmp_path / "two"
    assert main([*common, "data.batch_size=20", "--output-dir", str(one)]) == 0
    both = [*common, "data.batch_size=10", "--output-dir", str(two)]
    assert run_in_processes(main, 2, tmp_path, both) == [0, 0]
    wanted, found = train_lines(one), train_lines(two)
    assert len(wanted) == 4
    for line, other in zip(wanted, found, strict=True):
        assert other["loss"] == pytest.approx(line["loss"], rel=1e-3)
        assert other["gradient_norm"] == pytest.approx(line["gradient_norm"], rel=1e-3)


IRRA = ["experiment.mlm=true", "experiment.mlm_variant=irra", "experiment.mlm_masks_all=true"]


def test_rewritten_captions_are_not_masked(config: Path, rewritten: list[str]) -> None:
    batch = first_batch(trainer_of(config, *rewritten, ON, *IRRA))
    assert (batch.tokens["input_ids"] == MASK).any()
    assert not (batch.rewritten["input_ids"] == MASK).any()


def test_the_tokens_of_a_caption_and_of_its_rewritten_one_change_apart(config: Path, people: Path) -> None:
    """Here no caption has rewrites: both are the caption, of other draws."""
    trainer = trainer_of(config, "experiment.text_aug=tokens", "experiment.eda_alpha=0.3")
    trainer.train_loader.dataset.samples.rewritten = True
    batch = first_batch(trainer)
    masked = [(tokens["input_ids"] == MASK).sum() for tokens in (batch.tokens, batch.rewritten)]
    assert all(masked)
    assert batch.tokens["input_ids"].tolist() != batch.rewritten["input_ids"].tolist()


@pytest.mark.parametrize(
    "more",
    [
        [*IRRA, "data.languages=[en,ch]", "data.language_draw=one", "data.few_shot=0.8"],
        [
            *("data.sampler=identity", "experiment.mixgen=true", "experiment.mixgen_p=1", "data.noise=0.3"),
            *("experiment.ss_text=true", "experiment.tse=true", "experiment.backtrans_p=0.5"),
            *("schedule.accumulate=2", "experiment.nitc=true", "experiment.mvs_text=true"),
        ],
    ],
)
def test_rewrites_go_with_other_options(config: Path, rewritten: list[str], more: list[str]) -> None:
    assert main(["--config", str(config), *rewritten, ON, "schedule.epoch=1", *more]) == 0


def test_without_rewrites_a_run_that_asks_for_them_is_refused(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config", str(config), ON]) == 2
    assert error_line(capsys).startswith("error: experiment.rewrites: no training caption of ")
