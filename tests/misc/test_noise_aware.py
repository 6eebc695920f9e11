"""Noise-aware masking in whole runs: what an epoch finds decides the masks of the next."""

import os
import secrets
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.columns.mismatches import HEADER, Mismatches
from data.types import Batch
from main import main
from misc.training.engine import Trainer
from tests.helpers.gloo import run_in_processes
from tests.helpers.tiny_config import write_tiny
from tests.helpers.whole_runs import (
    assert_mentions,
    assert_same,
    assert_same_runs,
    content,
    error_line,
    losses,
    torchrun,
    write_program,
)

OFF = [f"experiment.{name}=false" for name in ("nitc", "mvs_image", "ritc", "citc", "ss", "back_trans")]
NAM = [
    *(*OFF, "experiment.sdm=true", "experiment.mask_captions=noise-aware", "experiment.mask_block=0"),
    *("model.image_layers=2", "model.text_layers=2", "experiment.text_aug=none", "experiment.dropout=0"),
    *("schedule.epoch=3", "schedule.lr=1e-2", "log.print_period=1", "data.drop_last=false"),
]
SAMPLES, SIZE, STEPS = 40, 12, 4  # captions; of a step; of an epoch: the last one has 4
WORDS = 77


@pytest.fixture(autouse=True)
def _same_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "token_hex", lambda number: "0" * 2 * number)


@pytest.fixture(scope="module")
def whole(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of three epochs that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole")
    config = write_tiny(folder / "tiny.yaml", people, folder / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(secrets, "token_hex", lambda number: "0" * 2 * number)
        assert main(["--config", str(config), *NAM, f"data.batch_size={SIZE}"]) == 0
    return folder / "run"


def state(run: Path, epoch: int) -> np.ndarray:
    """(samples, tokens) of a file, counted from 1, read as the documents describe it."""
    raw = (run / f"token_mismatch_{epoch:04d}.bin").read_bytes()[HEADER:]
    rows = np.frombuffer(raw, np.uint8).reshape(SAMPLES, 2 * WORDS + 4)
    return rows[:, : 2 * WORDS].copy().view("<f2").astype(float)


def spy_on_batches(patch: pytest.MonkeyPatch) -> list[tuple[int, Batch]]:
    """(epoch from 0, batch) of every step that follows."""
    seen, original = [], Trainer.train_step

    def train_step(self: Trainer, wrapped: object, batch: Batch) -> None:
        seen.append((self.epoch, batch))
        original(self, wrapped, batch)

    patch.setattr(Trainer, "train_step", train_step)
    return seen


def test_masks_follow_the_mismatch_of_the_epoch_before(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over many epochs whose file says that one token of each caption fits nothing, and another one well."""
    seen = spy_on_batches(monkeypatch)
    values = np.full((SAMPLES, WORDS), 0.5)
    values[:, 2], values[:, 3] = 1.0, 0.0  # the mean is that of the words of a caption, about 0.5
    write = Mismatches.write
    monkeypatch.setattr(Mismatches, "write", lambda self, e, rows, _: write(self, e, rows, values[rows]))
    epochs = 8
    more = [f"schedule.epoch={epochs}", "data.batch_size=40", "eval.period=8"]
    assert main(["--config", str(config), *NAM, *more]) == 0
    chosen = {
        first: np.concatenate([(b.mlm_labels[:, 1:5] != -100).numpy() for e, b in seen if (e == 0) == first])
        for first in (True, False)
    }
    assert len(chosen[False]) == (epochs - 1) * SAMPLES
    assert chosen[False][:, 1].mean() > 0.55, "clip(1 - 0.5 + 0.15)"
    assert not chosen[False][:, 2].any(), "clip(0 - 0.5 + 0.15)"
    assert 0.08 < chosen[False][:, [0, 3]].mean() < 0.22
    assert 0.05 < chosen[True].mean() < 0.25, "15 % in the first epoch"


def test_a_file_holds_what_the_weights_of_each_step_find(whole: Path) -> None:
    assert sorted(path.name for path in whole.glob("token_mismatch_*")) == [
        f"token_mismatch_{epoch:04d}.bin" for epoch in (1, 2, 3)
    ]
    first, second = state(whole, 1), state(whole, 2)
    assert (first[:, :8] != 0).all()
    assert ((first >= 0) & (first <= 2)).all()
    assert not np.array_equal(first, second)
    assert losses(whole)[:STEPS] != losses(whole)[STEPS : 2 * STEPS]


def test_two_processes_find_and_train_what_one_does(config: Path, whole: Path, tmp_path: Path) -> None:
    two = tmp_path / "two"
    arguments = ["--config", str(config), *NAM, f"data.batch_size={SIZE // 2}", "--output-dir", str(two)]
    assert run_in_processes(main, 2, tmp_path, arguments) == [0, 0]
    np.testing.assert_allclose(losses(two), losses(whole), rtol=1e-4)
    for epoch in (1, 2, 3):  # training magnifies the rounding of sums; other captions are 0.29 and more apart
        np.testing.assert_allclose(state(two, epoch), state(whole, epoch), atol=2e-3 * epoch)


class CrashError(Exception):
    pass


def crash_in_step(patch: pytest.MonkeyPatch, number: int) -> None:
    original = Trainer.train_step

    def train_step(self: Trainer, *arguments: Any) -> None:
        if self.step + 1 == number:
            raise CrashError
        original(self, *arguments)

    patch.setattr(Trainer, "train_step", train_step)


@pytest.mark.parametrize(("step", "workers"), [(2 * STEPS + 1, 0), (STEPS + 4, 2)])
def test_a_run_that_ends_inside_an_epoch_goes_on_to_the_last_bit(
    config: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, workers: int
) -> None:
    more = ["log.checkpoint_period=2", f"data.num_workers={workers}", f"data.batch_size={SIZE}"]
    with monkeypatch.context() as patch:
        crash_in_step(patch, step)
        with pytest.raises(CrashError):
            main(["--config", str(config), *NAM, *more])
    assert main(["--config", str(config), *NAM, *more, "--resume"]) == 0
    assert_same_runs(whole, tmp_path / "run")
    for epoch in (1, 2, 3):
        name = f"token_mismatch_{epoch:04d}.bin"
        assert (tmp_path / "run" / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.slow
def test_two_processes_that_are_killed_go_on_to_the_last_bit(config: Path, tmp_path: Path) -> None:
    lines = (
        "import signal\nfrom misc.training.engine import Trainer\nstep = Trainer.train_step\n"
        "def killed(self, *rest):\n"
        f"    if self.step == {STEPS + 3} and os.environ['RANK'] == '1':\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    step(self, *rest)\n"
        "Trainer.train_step = killed"
    )
    program = write_program(tmp_path / "killed.py", lines)
    common = ["--config", str(config), *NAM, f"data.batch_size={SIZE // 2}", "log.checkpoint_period=2"]
    common += ["data.num_workers=2"]
    runs = [tmp_path / "whole", tmp_path / "killed"]
    commands = [(None, []), (program, []), (None, ["--resume", "auto"])]
    for (of, more), run in zip(commands, (runs[0], runs[1], runs[1]), strict=True):
        process = torchrun(*common, "--output-dir", str(run), *more, program=of)
        output, _ = process.communicate(timeout=600)
        assert (process.returncode == 0) == (of is None), output
    first, second = (content(run / "checkpoint_last.pth") for run in runs)
    for one in (first, second):
        del one["mismatches"]  # the name of the run
    assert_same(first, second)
    for epoch in (1, 2, 3):
        assert np.array_equal(state(runs[0], epoch), state(runs[1], epoch))


@pytest.fixture(scope="module")
def half(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that ended inside its second epoch: to be read, not changed."""
    folder = tmp_path_factory.mktemp("half")
    config = write_tiny(folder / "tiny.yaml", people, folder / "run")
    with pytest.MonkeyPatch.context() as patch:
        crash_in_step(patch, STEPS + 4)
        with pytest.raises(CrashError):
            main(["--config", str(config), *NAM, f"data.batch_size={SIZE}", "log.checkpoint_period=2"])
    return folder / "run"


@pytest.fixture
def stopped(config: Path, half: Path, tmp_path: Path) -> list[str]:
    """The command that resumes a copy of it."""
    shutil.copytree(half, tmp_path / "run")
    return ["--resume", "auto", "--config", str(config), *NAM, f"data.batch_size={SIZE}"]


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


BEFORE, OWN = "token_mismatch_0001.bin", "token_mismatch_0002.bin"


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda run: (run / BEFORE).unlink(), (BEFORE, "epoch 1", "is missing")),
        (lambda run: (run / OWN).unlink(), (OWN, "epoch 2", "is missing")),
        (lambda run: os.truncate(run / BEFORE, 5000), (BEFORE, "is damaged", "another size")),
        (lambda run: flip(run / BEFORE, HEADER + 158 * 7 + 4), (BEFORE, "is damaged at sample")),
        (lambda run: flip(run / BEFORE, 10), (BEFORE, "is of another run")),
        (lambda run: shutil.copy(run / BEFORE, run / OWN), (OWN, "is of another run")),
    ],
)
def test_a_file_that_is_missing_damaged_or_of_another_run_is_a_line(
    stopped: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], harm: Any, words: tuple[str, ...]
) -> None:
    harm(tmp_path / "run")
    capsys.readouterr()
    assert main(stopped) == 2
    assert_mentions(error_line(capsys), "experiment.mask_captions=noise-aware", *words)


def test_a_run_without_it_cannot_go_on_with_it(
    stopped: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*stopped, "experiment.mask_captions=random", "schedule.epoch=2"]) == 0
    capsys.readouterr()
    assert main(stopped) == 2
    assert "the run of the checkpoint was without it" in error_line(capsys)


@pytest.mark.parametrize(
    "change",
    [
        "experiment.text_aug=tokens",
        "experiment.back_trans=true",
        "experiment.mixgen=true",
        ("data.languages=[en,ch]", "data.language_draw=one"),
    ],
)
def test_what_changes_the_tokens_of_a_sample_is_refused(
    config: Path, capsys: pytest.CaptureFixture[str], change: str | tuple[str, ...]
) -> None:
    change = (change,) if isinstance(change, str) else change
    capsys.readouterr()
    assert main(["--config", str(config), *NAM, *change]) == 2
    assert_mentions(error_line(capsys), "experiment.mask_captions=noise-aware", change[-1].split("=")[0])


def test_accumulated_and_with_mlm_a_run_finds_the_same(config: Path, whole: Path, tmp_path: Path) -> None:
    more = ["schedule.accumulate=3", "schedule.epoch=1", f"data.batch_size={SIZE}"]
    assert main(["--config", str(config), *NAM, *more]) == 0
    np.testing.assert_allclose(state(tmp_path / "run", 1), state(whole, 1), atol=2e-3)
    more = ["experiment.mlm=true", "experiment.cmt_depth=1", "schedule.epoch=2", "output.overwrite=true"]
    assert main(["--config", str(config), *NAM, *more]) == 0
    assert (state(tmp_path / "run", 2)[:, :8] != 0).all()
