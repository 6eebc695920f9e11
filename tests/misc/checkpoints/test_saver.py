"""When checkpoints are written, and what happens to them while the disk is full."""

import errno
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from misc.checkpoints.read import BEST, LAST, load_checkpoint
from misc.checkpoints.saver import Saver
from misc.checkpoints.write import save_best
from misc.process import distributed
from tests.helpers.gloo import run_in_processes
from tests.helpers.whole_runs import checkpoint_state as state


@pytest.mark.parametrize("keep", [0, 1, 2])
def test_no_more_checkpoints_lie_on_the_disk_than_room_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: int
) -> None:
    """Hard links counted once, and the one that is being written."""
    counts, original = [], torch.save

    def count(*arguments: Any) -> None:
        original(*arguments)
        counts.append(len({path.stat().st_ino for path in tmp_path.iterdir()}))

    monkeypatch.setattr(torch, "save", count)
    saver = Saver(tmp_path, None, keep)
    for step in range(1, 7):
        saver.save(state(step), is_best=step % 2 == 0)
    assert max(counts) == 3 + keep


def test_while_the_best_one_finds_no_room_newer_last_ones_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saver = Saver(tmp_path, None, keep=0)
    saver.save(state(1), is_best=True)
    with monkeypatch.context() as patch:
        patch.setattr("misc.checkpoints.saver.save_best", refuse)
        saver.save(state(2), is_best=False)
        saver.save(state(2), is_best=True)  # after its evaluation
        saver.save(state(3), is_best=False)
        assert load_checkpoint(tmp_path / LAST)["step"] == 3
        saver.share()
        assert saver.status(3) == f"saved in '{tmp_path}'"
        saver.save(state(4), is_best=False)
        assert load_checkpoint(tmp_path / BEST)["step"] == 1
    saver.finish()
    assert load_checkpoint(tmp_path / BEST)["step"] == 2
    assert load_checkpoint(tmp_path / LAST)["step"] == 4


def refuse(*_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def finish_on_this_rank(folder: str) -> bool:
    """Whether the best one is there when a rank need not wait any more; rank 0's disk takes it at last."""
    keeper = Saver(Path(folder), None, 1)
    tries: list[int] = []

    def written_late(state: dict[str, Any], *arguments: Any) -> None:
        tries.append(1)
        if len(tries) < 4:
            refuse()
        save_best(state, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("misc.checkpoints.saver.save_best", written_late)
        patch.setattr("misc.checkpoints.saver.PAUSE", 0.5)
        if distributed.is_main():
            keeper.save(state(1), is_best=True)
        keeper.finish()
    return (Path(folder) / BEST).exists()


def test_no_process_goes_on_while_the_first_one_waits_for_room(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    assert run_in_processes(finish_on_this_rank, 2, tmp_path, str(tmp_path / "run")) == [True, True]


def flips() -> dict[str, Callable[[bytes], bytes]]:
    """Changes of one byte in the parts of a checkpoint's zip: heads, numbers, table of contents, end."""

    def flip(at: Callable[[bytes], int], mask: int) -> Callable[[bytes], bytes]:
        def change(content: bytes) -> bytes:
            place = at(content)
            return content[:place] + bytes([content[place] ^ mask]) + content[place + 1 :]

        return change

    def entry(offset: int) -> Callable[[bytes], int]:
        return lambda content: content.index(b"PK\1\2") + offset

    return {
        "the compression of a part": flip(entry(10), 1),
        "a password": flip(entry(8), 1),
        "patched data": flip(entry(8), 32),
        "a name": flip(entry(46), 128),
        "the length of a name": flip(entry(28), 8),
        "the length of a part's name": flip(lambda content: 26, 64),
        "the begin": flip(lambda content: 0, 1),
        "the end": flip(lambda content: content.index(b"PK\5\6"), 2),
        "a number": flip(lambda content: content.index(torch.full((2,), 2.0).numpy().tobytes()) + 3, 1),
    }


@pytest.mark.parametrize("flip", flips().values(), ids=flips().keys())
def test_a_checkpoint_that_does_not_read_back_is_written_again_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, flip: Any
) -> None:
    saver, original = Saver(tmp_path, None, keep=0), torch.save
    saver.save(state(1.0), is_best=True)

    def damaged(content: Any, file: Any) -> None:
        buffer = io.BytesIO()
        original(content, buffer)
        file.write(flip(buffer.getvalue()))

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", damaged)
        saver.save(state(2.0), is_best=True)
    assert "checkpoint of step 2.0 could not be written" in caplog.text
    assert load_checkpoint(tmp_path / LAST)["step"] == load_checkpoint(tmp_path / BEST)["step"] == 1
    saver.finish()
    assert load_checkpoint(tmp_path / LAST)["step"] == load_checkpoint(tmp_path / BEST)["step"] == 2
    assert {path.name for path in tmp_path.iterdir()} == {LAST, BEST}
