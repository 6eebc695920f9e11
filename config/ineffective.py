"""Settings without effect: options that were set, but that other options make irrelevant."""

import dataclasses
import re
from collections.abc import Iterable, Iterator
from typing import Any

from config.checks import SEVERAL_PROCESSES
from config.data import DataOptions, prepared

# Each option names its conditions in `needs`; these sentences are about several options together.
SAME_IMAGE = "experiment.mvs_image compares a view with itself while experiment.image_aug is none"
SAME_CAPTION = (
    "experiment.ss_text and experiment.mvs_text compare a caption with itself while experiment.text_aug is "
    "none and experiment.back_trans is false"
)
ONE_LANGUAGE = "data.language_draw has no effect while data.languages has one language"
ONE_PROCESS = "model.use_gather has no effect while the number of processes is 1"
ALL_WARMUP = "schedule.lr_end has no effect while schedule.epoch_warmup is not below schedule.epoch"
NO_PATIENCE = "schedule.patience has no effect while it is not below schedule.epoch"
NO_DIVISION = "experiment.ccd has no effect while experiment.ccd_first_epoch is above schedule.epoch"
NO_RERANKING = "eval.rerank has no effect while eval.rerank_lambda is 1"
ALL_MASKED = "experiment.mlm_masks_all has no effect while experiment.mask_captions masks all captions"
NO_LAYERS = "model.lock_text_layers has no effect while model.lock_text_blocks freezes these blocks"
NO_VIEW = "{} has no effect while no loss but experiment.ss and experiment.ss_text is true"
NO_OTHER_LOSS = "{} has no effect while no loss but experiment.mlm reads captions"
NO_CAPTION = "{} has no effect while no loss but experiment.ss is true"
# {option: the option that switches it off by a value of 0}; of the losses it is the weight.
SWITCHED_OFF = {"experiment.mixgen": "experiment.mixgen_p", "experiment.text_aug": "experiment.eda_alpha"}
OF_CAPTIONS = (
    *("experiment.text_aug", "experiment.eda_alpha", "experiment.backtrans_p", "experiment.dropout"),
    *("experiment.rewrites", "experiment.mask_captions"),
)
OF_OTHER_LOSSES = ("experiment.mlm_masks_all", "experiment.rewrites")

# What evaluation, search and export do not read: whole sections, and options of the other ones.
OF_TRAINING = (
    *("schedule", "log", "data.batch_size", "data.drop_last", "data.few_shot", "data.few_shot_by"),
    *("data.language_draw", "data.noise", "data.sampler", "data.samples_per_identity"),
    *("data.shuffle_window", "data.shard_streams", "data.shards_kept"),
    *("data.on_bad_image", "data.cache", "eval.select_on", "eval.period", "experiment.dropout"),
    *("experiment.image_aug", "experiment.text_aug", "experiment.eda_alpha", "experiment.back_trans"),
    *(
        "experiment.backtrans_p",
        "experiment.mvs_image",
        "experiment.mvs_text",
        "experiment.mixgen",
        "experiment.mixgen_type",
    ),
    *("experiment.mixgen_p", "experiment.mixgen_ratio", "model.softlabel_ratio", "model.use_gather"),
    *("model.lock_patch_embedding", "model.lock_image_blocks", "model.lock_text_blocks"),
    "model.lock_text_embeddings",
    *("model.lock_text_layers", "model.grad_checkpointing", "experiment.mlm_variant"),
    *("experiment.mlm_masks_all", "experiment.ccd", "experiment.ccd_max_iter", "experiment.ccd_tol"),
    *("experiment.ccd_reg_covar", "experiment.ccd_first_epoch", "experiment.mlm_max_words"),
    *("experiment.mask_captions", "experiment.mask_block"),
    *("experiment.id_on", "experiment.cid_no_match", "experiment.grab_steps", "experiment.rewrites"),
)


def ineffective_settings(options: Any, num_processes: int | None = None) -> list[str]:
    """A sentence for each option of an `Options` that was set but has no effect; it begins with its key.

    Args:
        num_processes: processes of the run; None: not known, and no option is ineffective for their number.
    """
    sentences = []
    for section in dataclasses.fields(options):
        for option in dataclasses.fields(getattr(options, section.name)):
            key, needs = f"{section.name}.{option.name}", option.metadata["needs"]
            if needs and _is_set(options, key):
                unmet = [_unmet(options, section.name, condition, num_processes) for condition in needs]
                if all(unmet):
                    sentences.append(f"{key} has no effect while {' and '.join(map(str, unmet))}")
    return [*sentences, *_of_several_options(options), *_of_few_losses(options)] + (
        [ONE_PROCESS] if num_processes == 1 and not options.model.use_gather else []
    )


def unused_at_test(overrides: Iterable[str], scored: bool = False) -> list[str]:
    """A sentence for each `section.name=value` that only training reads, or only a model if saved features
    are `scored`.
    """
    unused = (*OF_TRAINING, "model", "data", "experiment") if scored else OF_TRAINING
    reason = "saved features are scored" if scored else "nothing is trained"
    keys = dict.fromkeys(override.partition("=")[0].strip() for override in overrides)
    return [
        f"{key} has no effect: {reason}" for key in keys if key in unused or key.partition(".")[0] in unused
    ]


def _of_several_options(options: Any) -> Iterator[str]:
    experiment, data, schedule, model = options.experiment, options.data, options.schedule, options.model
    if experiment.image_aug == "none" and experiment.nitc and experiment.mvs_image:
        yield SAME_IMAGE
    has_one_language = len(data.languages) == 1
    same_words = experiment.text_aug == "none" and not experiment.back_trans
    same_language = has_one_language or data.language_draw == "all"
    if same_words and same_language and (experiment.ss_text or (experiment.nitc and experiment.mvs_text)):
        yield SAME_CAPTION
    if has_one_language and _is_set(options, "data.language_draw"):
        yield ONE_LANGUAGE
    if schedule.epoch_warmup >= schedule.epoch and _is_set(options, "schedule.lr_end"):
        yield ALL_WARMUP
    if schedule.patience and schedule.patience >= schedule.epoch:
        yield NO_PATIENCE
    if experiment.ccd and experiment.ccd_first_epoch > schedule.epoch:
        yield NO_DIVISION
    if experiment.mlm and experiment.mlm_masks_all and experiment.mask_captions != "none":
        yield ALL_MASKED
    if options.eval.rerank and options.eval.rerank_lambda == 1:
        yield NO_RERANKING
    if model.lock_text_layers and max(model.lock_text_layers) < model.lock_text_blocks:
        yield NO_LAYERS


def _of_few_losses(options: Any) -> Iterator[str]:
    """Of the losses, SS alone reads no caption, and neither SS nor SS-T an image that `image_aug` changes."""
    losses = dataclasses.fields(options.experiment)
    on = {f.name for f in losses if f.metadata["is_loss"] and getattr(options.experiment, f.name)}
    if on <= {"ss", "ss_text"} and _is_set(options, "experiment.image_aug"):
        yield NO_VIEW.format("experiment.image_aug")
    for key, other in (
        SWITCHED_OFF | {f"experiment.{name}": f"experiment.{name}_ratio" for name in on}
    ).items():
        if _value(options, other) == 0 and _value(options, key) != "none" and _is_set(options, key):
            yield f"{key} has no effect while {other} is 0"
    for key in OF_OTHER_LOSSES if on <= {"ss", "mlm"} and "mlm" in on else ():
        if _is_set(options, key):
            yield NO_OTHER_LOSS.format(key)
    for key in OF_CAPTIONS if on <= {"ss"} else ():
        if _is_set(options, key):
            yield NO_CAPTION.format(key)


def _value(options: Any, key: str) -> Any:
    section, name = key.split(".")
    return getattr(getattr(options, section), name)


def _is_set(options: Any, key: str) -> bool:
    """Whether an option is true, or differs from its default; null is no setting."""
    value, data = _value(options, key), prepared(DataOptions(preparation=options.data.preparation))
    return value if isinstance(value, bool) else value not in (None, _value(type(options)(data=data), key))


def _unmet(options: Any, section: str, condition: str, num_processes: int | None) -> str | None:
    """What the other option is, such as "experiment.ss is false"; None where the condition holds."""
    name, comparison, wanted = re.fullmatch(r"([\w.]+)(!?=)?(.*)", condition).groups()
    if name == SEVERAL_PROCESSES:
        return "the number of processes is 1" if num_processes == 1 else None
    key = name if "." in name else f"{section}.{name}"
    value = _value(options, key)
    found = str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)
    holds = found == wanted if comparison == "=" else found != (wanted if comparison else "false")
    return None if holds else f"{key} is {found}"
