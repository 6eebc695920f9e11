"""Checkpoints: plain tensors and dicts, written whole or not at all."""

import copy
import json
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors
import torch

from misc.pickles import read_pickled
from options import Options, UserError, load_options, to_dict

logger = logging.getLogger(__name__)

LAST, BEST = "checkpoint_last.pth", "checkpoint_best.pth"


def save_checkpoint(state: dict[str, Any], folder: Path, is_best: bool) -> None:
    """Write `checkpoint_last.pth`, and `checkpoint_best.pth` as a copy of it where it is the best so far.

    Each goes to a temporary file, is flushed to the disk and renamed: a kill leaves the old file or the new
    one whole.
    """
    temporary = folder / (LAST + ".tmp")
    with temporary.open("wb") as file:
        torch.save(state, file)
        _flush(file)
    if is_best:
        best = folder / (BEST + ".tmp")
        with temporary.open("rb") as source, best.open("wb") as file:
            shutil.copyfileobj(source, file)
            _flush(file)
        best.replace(folder / BEST)
    temporary.replace(folder / LAST)


def _flush(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a training checkpoint of ours onto the CPU, executing nothing.

    Raises:
        UserError: no such file, not a checkpoint, damaged, or without the training state.
    """
    try:
        state = copy.deepcopy(read_pickled(path))  # the optimiser must not hold views of the file
    except FileNotFoundError:
        raise UserError(f"checkpoint '{path}': no such file") from None
    except Exception as error:  # a bad file fails with whatever its parsers raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"checkpoint '{path}': damaged, or not a checkpoint ({reason[:200]})") from error
    expected = {"model", "optimizer", "scaler", "epoch", "step", "random", "best", "options"}
    if not isinstance(state, dict) or not expected <= state.keys():
        raise UserError(f"checkpoint '{path}': holds no training state of this program to resume from")
    return state


def find_checkpoint(resume: str | None, folder: Path) -> dict[str, Any] | None:
    """The training state to go on from.

    Args:
        resume: None: a fresh start; "auto": the newest good checkpoint of `folder`, or a fresh start where
            there is none; else a file.
    """
    if resume is None:
        return None
    if resume != "auto":
        return load_checkpoint(Path(resume))
    found = []
    for path in (folder / LAST, folder / BEST):
        if path.exists():
            try:
                found.append(load_checkpoint(path))
            except UserError as error:
                logger.warning("passed over: %s", error)
    return max(found, key=lambda state: state["step"], default=None)


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
            options = read_pickled(path)["options"]
    except Exception:  # not a checkpoint of ours, or no file at all: whoever loads the weights says so
        return None
    return options if isinstance(options, dict) else None


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
        problem = "holds no options of a run of ours" if path.exists() else "does not exist"
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
