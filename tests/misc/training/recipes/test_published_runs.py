"""Whole runs of the recipes of IRRA, RDE and ITSELF: killed and resumed, in two processes, and evaluated."""

from pathlib import Path
from typing import Any

import pytest

from main import main
from misc.training.engine import Trainer
from tests.helpers.gloo import run_in_processes
from tests.helpers.whole_runs import assert_same_runs, content, read_metrics, results_of, train_lines

RECIPES = ("irra", "rde", "itself")
EPOCHS, BATCH = 2, 18  # of 40 samples: the last batch is short, and odd for a process of two
LENGTH = 3  # steps of an epoch


class CrashError(Exception):
    pass


def arguments(recipe: str, people: Path, folder: Path, *more: str) -> list[str]:
    """The command line of a recipe on small pictures, with towers of one narrow block, or of two for ITSELF,
    whose number of tokens falls in the first four steps.
    """
    sizes = dict.fromkeys(("image_width", "text_width", "embed_dim"), 16)
    layers = 2 if recipe == "itself" else 1
    sizes |= dict.fromkeys(("image_layers", "text_layers"), layers) | {"image_heads": 2, "text_heads": 2}
    towers = [f"model.{name}={value}" for name, value in sizes.items()]
    if recipe == "itself":
        towers += ["experiment.grab_width=32", "experiment.grab_blocks=[0,1]", "experiment.grab_steps=4"]
        towers += ["experiment.grab_share=[0.9,0.3]", "data.sampler=random"]
    if recipe == "rde":
        towers.append("experiment.tse_width=32")
    return [
        *("--config", f"config/{recipe}.yaml", "--output-dir", str(folder), *towers),
        *("model.clip_pretrained=null", "misc.device=cpu", "schedule.lr=1e-3", "schedule.epoch_warmup=1"),
        *(f"data.annotation_file={people}", f"data.image_root={people}/imgs", "data.image_size=[64,32]"),
        *("data.dataset=auto", "data.num_workers=0", f"data.batch_size={BATCH}", f"schedule.epoch={EPOCHS}"),
        *("log.print_period=1", *more),
    ]


@pytest.fixture(scope="module", params=RECIPES)
def whole(
    request: pytest.FixtureRequest, people: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """A recipe, and the folder of its run."""
    folder = tmp_path_factory.mktemp(request.param) / "run"
    assert main(arguments(request.param, people, folder)) == 0
    return request.param, folder


def test_a_run_of_the_recipe_logs_its_losses_and_keeps_the_short_batch(whole: tuple[str, Path]) -> None:
    recipe, folder = whole
    lines = train_lines(folder)
    assert [line["step"] for line in lines] == list(range(1, EPOCHS * LENGTH + 1))
    parts = {"irra": {"mlm", "id", "sdm"}, "rde": {"tal", "tse"}, "itself": {"tal", "grab", "id", "cid"}}
    assert set(lines[0]["parts"]) == parts[recipe]
    assert [line["epoch"] for line in read_metrics(folder) if line["kind"] == "division"] == (
        [1, 2] if recipe == "rde" else []
    )


def test_a_run_killed_inside_an_epoch_resumes_to_the_same_bits(
    whole: tuple[str, Path], people: Path, tmp_path: Path
) -> None:
    recipe, folder = whole
    command = arguments(recipe, people, tmp_path / "run", "log.checkpoint_period=1")
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
    assert_same_runs(folder, tmp_path / "run")


IN_PARTS = ["schedule.accumulate=2", "experiment.tse_batchnorm=trained"]


@pytest.mark.parametrize("more", [[], pytest.param(IN_PARTS, marks=pytest.mark.slow)])
def test_two_processes_train_as_one_does(
    whole: tuple[str, Path], people: Path, tmp_path: Path, more: list[str]
) -> None:
    recipe, one = whole
    if more:
        one = tmp_path / "one"
        assert main(arguments(recipe, people, one, *more)) == 0
    two = arguments(recipe, people, tmp_path / "two", *more, f"data.batch_size={BATCH // 2}")
    assert run_in_processes(main, 2, tmp_path, two) == [0, 0]
    wanted = [line["loss"] for line in train_lines(one)]
    assert [line["loss"] for line in train_lines(tmp_path / "two")] == pytest.approx(wanted, rel=1e-4)
    first, second = (content(run / "checkpoint_last.pth")["model"] for run in (one, tmp_path / "two"))
    for name, tensor in first.items():
        assert (second[name] - tensor).abs().max() <= 1e-4 * max(1.0, tensor.abs().max()), name


def test_an_evaluation_without_its_options_has_the_figures_of_the_run(
    whole: tuple[str, Path], people: Path, tmp_path: Path
) -> None:
    recipe, folder = whole
    checkpoint = str(folder / "checkpoint_best.pth")
    command = arguments(recipe, people, tmp_path / "run", "--evaluate", checkpoint)
    assert main([argument for argument in command if not argument.startswith("data.image_size")]) == 0
    assert results_of(tmp_path / "run")["average"] == results_of(folder)["average"]
