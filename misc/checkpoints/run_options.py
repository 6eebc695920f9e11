"""The options that a checkpoint was trained with."""

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors

from config.data import DataOptions, Preparation, differences, of_backbone, prepared
from config.reader import build
from model import backbone_of
from model.weights.pickles import read_pickled
from model.weights.releases import read_release
from options import Options, UserError, ineffective_settings, read_options, resolved, to_dict, unused_at_test

logger = logging.getLogger(__name__)

# The same weights give other features with other values of these.
FEATURE_OPTIONS = (
    *("model.backbone", "data.image_size", "data.normalization", "data.cleaning"),
    *("experiment.text_length", "experiment.use_altclip_processor", "data.interpolation"),
)
# And of these, where tokens are selected.
OF_SELECTION = {
    "tse": ("experiment.tse", "experiment.tse_share"),
    "grab": (
        *("experiment.grab", "experiment.grab_share", "experiment.grab_blocks"),
        *("experiment.grab_test_tokens", "experiment.grab_global_weight"),
    ),
}
OF_OPEN_CLIP = ("model.open_clip_name",)  # and of this: names of equal sizes differ in their activation
# Those that the weights cannot be used with otherwise.
FIXED_OPTIONS = (
    *("model.backbone", "experiment.text_length", "experiment.use_altclip_processor"),
    *("experiment.tse_share", "experiment.grab_share", "experiment.grab_blocks", "model.open_clip_name"),
)


def features_depend_on(options: Options) -> dict[str, object]:
    """The values of the options above that take part, as plain values."""
    values = to_dict(options)
    keys = FEATURE_OPTIONS
    for loss, own in OF_SELECTION.items():
        keys += own if getattr(options.experiment, loss) else ()
    keys += OF_OPEN_CLIP if options.model.open_clip_name else ()
    return {key: values[section][name] for key in keys for section, name in [key.split(".")]}


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
    """Raise UserError, with the option and both values, where a checkpoint is of another model.

    Returns the data that it was trained on, by name and paths; where it has no options, its own path.
    """
    saved = saved_options(path)
    if saved is None:
        return str(path)
    values = features_depend_on(options)
    for key in (key for key in FIXED_OPTIONS if key in values):
        value, (section, name) = values[key], key.split(".")
        trained = saved.get(section, {}).get(name, value)  # older runs did not have all of them
        if value != trained:
            trained, value = ("null" if each is None else each for each in (trained, value))
            raise UserError(
                f"{key}: '{path}' was trained with {trained}, these options have {value}; evaluate with "
                "--config and the options.yaml of its run"
            )
    data = saved.get("data", {})
    return f"{data.get('dataset')} {data.get('annotation_file')}"


def preparation_of(path: Path) -> DataOptions | None:
    """The preparation that weights were trained with: of a run's checkpoint or its export as recorded, of
    released ones by their layout; None where neither tells it.

    Raises:
        UserError: a recorded value that this version does not have.
    """
    saved = saved_options(path)
    if saved is None or "data" not in saved:
        release = read_release(path)
        return release.data if release else None
    names = [name for name in ("preparation", *Preparation._fields) if name in saved["data"]]
    settings = {f"data.{name}": (saved["data"][name], f"the options saved in '{path}'") for name in names}
    default, _ = of_backbone(saved.get("model", {}).get("backbone"))
    return prepared(build(Options, settings).data, default=default)


def prepared_for(options: Options, path: Path) -> Options:
    """The options, of `read_options`, with the preparation of the weights where they leave it open. Warns
    where they set another one, which is used.
    """
    trained = preparation_of(path)
    options = resolved(options, trained)
    theirs, ours = differences(options.data, trained) if trained else ("", "")
    if theirs:
        logger.warning(
            f"'{path}' was trained with {theirs}; used is what is set, {ours}: leave these options and "
            "data.preparation out to use what it was trained with"
        )
    return options


def check_start(options: Options) -> None:
    """Warn where training starts from weights that were trained with another preparation."""
    start = getattr(options.model, backbone_of(options).weights_option)
    trained = preparation_of(Path(start)) if start else None
    theirs, ours = differences(options.data, trained) if trained else ("", "")
    if theirs:
        logger.warning(
            f"training starts from '{start}', which was trained with {theirs}; these options have {ours}"
        )


def options_for(path: Path, config: Path | None, overrides: Sequence[str]) -> Options:
    """The options to use a checkpoint with: of the file `config`, or where that is None those saved in it, or
    of a release those of its recipe.

    Raises:
        UserError: options that cannot be read or do not go with the checkpoint; none.
    """
    source = config or saved_options(path)
    if source is None and (release := read_release(path)):
        logger.info(f"'{path}' has no options of a run; those of its release are used: {release.recipe}")
        source = release.recipe
    if source is None:
        problem = "has no options of a run" if os.path.exists(path) else "does not exist"
        raise UserError(
            f"CHECKPOINT: '{path}' {problem}; expected a run's checkpoint_best.pth or that of a release, or "
            "others with --config FILE"
        )
    options = read_options(source, overrides)
    check_trained_with(resolved(options), path)
    return _warned(prepared_for(options, path), overrides)


def _warned(options: Options, overrides: Sequence[str]) -> Options:
    """The options, after a warning of each override that has no effect where nothing is trained."""
    keys = {override.partition("=")[0].strip() for override in overrides}
    unused = unused_at_test(overrides)
    for sentence in unused + [s for s in ineffective_settings(options) if s.split()[0] in keys]:
        logger.warning(sentence)
    return options
