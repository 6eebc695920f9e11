"""Checkpoints: written whole or not at all, read without executing anything, refused with one line."""

import errno
import io
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from misc.checkpoints.components import load_model_state
from misc.checkpoints.read import BEST, LAST, find_checkpoint, load_checkpoint, older_checkpoints
from misc.checkpoints.run_options import check_trained_with, saved_options
from misc.checkpoints.write import check_space, save_best, save_last
from options import Options, UserError
from tests.helpers.malicious import Creates, torchscript_that_writes
from tests.helpers.whole_runs import assert_mentions, files
from tests.helpers.whole_runs import checkpoint_state as state


def write(content: dict[str, Any], folder: Path, is_best: bool, keep: int = 1) -> None:
    if is_best:
        save_best(content, folder)
    save_last(content, folder, keep)


def test_last_is_always_written_and_best_only_when_asked(tmp_path: Path) -> None:
    write(state(1), tmp_path, is_best=True)
    write(state(2), tmp_path, is_best=False)
    assert load_checkpoint(tmp_path / LAST)["step"] == 2
    assert load_checkpoint(tmp_path / BEST)["step"] == 1
    assert load_checkpoint(tmp_path / "checkpoint_step_1.pth")["step"] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [BEST, LAST, "checkpoint_step_1.pth"]


@pytest.mark.parametrize("keep", [0, 1, 3])
def test_the_newest_of_the_older_ones_are_kept(tmp_path: Path, keep: int) -> None:
    for step in (5, 90, 100, 200, 300):
        write(state(step), tmp_path, is_best=False, keep=keep)
    kept = [load_checkpoint(path)["step"] for path in older_checkpoints(tmp_path)]
    assert kept == [200, 100, 90][:keep]
    assert load_checkpoint(tmp_path / LAST)["step"] == 300


def test_older_ones_are_kept_on_a_file_system_without_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbid(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", forbid)
    for step in (1, 2, 3):
        write(state(step), tmp_path, is_best=False)
    assert [load_checkpoint(path)["step"] for path in older_checkpoints(tmp_path)] == [2]
    assert load_checkpoint(tmp_path / LAST)["step"] == 3


def test_a_write_that_does_not_read_back_is_an_error_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(state(1), tmp_path, is_best=True)
    before = files(tmp_path)

    def torn(content: Any, file: Any) -> None:
        buffer = io.BytesIO()
        save(content, buffer)
        at = buffer.getvalue().index(torch.full((2,), 2.0).numpy().tobytes())
        file.write(buffer.getvalue()[:at] + b"x" + buffer.getvalue()[at + 1 :])

    save = torch.save
    monkeypatch.setattr(torch, "save", torn)
    with pytest.raises(OSError, match="checksum"):
        write(state(2.0), tmp_path, is_best=True)
    assert files(tmp_path) == before


def test_one_flipped_bit_in_a_tensor_is_noticed(tmp_path: Path) -> None:
    write(state(1), tmp_path, is_best=False)
    write(state(2.5), tmp_path, is_best=False)
    content = bytearray((tmp_path / LAST).read_bytes())
    content[content.index(torch.full((2,), 2.5).numpy().tobytes())] ^= 1
    (tmp_path / LAST).write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        load_checkpoint(tmp_path / LAST)
    assert find_checkpoint("auto", tmp_path)["step"] == 1


def test_room_for_the_checkpoints_is_asked_for_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = nn.Linear(1000, 1000)
    model.bias.requires_grad_(False)
    size = 4 * (3 * 1000 * 1000 + 1000)  # the weight with two moments, the bias alone
    free = 4 * size
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    check_space(model, tmp_path, keep=1)
    with pytest.raises(UserError, match=r"output\.dir.*GB free.*log\.keep_checkpoints"):
        check_space(model, tmp_path, keep=2)
    (tmp_path / LAST).write_bytes(bytes(size))  # makes way for the new one
    check_space(model, tmp_path, keep=2)


def test_what_a_kill_left_half_written_makes_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    half = [tmp_path / f"{name}{end}" for name in (LAST, BEST) for end in (".tmp", ".0123abcd.tmp")]
    model = nn.Linear(1000, 1000)
    size = 4 * 3 * (1000 * 1000 + 1000)
    for path in half:
        path.write_bytes(bytes(size // 2))

    def usage(_: Path) -> SimpleNamespace:
        return SimpleNamespace(free=4 * size - sum(path.stat().st_size for path in half if path.exists()))

    monkeypatch.setattr(shutil, "disk_usage", usage)
    check_space(model, tmp_path, keep=1)
    assert not list(tmp_path.iterdir())


def test_a_save_that_fails_leaves_the_old_checkpoint_whole(tmp_path: Path) -> None:
    write(state(1), tmp_path, is_best=True)
    unpicklable = state(2) | {"model": {"w": lambda: None}}
    with pytest.raises((pickle.PicklingError, AttributeError)):
        write(unpicklable, tmp_path, is_best=True)
    assert load_checkpoint(tmp_path / LAST)["step"] == load_checkpoint(tmp_path / BEST)["step"] == 1


def test_auto_takes_the_newest_good_one(tmp_path: Path) -> None:
    assert find_checkpoint("auto", tmp_path) is None
    write(state(1), tmp_path, is_best=True)
    write(state(2), tmp_path, is_best=False)
    assert find_checkpoint("auto", tmp_path)["step"] == 2
    whole = (tmp_path / LAST).read_bytes()
    (tmp_path / LAST).write_bytes(whole[: len(whole) // 2])
    assert find_checkpoint("auto", tmp_path)["step"] == 1
    (tmp_path / BEST).write_bytes(b"")
    (tmp_path / "checkpoint_step_1.pth").write_bytes(whole[:-9])
    with pytest.raises(UserError) as caught:
        find_checkpoint("auto", tmp_path)
    assert_mentions(str(caught.value), "output.dir", "damaged", "output.overwrite=true", LAST, BEST)
    assert "checkpoint_step_1.pth" in str(caught.value)


def test_auto_tries_and_names_one_whose_step_cannot_be_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_last(state(1), tmp_path)
    save_last(state(2), tmp_path)
    (tmp_path / LAST).write_bytes(b"")
    assert find_checkpoint("auto", tmp_path)["step"] == 1
    assert f"passed over: checkpoint '{tmp_path / LAST}'" in caplog.text


def test_a_kill_between_best_and_last_goes_on_from_best(tmp_path: Path) -> None:
    write(state(1), tmp_path, is_best=False)
    torch.save(state(2), tmp_path / BEST)
    assert find_checkpoint("auto", tmp_path)["step"] == 2


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "pickle", "torchscript", "other", "folder"])
def test_what_is_no_checkpoint_is_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    path, planted = tmp_path / "c.pth", tmp_path / "planted"
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("not a checkpoint")
    elif kind == "pickle":
        torch.save({"model": Creates(planted)}, path)
    elif kind == "torchscript":
        torchscript_that_writes(path, planted)
        planted.unlink(missing_ok=True)
    elif kind == "other":
        torch.save({"weights": torch.ones(2)}, path)
    elif kind == "folder":
        path.mkdir()
    with pytest.raises(UserError) as caught:
        load_checkpoint(path)
    assert "c.pth" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert saved_options(path) is None
    assert not planted.exists()


def test_what_is_loaded_does_not_change_with_the_file(tmp_path: Path) -> None:
    """The optimiser of a resumed run keeps tensors of it."""
    write(state(7), tmp_path, is_best=False)
    loaded = load_checkpoint(tmp_path / LAST)
    (tmp_path / LAST).write_bytes(bytes((tmp_path / LAST).stat().st_size))
    assert loaded["model"]["w"].tolist() == [7, 7]


def test_a_model_of_another_shape_or_with_other_names_is_refused_by_name() -> None:
    model = nn.Linear(3, 2)
    good = {name: value.clone() for name, value in model.state_dict().items()}
    load_model_state(model, good)
    for wrong, said in (
        (good | {"weight": torch.ones(2, 4)}, "'weight' has shape (2, 4)"),
        ({"weight": good["weight"]}, "'bias' is not in the checkpoint"),
        (good | {"extra": torch.ones(1)}, "'extra' is not in the model"),
    ):
        with pytest.raises(UserError) as caught:
            load_model_state(model, wrong)
        assert said in str(caught.value)


def test_evaluation_of_another_model_than_was_trained_is_refused(tmp_path: Path) -> None:
    write(state(1), tmp_path, is_best=False)
    check_trained_with(Options(), tmp_path / LAST)
    other = replace(Options(), experiment=replace(Options().experiment, text_length=50))
    with pytest.raises(UserError, match=r"experiment.text_length: .* trained with null.*50"):
        check_trained_with(other, tmp_path / LAST)
    foreign = tmp_path / "foreign.pth"
    torch.save({"w": torch.ones(1)}, foreign)
    check_trained_with(other, foreign)  # says nothing of its input
