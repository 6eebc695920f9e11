"""Reading checkpoints, and finding the one that a run resumes from."""

import copy
import errno
import logging
import math
import os
import re
import stat
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from misc.checkpoints.components import State
from misc.process import distributed
from model.weights.pickles import damaged_entry, read_pickled
from options import UserError

logger = logging.getLogger(__name__)

LAST, BEST, OLDER = "checkpoint_last.pth", "checkpoint_best.pth", "checkpoint_step_{}.pth"
IDENTIFYING = ("model", "optimizer", "ranks", "epoch", "step", "options")  # entries that only our files have


def older_checkpoints(folder: Path) -> list[Path]:
    """The files `checkpoint_step_N.pth` of a folder, the newest first."""
    names = {path: re.fullmatch(OLDER.format(r"(\d+)"), path.name) for path in folder.glob("*.pth")}
    steps = {int(match[1]): path for path, match in names.items() if match}
    return [steps[step] for step in sorted(steps, reverse=True)]


def step_of(path: Path) -> int | None:
    """The step a checkpoint was written at; None where there is no file, or it cannot be read."""
    try:
        return int(read_pickled(path)["step"])
    except Exception:
        return None


def check_bytes(path: Path) -> None:
    """Raise OSError unless a checkpoint can be read, each part with the checksum that it was written with."""
    if not stat.S_ISREG(os.stat(path).st_mode):  # reading a device or a pipe may never end
        raise OSError(errno.EINVAL, f"'{path}': not a regular file")
    try:
        damaged = damaged_entry(path)
        if not damaged:
            read_pickled(path)  # the checksums do not cover the table of contents
    except OSError:
        raise
    except Exception as error:  # the parsers raise any exception on a damaged file
        raise OSError(errno.EIO, f"'{path}': {str(error) or type(error).__name__}") from error
    if damaged:
        raise OSError(errno.EIO, f"'{path}': the checksum of {damaged} does not match")


def load_checkpoint(path: Path) -> State:
    """Read a checkpoint of a run onto the CPU, executing nothing.

    Raises:
        UserError: no such file, not a checkpoint, damaged, or without the training state.
    """
    try:
        check_bytes(path)
        state = copy.deepcopy(read_pickled(path))  # the optimizer must not hold views of the file
    except FileNotFoundError:
        raise UserError(f"checkpoint '{path}': no such file") from None
    except Exception as error:  # the parsers raise any exception on a damaged file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"checkpoint '{path}': damaged, or not a checkpoint ({reason[:200]})") from error
    if not isinstance(state, dict) or any(name not in state for name in IDENTIFYING):
        raise UserError(
            f"checkpoint '{path}': has no training state of this program to resume from; "
            "model.clip_pretrained starts a new run from its weights"
        )
    return state


def is_of_folder(resume: str | None, folder: Path) -> bool:
    """Whether --resume `resume` continues the run in `folder`, as rank 0 sees it."""
    if resume is None or resume == "auto":
        return resume == "auto"
    return distributed.broadcast_object(os.path.realpath(Path(resume).parent) == os.path.realpath(folder))


def find_checkpoint(resume: str | None, folder: Path) -> State | None:
    """The training state to resume from, which rank 0 reads for all ranks. Collective.

    Args:
        resume: None: start from scratch; "auto": the newest readable checkpoint of `folder`, or from scratch
            where there is none; else a file.

    Raises:
        UserError: the file cannot be read, or for "auto" the folder or all of the checkpoints in it; or they
            are on another machine than rank 0.
    """
    if resume is None:
        return None
    state = problem = None
    if distributed.is_main():
        try:
            state = _find(resume, folder)
        except UserError as error:
            problem = str(error)
    has_some = distributed.gather_objects(any(folder.glob("checkpoint_*.pth")))
    if resume == "auto" and not has_some[0] and any(has_some):
        problem = (
            f"output.dir: process {has_some.index(True)} finds checkpoints in '{folder}', process 0, which "
            "reads them, none: start it on the machine that has them, or share the folder"
        )
    if problem := distributed.broadcast_object(problem):
        raise UserError(problem)
    return _on_all_ranks(state)


def _on_all_ranks(state: State | None) -> State | None:
    """Rank 0's state, a tensor at a time: as one object it would be held several times."""
    tensors: list[Tensor] = []
    skeleton, number = distributed.broadcast_object((_without(state, tensors), len(tensors)))
    for place in range(number):
        tensor = distributed.broadcast_object(tensors[place] if distributed.is_main() else None)
        if not distributed.is_main():
            tensors.append(tensor)
    return state if distributed.is_main() else _with(skeleton, tensors)


class _Place(NamedTuple):
    """Where a tensor of that number is in a state."""

    number: int


def _without(value: object, tensors: list[Tensor]) -> object:
    """The value with a place for each tensor, which is added to `tensors`."""
    if isinstance(value, Tensor):
        tensors.append(value)
        return _Place(len(tensors) - 1)
    if isinstance(value, dict):
        return type(value)((key, _without(each, tensors)) for key, each in value.items())
    return [_without(each, tensors) for each in value] if isinstance(value, list) else value


def _with(value: object, tensors: list[Tensor]) -> object:
    if isinstance(value, _Place):
        return tensors[value.number]
    if isinstance(value, dict):
        return type(value)((key, _with(each, tensors)) for key, each in value.items())
    return [_with(each, tensors) for each in value] if isinstance(value, list) else value


def _find(resume: str, folder: Path) -> State | None:
    if resume != "auto":
        return load_checkpoint(Path(resume))
    problems = []
    for path in _newest_first(folder):
        try:
            return load_checkpoint(path)
        except UserError as error:
            logger.warning("passed over: %s", error)
            problems.append((path.name, error))
    if problems:
        names = ", ".join(name for name, _ in problems)
        raise UserError(
            f"output.dir: '{folder}' has checkpoints ({names}), but none can be read: {problems[0][1]}. Try "
            "again, or start from scratch: without --resume, with output.overwrite=true"
        )
    return None


def _newest_first(folder: Path) -> list[Path]:
    """The checkpoints of a folder; first those whose step cannot be read, to be tried and named."""
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"output.dir: the folder '{folder}' cannot be read ({error.strerror})") from error
    paths = [folder / name for name in (LAST, BEST) if name in names] + older_checkpoints(folder)
    steps = {path: step_of(path) for path in paths}
    return sorted(paths, key=lambda path: math.inf if steps[path] is None else steps[path], reverse=True)
