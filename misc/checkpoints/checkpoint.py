"""Checkpoints: plain tensors and dicts, written whole or not at all."""

import contextlib
import copy
import errno
import json
import logging
import math
import os
import re
import shutil
import stat
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import safetensors
import torch

from misc.process import distributed
from misc.process.durable import replacing
from model.weights.pickles import read_pickled
from options import Options, UserError, load_options, to_dict

logger = logging.getLogger(__name__)

LAST, BEST, OLDER = "checkpoint_last.pth", "checkpoint_best.pth", "checkpoint_step_{}.pth"

# What a run goes on from, by name; `misc.checkpoints.resume` fills it and reads it.
TRAINING_STATE = dict.fromkeys(("model", "optimizer", "scaler", "best", "options"), dict)
TRAINING_STATE |= dict.fromkeys(("epoch", "step", "steps_per_epoch", "skipped_steps"), int)
TRAINING_STATE |= dict.fromkeys(("ranks", "bad_images"), list)


def save_last(state: dict[str, Any], folder: Path, keep: int = 1) -> None:
    """Write `checkpoint_last.pth`; the one that was the last stays as `checkpoint_step_N.pth`.

    It is written beside, flushed to the disk and read back before that one makes way: a kill at any moment
    leaves a whole checkpoint.

    Args:
        keep: how many of these older ones stay, the newest.

    Raises:
        OSError: the disk takes no more, or gives back other bytes; the checkpoints are as they were.
    """
    last = folder / LAST

    def settle(new: Path) -> None:
        """Read the new one back; keep the one before under its step."""
        _check_bytes(new)
        _retire(last, keep, state["step"])

    _write(state, last, settle)
    for path in older_checkpoints(folder)[keep:]:
        path.unlink(missing_ok=True)


def save_best(state: dict[str, Any], folder: Path) -> None:
    """Write `checkpoint_best.pth`, with the same care; raises OSError as `save_last` does."""
    _write(state, folder / BEST, _check_bytes)


def _write(state: dict[str, Any], path: Path, before_rename: Callable[[Path], None]) -> None:
    with replacing(path, before_rename=before_rename) as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # torch's words for a file that takes no more
            raise OSError(errno.EIO, str(error).splitlines()[0]) from error


def older_checkpoints(folder: Path) -> list[Path]:
    """The files `checkpoint_step_N.pth` of a folder, the newest first."""
    names = {path: re.fullmatch(OLDER.format(r"(\d+)"), path.name) for path in folder.glob("*.pth")}
    steps = {int(match[1]): path for path, match in names.items() if match}
    return [steps[step] for step in sorted(steps, reverse=True)]


def _retire(last: Path, keep: int, new_step: int) -> None:
    """Give the checkpoint that was the last a name by its step, beside its own until it is replaced."""
    step = _step_of(last)
    if not keep or step is None or step == new_step:  # the same step again, after its evaluation
        return
    older = last.with_name(OLDER.format(step))
    older.unlink(missing_ok=True)
    try:
        os.link(last, older)
    except OSError:  # a file system without hard links
        last.replace(older)


def _step_of(path: Path) -> int | None:
    """The step a checkpoint was made at; None where there is none, or none that can be read."""
    try:
        return int(read_pickled(path)["step"])
    except Exception:
        return None


def _check_bytes(path: Path) -> None:
    """Raise OSError unless every part of a checkpoint's zip has the checksum that it was written with."""
    if not stat.S_ISREG(os.stat(path).st_mode):  # a device or a pipe may never end
        raise OSError(errno.EINVAL, f"'{path}': it is no regular file")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except zipfile.BadZipFile as error:
        raise OSError(errno.EIO, f"'{path}': {error}") from error
    if damaged:
        raise OSError(errno.EIO, f"'{path}': the bytes of {damaged} are not those that were written")


def check_space(model: torch.nn.Module, folder: Path, keep: int) -> None:
    """Check that the folder's disk has room for a run's checkpoints: last, best, older ones, and a new one.

    What a kill left half written makes way.

    Raises:
        UserError: it has not.
    """
    trained = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    size = sum(tensor.nbytes for tensor in model.state_dict().values()) + 2 * trained  # AdamW's two moments
    room = distributed.broadcast_object(_make_room(folder) if distributed.is_main() else 0)
    if (3 + keep) * size > room:
        raise UserError(
            f"output.dir: the disk of '{folder}' has {room / 1e9:.2f} GB free, its checkpoints counted as "
            f"free, but those of this run take {(3 + keep) * size / 1e9:.2f} GB ({3 + keep} of "
            f"{size / 1e9:.2f} GB); free some, choose another folder with --output-dir, or lower "
            "log.keep_checkpoints"
        )


def _make_room(folder: Path) -> int:
    """Remove what a kill left half written; returns the bytes that are free or held by the checkpoints."""
    for name in (LAST, BEST):
        with contextlib.suppress(OSError):
            (folder / f"{name}.tmp").unlink()
    there = [folder / LAST, folder / BEST, *older_checkpoints(folder)]
    return shutil.disk_usage(folder).free + sum(path.stat().st_size for path in there if path.exists())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a training checkpoint of ours onto the CPU, executing nothing.

    Raises:
        UserError: no such file, not a checkpoint, damaged, or without the training state.
    """
    try:
        _check_bytes(path)
        state = copy.deepcopy(read_pickled(path))  # the optimiser must not hold views of the file
    except FileNotFoundError:
        raise UserError(f"checkpoint '{path}': no such file") from None
    except Exception as error:  # a bad file fails with whatever its parsers raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"checkpoint '{path}': damaged, or not a checkpoint ({reason[:200]})") from error
    if not isinstance(state, dict) or not TRAINING_STATE.keys() <= state.keys():
        raise UserError(f"checkpoint '{path}': holds no training state of this program to resume from")
    return state


def is_of_folder(resume: str | None, folder: Path) -> bool:
    """Whether a run with --resume `resume` goes on in the folder of its checkpoint, as rank 0 sees it."""
    if resume is None or resume == "auto":
        return resume == "auto"
    return distributed.broadcast_object(os.path.realpath(Path(resume).parent) == os.path.realpath(folder))


def find_checkpoint(resume: str | None, folder: Path) -> dict[str, Any] | None:
    """The training state to go on from.

    Args:
        resume: None: a fresh start; "auto": the newest good checkpoint of `folder`, or a fresh start where
            there is none; else a file.

    Raises:
        UserError: the file cannot be read, or for "auto" the folder or each of the checkpoints in it.
    """
    if resume is None:
        return None
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
            "again, or begin anew without --resume, with output.overwrite=true"
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
    steps = {path: _step_of(path) for path in paths}
    return sorted(paths, key=lambda path: math.inf if steps[path] is None else steps[path], reverse=True)


AS_TRAINED = (
    ("model", "backbone"),
    ("data", "image_size"),
    ("data", "normalization"),
    ("experiment", "text_length"),
    ("experiment", "use_altclip_processor"),
)


def features_depend_on(options: Options) -> dict[str, Any]:
    """What `AS_TRAINED` names, by "section.name", plain: weights give other features with other values."""
    values = to_dict(options)
    return {f"{section}.{name}": values[section][name] for section, name in AS_TRAINED}


def saved_options(path: Path) -> dict[str, Any] | None:
    """The options of the run that made a checkpoint of ours, or its export to safetensors; of others None."""
    try:
        if path.suffix == ".safetensors":
            with safetensors.safe_open(path, "pt") as file:
                options = json.loads((file.metadata() or {}).get("options", "null"))
        else:
            options = json.loads(json.dumps(read_pickled(path)["options"]))  # plain values, as a run saved
        is_sound = all(isinstance(values, dict) for values in options.values())
    except Exception:  # not a checkpoint of ours, or no file at all: whoever loads the weights says so
        return None
    return options if is_sound else None


def check_trained_with(options: Options, path: Path) -> None:
    """Refuse to evaluate a checkpoint of ours on other input than it was trained on.

    Raises:
        UserError: naming the option and both values.
    """
    then = saved_options(path)
    if then is None:
        return
    for key, now in features_depend_on(options).items():
        section, name = key.split(".")
        before = then.get(section, {}).get(name, now)  # older runs did not know of all of them
        if now != before:
            raise UserError(
                f"{key}: '{path}' was trained with {before}, these options have {now}; evaluate with "
                "--config and the options.yaml of its run"
            )


def options_for(path: Path, config: Path | None, overrides: Sequence[str]) -> Options:
    """The options to use a checkpoint with: of the file `config`, or where that is None those saved in it.

    Raises:
        UserError: options that cannot be read or do not go with the checkpoint; none.
    """
    if config:
        options = load_options(config, overrides)
        check_trained_with(options, path)
        return options
    saved = saved_options(path)
    if saved is None:
        problem = "holds no options of a run of ours" if os.path.exists(path) else "does not exist"
        raise UserError(
            f"CHECKPOINT: '{path}' {problem}; expected a run's checkpoint_best.pth, or others with "
            "--config FILE"
        )
    return load_options(saved, overrides)


def load_model_state(model: torch.nn.Module, state: dict[str, Any]) -> None:
    """Fill the model from a checkpoint, every name and shape accounted for.

    Raises:
        UserError: naming the first parameter that does not fit.
    """
    own, saved = model.state_dict(), state["model"]
    for name in own.keys() | saved.keys():
        if name not in saved or name not in own:
            where = "the checkpoint" if name not in saved else "the model"
            raise UserError(f"checkpoint: '{name}' is not in {where}; use the options it was trained with")
        if own[name].shape != saved[name].shape:
            raise UserError(
                f"checkpoint: '{name}' has shape {tuple(saved[name].shape)}, the model of these options "
                f"{tuple(own[name].shape)}; use the options it was trained with"
            )
    model.load_state_dict(saved)
