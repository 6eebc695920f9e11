"""Writing checkpoints, each whole or not at all."""

import contextlib
import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from misc.checkpoints.components import State
from misc.checkpoints.read import BEST, LAST, OLDER, check_bytes, older_checkpoints, step_of
from misc.process import distributed
from misc.process.durable import leftovers, replacing
from options import UserError


def save_last(state: State, folder: Path, keep: int = 1) -> None:
    """Write `checkpoint_last.pth`; the previous one is kept as `checkpoint_step_N.pth`.

    The new file is written under a temporary name, flushed to the disk and read back before it replaces the
    previous one: after a kill at any moment there is a readable checkpoint.

    Args:
        keep: how many of the older ones are kept, the newest.

    Raises:
        OSError: the disk is full, or returns other bytes; the checkpoints are unchanged.
    """
    last = folder / LAST

    def verify_and_keep_previous(new: Path) -> None:
        check_bytes(new)
        _keep_previous(last, keep, state["step"])

    _write(state, last, verify_and_keep_previous)
    for path in older_checkpoints(folder)[keep:]:
        path.unlink(missing_ok=True)


def save_best(state: State, folder: Path) -> None:
    """Write `checkpoint_best.pth`, just as safely; raises OSError as `save_last` does."""
    _write(state, folder / BEST, check_bytes)


def _write(state: State, path: Path, before_rename: Callable[[Path], None]) -> None:
    with replacing(path, before_rename=before_rename) as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # torch's error for a full disk
            raise OSError(errno.EIO, str(error).splitlines()[0]) from error


def _keep_previous(last: Path, keep: int, new_step: int) -> None:
    """Give the previous checkpoint a second name by its step; the new one will replace it under the first."""
    step = step_of(last)
    if not keep or step is None or step == new_step:  # the same step again, after its evaluation
        return
    older = last.with_name(OLDER.format(step))
    older.unlink(missing_ok=True)
    try:
        os.link(last, older)
    except OSError:  # a file system without hard links
        last.replace(older)


def check_space(model: torch.nn.Module, folder: Path, keep: int) -> None:
    """Raise UserError unless the disk has space for a run's checkpoints: last, best, older, and a new one.

    Incomplete files that a kill left are removed.
    """
    trained = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    size = sum(tensor.nbytes for tensor in model.state_dict().values()) + 2 * trained  # two moments of each
    free = distributed.broadcast_object(_free_bytes(folder) if distributed.is_main() else 0)
    if (3 + keep) * size > free:
        raise UserError(
            f"output.dir: the disk of '{folder}' has {free / 1e9:.2f} GB free, its checkpoints counted as "
            f"free, but those of this run take {(3 + keep) * size / 1e9:.2f} GB ({3 + keep} of "
            f"{size / 1e9:.2f} GB); free some, choose another folder with --output-dir, or lower "
            "log.keep_checkpoints"
        )


def _free_bytes(folder: Path) -> int:
    """Remove the incomplete files of a kill; returns the bytes that are free or held by checkpoints."""
    for path in (*leftovers(folder / LAST), *leftovers(folder / BEST)):
        with contextlib.suppress(OSError):
            path.unlink()
    existing = [folder / LAST, folder / BEST, *older_checkpoints(folder)]
    return shutil.disk_usage(folder).free + sum(path.stat().st_size for path in existing if path.exists())
