"""The options that a checkpoint was trained with."""

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors

from model.weights.pickles import read_pickled
from options import Options, UserError, ineffective_settings, load_options, to_dict, unused_at_test

logger = logging.getLogger(__name__)

# The same weights give other features with other values of these.
FEATURE_OPTIONS = (
    *("model.backbone", "data.image_size", "data.normalization", "data.cleaning"),
    *("experiment.text_length", "experiment.use_altclip_processor"),
)


def features_depend_on(options: Options) -> dict[str, object]:
    """The values of `FEATURE_OPTIONS`, as plain values."""
    values = to_dict(options)
    return {key: values[section][name] for key in FEATURE_OPTIONS for section, name in [key.split(".")]}


def saved_options(path: Path) -> dict[str, Any] | None:
    """The options of the run that wrote a checkpoint, or its export to safetensors; None for other files."""
    try:
        if path.suffix == ".safetensors":
            with safetensors.safe_open(path, "pt") as file:
                options = json.loads((file.metadata() or {}).get("options", "null"))
        else:
            options = json.loads(json.dumps(read_pickled(path)["options"]))  # as plain values
        is_sound = all(isinstance(values, dict) for values in options.values())
    except Exception:  # not our checkpoint, or no file at all: loading the weights will report it
        return None
    return options if is_sound else None


def check_trained_with(options: Options, path: Path) -> str:
    """Raise UserError, with the option and both values, where a checkpoint was trained on another input.

    Returns the data that it was trained on, by name and paths; where it has no options, its own path.
    """
    saved = saved_options(path)
    if saved is None:
        return str(path)
    for key, value in features_depend_on(options).items():
        section, name = key.split(".")
        trained = saved.get(section, {}).get(name, value)  # older runs did not have all of them
        if value != trained:
            raise UserError(
                f"{key}: '{path}' was trained with {trained}, these options have {value}; evaluate with "
                "--config and the options.yaml of its run"
            )
    data = saved.get("data", {})
    return f"{data.get('dataset')} {data.get('annotation_file')}"


def options_for(path: Path, config: Path | None, overrides: Sequence[str]) -> Options:
    """The options to use a checkpoint with: of the file `config`, or where that is None those saved in it.

    Raises:
        UserError: options that cannot be read or do not go with the checkpoint; none.
    """
    if config:
        options = load_options(config, overrides)
        check_trained_with(options, path)
        return _warned(options, overrides)
    saved = saved_options(path)
    if saved is None:
        problem = "has no options of a run" if os.path.exists(path) else "does not exist"
        raise UserError(
            f"CHECKPOINT: '{path}' {problem}; expected a run's checkpoint_best.pth, or others with "
            "--config FILE"
        )
    return _warned(load_options(saved, overrides), overrides)


def _warned(options: Options, overrides: Sequence[str]) -> Options:
    """The options, after a warning of each override that has no effect where nothing is trained."""
    keys = {override.partition("=")[0].strip() for override in overrides}
    unused = unused_at_test(overrides)
    for sentence in unused + [s for s in ineffective_settings(options) if s.split()[0] in keys]:
        logger.warning(sentence)
    return options
