"""Small models of several families in whole runs: killed and resumed, in two processes, evaluated."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from main import main
from misc.evaluation.features import load_features
from misc.export.__main__ import main as export
from misc.search.__main__ import main as search
from misc.search.index import Index
from misc.training.engine import Trainer
from tests.helpers.gloo import run_in_processes
from tests.helpers.whole_runs import assert_same_runs, error_line, results_of, train_lines

Folder = Callable[[str], Path]
EPOCHS, BATCH, LENGTH = 2, 16, 3  # of 40 samples: the last batch is short, and has four for a process of two
FAST = ("batch norm", "siglip2")
SLOW = ("attention pooling", "rotary", "hub", "chinese_clip", "metaclip_2")
KINDS = [*FAST, *(pytest.param(kind, marks=pytest.mark.slow) for kind in SLOW)]


class CrashError(Exception):
    pass


class Run(NamedTuple):
    """A model, the option that names its weights, the command line of its runs, and the folder of one."""

    kind: str
    option: str
    command: list[str]
    folder: Path


@pytest.fixture(scope="module", params=KINDS)
def run(
    request: pytest.FixtureRequest,
    people: Path,
    open_clip_folder: Folder,
    families: Folder,
    tmp_path_factory: pytest.TempPathFactory,
) -> Run:
    """The simplified recipe, with the images of a person's shape."""
    kind, folder = request.param, tmp_path_factory.mktemp("backbone") / "run"
    of_transformers = kind in ("siglip2", "chinese_clip", "metaclip_2")
    backbone, weights = ("transformers", families) if of_transformers else ("open_clip", open_clip_folder)
    size = [84, 28] if kind == "rotary" else [64, 32]
    option = f"model.{backbone}_pretrained"
    command = [
        *("--config", "config/s.config.yaml", f"model.backbone={backbone}", f"{option}={weights(kind)}"),
        *("misc.device=cpu", f"data.annotation_file={people}", f"data.image_root={people}/imgs"),
        *(f"data.image_size={size}", "data.num_workers=0", f"data.batch_size={BATCH}"),
        *("data.test_batch_size=32", "data.drop_last=false", "model.lock_patch_embedding=false"),
        *("schedule.lr=1e-3", "schedule.epoch_warmup=1", f"schedule.epoch={EPOCHS}", "log.print_period=1"),
    ]
    assert main([*command, "--output-dir", str(folder)]) == 0
    return Run(kind, option, command, folder)


def test_the_loss_is_finite_and_falls(run: Run) -> None:
    losses = [line["loss"] for line in train_lines(run.folder)]
    assert len(losses) == EPOCHS * LENGTH
    assert np.isfinite(losses).all()
    assert np.mean(losses[LENGTH:]) < np.mean(losses[:LENGTH])


def test_a_run_killed_inside_an_epoch_resumes_to_the_same_bits(run: Run, tmp_path: Path) -> None:
    command = [*run.command, "--output-dir", str(tmp_path / "run"), "log.checkpoint_period=1"]
    original = Trainer.train_step

    def train_step(self: Trainer, *others: Any) -> None:
        if self.step == LENGTH + 2:
            raise CrashError
        original(self, *others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "train_step", train_step)
        with pytest.raises(CrashError):
            main(command)
    assert main([*command, "--resume"]) == 0
    assert_same_runs(run.folder, tmp_path / "run")


@pytest.mark.parametrize("loss", ["nitc", pytest.param("sigmoid", marks=pytest.mark.slow)])
def test_two_processes_in_parts_train_as_one_does(run: Run, tmp_path: Path, loss: str) -> None:
    losses = [f"experiment.{name}={str(name == loss).lower()}" for name in ("nitc", "sigmoid")]
    command = [*run.command, *losses, "experiment.dropout=0", "schedule.epoch=1", "--output-dir"]
    assert main([*command, str(tmp_path / "one")]) == 0
    two = [*command, str(tmp_path / "two"), f"data.batch_size={BATCH // 2}", "schedule.accumulate=2"]
    assert run_in_processes(main, 2, tmp_path, two) == [0, 0]
    wanted, found = (train_lines(tmp_path / name) for name in ("one", "two"))
    for name in ("loss", "gradient_norm"):
        assert [line[name] for line in found] == pytest.approx([line[name] for line in wanted], rel=1e-4)


def test_evaluation_search_and_export_have_the_figures_of_the_run(
    run: Run, people: Path, tmp_path: Path
) -> None:
    best, options = str(run.folder / "checkpoint_best.pth"), ["--config", str(run.folder / "options.yaml")]
    features, index = tmp_path / "features", tmp_path / "index"
    arguments = [*options, "--output-dir", str(tmp_path / "run"), "--evaluate", best]
    assert main([*arguments, "--save-features", str(features)]) == 0
    assert results_of(tmp_path / "run")["languages"] == results_of(run.folder)["languages"]

    assert search(["index", best, str(people / "imgs"), "--out", str(index)]) == 0
    assert search(["query", str(index), "a man in a red coat"]) == 0
    (saved,) = load_features(features, "--evaluate").sets.values()
    found = Index.open(index)
    for name, row in zip(saved.evaluation_set.images, saved.features.images, strict=True):
        stored = found.features_of([found.paths.index(name)])[0]
        np.testing.assert_allclose(stored, row, atol=1e-3)  # half precision

    assert export([best, str(tmp_path / "out"), "--format", "safetensors"]) == 0
    arguments = [*options, "--output-dir", str(tmp_path / "again")]
    assert main([*arguments, "--evaluate", str(tmp_path / "out" / "model.safetensors")]) == 0
    assert results_of(tmp_path / "again")["languages"] == results_of(run.folder)["languages"]


def test_a_run_and_its_evaluation_name_the_folder_that_is_gone(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = f"{run.option}={tmp_path / 'gone'}"
    arguments = ["--config", str(run.folder / "options.yaml"), gone, "--output-dir", str(tmp_path / "run")]
    for more in (["--evaluate", str(run.folder / "checkpoint_best.pth")], ["schedule.epoch=3"]):
        capsys.readouterr()
        assert main([*arguments, *more]) == 2
        assert f"{run.option}: '{tmp_path / 'gone'}' does not exist" in error_line(capsys)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.image_size=[60,32]", "data.image_size: expected multiples of the patch size"),
        ("experiment.text_length=78", "experiment.text_length: expected at most"),
        ("model.embed_dim=99", "model.embed_dim: 99 is set, but"),
        ("model.lock_image_blocks=99", "model.lock_image_blocks: expected blocks from 0 to"),
    ],
)
def test_what_does_not_go_with_the_weights_is_refused_before_training(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], override: str, message: str
) -> None:
    capsys.readouterr()
    assert main([*run.command, override, "--output-dir", str(tmp_path / "run")]) == 2
    assert message in error_line(capsys)


def test_captions_that_the_text_tower_cuts_are_counted_in_the_log(run: Run) -> None:
    said = (run.folder / "log.txt").read_text(encoding="utf-8").count(" of 40 captions are longer than ")
    assert said == 1


def test_the_card_of_the_model_says_how_images_and_captions_are_prepared(run: Run) -> None:
    card = (run.folder / "model_card.md").read_text(encoding="utf-8")
    assert f"trained from `{run.command[3].partition('=')[2]}`" in card
    assert ("open_clip_torch" in card) >= (run.option == "model.open_clip_pretrained")
