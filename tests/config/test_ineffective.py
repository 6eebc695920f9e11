"""Settings without effect: each is named once, in both directions, and no other one is."""

import dataclasses
import json
import typing
from pathlib import Path

import pytest

from config.checks import SEVERAL_PROCESSES
from misc.checkpoints.run_options import options_for
from options import LOSSES, Options, ineffective_settings, load_options, to_dict, unused_at_test

CONFIG = Path("config/config.yaml")

OPTIONS = {
    f"{section}.{field.name}": field
    for section, kind in typing.get_type_hints(Options).items()
    for field in dataclasses.fields(kind)
}
# Options that always have an effect, or whose conditions are about several options together (tested below).
ALWAYS = {
    *("misc.seed", "misc.device", "misc.precision"),
    *("schedule.lr", "schedule.epoch", "schedule.epoch_warmup", "schedule.weight_decay", "schedule.betas"),
    *("schedule.rate_per", "schedule.optimizer", "schedule.decay_on", "schedule.bias_factor"),
    *("schedule.eps", "schedule.accumulate", "schedule.clip_grad_norm"),
    *("schedule.skip_nonfinite", "data.drop_last"),
    *("model.backbone", "model.lock_patch_embedding", "model.lock_image_blocks", "model.lock_text_blocks"),
    "model.lock_text_embeddings",
    *("model.grad_checkpointing", "model.compile", "model.embed_dim"),
    *("data.annotation_file", "data.image_root", "data.dataset", "data.languages"),
    *("data.preparation", "data.cleaning"),
    *("data.batch_size", "data.test_batch_size", "data.few_shot", "data.num_workers", "data.on_bad_image"),
    *("data.noise", "data.sampler", "data.shards"),
    *("data.truncated", "data.cache", "experiment.back_trans", "experiment.text_length"),
    *("eval.select_on", "eval.period", "eval.test_sets", "eval.fuse", "eval.detections"),
    *("eval.gallery_sizes", "data.margin"),
    *("log.print_period", "log.checkpoint_period", "log.keep_checkpoints"),
    *("output.dir", "output.overwrite"),
}
SEVERAL = {
    *("schedule.lr_end", "schedule.patience", "model.use_gather", "model.lock_text_layers"),
    *("data.language_draw", "eval.msd", "eval.rerank", "experiment.image_aug", "experiment.text_aug"),
    *("experiment.dropout", "experiment.mixgen", *(f"experiment.{loss}" for loss in LOSSES)),
    *("experiment.rewrites", "experiment.mask_captions"),
}
NEEDY = [key for key, field in OPTIONS.items() if field.metadata["needs"]]


def test_every_option_is_known_to_have_an_effect_or_says_what_it_needs() -> None:
    known = [*NEEDY, *ALWAYS, *SEVERAL]
    assert sorted(known) == sorted(OPTIONS), "an option is in none of the lists, or in two"


NAMES = {
    *("model.tokenizer_cache_dir", "model.open_clip_name", "model.open_clip_pretrained"),
    "model.transformers_pretrained",
}


def other_value(key: str) -> object:
    """A valid value that is not the default."""
    value = to_dict(load_options({}))[key.split(".")[0]][key.split(".")[1]]
    check = OPTIONS[key].metadata["check"]
    if isinstance(value, bool):
        return True
    if check and check.choices:
        return next(choice for choice in check.choices if choice != value)
    if value is None:
        return "a" if key in NAMES else 8
    if isinstance(value, list):
        return [part / 2 if isinstance(part, float) else part and part // 2 for part in value]
    return f"{value}x" if isinstance(value, str) else value / 2 if isinstance(value, float) else value + 1


def setting_of(condition: str, section: str, holds: bool) -> str | None:
    """The override that makes a condition hold, or not."""
    name, unequal, value = condition.partition("!=")
    name, equal, value = (name, "", value) if unequal else condition.partition("=")
    key = name if "." in name else f"{section}.{name}"
    if not unequal and not equal:
        return f"{key}={str(holds).lower()}"
    if bool(equal) == holds:
        return f"{key}={value}"
    others = {"clip": "altclip", "false": "true", "none": "eda", "1.0": "0.5", "0.0": "1"}
    others |= {"identity": "random", "shards": "random", "noise-aware": "none", "null": "http://a/{}"}
    others |= dict.fromkeys(("altclip", "open_clip", "transformers"), "clip")
    return f"{key}={others[value]}"


def warnings(key: str, holds: bool) -> list[str]:
    """What is said of an option of another value where its conditions hold, or not."""
    section, needs = key.split(".")[0], OPTIONS[key].metadata["needs"]
    num_processes = 1
    overrides = ["schedule.epoch=3", "experiment.tal=true"]
    for condition in needs[:1] if holds else needs:
        if condition == SEVERAL_PROCESSES:
            num_processes = 2 if holds else 1
        else:
            overrides.append(setting_of(condition, section, holds))
    options = load_options(CONFIG, [*overrides, f"{key}={json.dumps(other_value(key))}"])
    return [line for line in ineffective_settings(options, num_processes) if line.startswith(f"{key} ")]


@pytest.mark.parametrize("key", NEEDY)
def test_a_setting_whose_conditions_are_not_met_is_named_once(key: str) -> None:
    (sentence,) = warnings(key, holds=False)
    assert "has no effect while" in sentence
    assert warnings(key, holds=True) == []


ONLY = [f"experiment.{loss}=false" for loss in ("nitc", "ritc", "citc", "ss")]
ONLY_SS = [*ONLY[:3], "experiment.mvs_image=false"]


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["schedule.lr_end=1e-7", "schedule.epoch=1"], "schedule.lr_end"),
        (["schedule.patience=5"], "schedule.patience"),
        (["model.use_gather=false"], "model.use_gather"),
        (["model.lock_text_layers=[0, 1]", "model.lock_text_blocks=2"], "model.lock_text_layers"),
        (["data.language_draw=one"], "data.language_draw"),
        (["eval.rerank=true", "eval.rerank_lambda=1"], "eval.rerank"),
        ([*ONLY_SS, "experiment.image_aug=flip"], "experiment.image_aug"),
        ([*ONLY_SS, "experiment.text_aug=swap"], "experiment.text_aug"),
        ([*ONLY_SS, "experiment.dropout=0"], "experiment.dropout"),
        ([*ONLY_SS, "experiment.rewrites=true"], "experiment.rewrites"),
        ([*ONLY_SS, "experiment.mask_captions=random"], "experiment.mask_captions"),
        (
            ["experiment.mlm=true", "experiment.mlm_masks_all=true", "experiment.mask_captions=random"],
            "experiment.mlm_masks_all",
        ),
        ([*ONLY_SS, "experiment.mlm=true", "experiment.rewrites=true"], "experiment.rewrites"),
        (["experiment.text_aug=swap", "experiment.eda_alpha=0"], "experiment.text_aug"),
        (["experiment.text_aug=tokens", "experiment.eda_alpha=0"], "experiment.text_aug"),
        (["experiment.mixgen=true", "experiment.mixgen_p=0"], "experiment.mixgen"),
        (["experiment.tal=true", "experiment.ccd=true", "experiment.ccd_first_epoch=6"], "experiment.ccd"),
        ([*ONLY_SS, "experiment.mlm=true", "experiment.mlm_masks_all=true"], "experiment.mlm_masks_all"),
        *(
            ([f"experiment.{loss}=true", f"experiment.{loss}_ratio=0", "experiment.tal=true"], key)
            for loss in LOSSES
            if loss not in ("tse", "grab")  # whose heads take part at test time: their weight is above 0
            for key in [f"experiment.{loss}"]
        ),
    ],
)
def test_settings_that_rule_each_other_out_are_named_once(overrides: list[str], key: str) -> None:
    sentences = ineffective_settings(load_options(CONFIG, overrides), num_processes=1)
    assert len([line for line in sentences if line.startswith(f"{key} ")]) == 1


@pytest.mark.parametrize(
    "overrides",
    [
        ["schedule.lr_end=1e-7"],
        ["schedule.patience=4"],
        ["model.lock_text_layers=[0, 3]", "model.lock_text_blocks=2"],
        ["eval.rerank=true"],
        ["experiment.mlm=true", "experiment.mlm_masks_all=true"],
        ["experiment.ss_text=true", "experiment.text_aug=tokens", "experiment.back_trans=false"],
        ["experiment.image_aug=flip", "experiment.text_aug=swap", "experiment.dropout=0"],
        ["experiment.rewrites=true", "experiment.mlm=true"],
        ["experiment.mask_captions=noise-aware", "experiment.mask_block=-2"],
        ["model.use_gather=false", "distributed.timeout=5", "distributed.backend=gloo"],
        [],
    ],
)
def test_settings_with_an_effect_are_not_named(overrides: list[str]) -> None:
    assert ineffective_settings(load_options(CONFIG, overrides), num_processes=2) == []


def test_overrides_that_only_training_reads_are_named_where_nothing_is_trained() -> None:
    unused = ["schedule.lr=1", "schedule.lr=2", "log.print_period=2", "data.few_shot=0.1", "data.cache=x"]
    used = ["data.test_batch_size=4", "eval.rerank=true", "misc.device=cpu", "model.compile=true"]
    sentences = unused_at_test([*unused, *used])
    keys = ["schedule.lr", "log.print_period", "data.few_shot", "data.cache"]
    assert sentences == [f"{key} has no effect: nothing is trained" for key in keys]
    scored = unused_at_test([*unused, *used], scored=True)
    assert [line.split()[0] for line in scored] == [*keys, "data.test_batch_size", "model.compile"]


def test_search_and_export_name_overrides_without_effect(
    finished_run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    overrides = ["schedule.lr=1", "model.altclip_pretrained=a", "data.test_batch_size=3"]
    caplog.clear()
    for config in (None, finished_run / "options.yaml"):
        options_for(finished_run / "checkpoint_best.pth", config, overrides)
    keys = [message.split()[0] for message in caplog.messages if "no effect" in message]
    assert keys == ["schedule.lr", "model.altclip_pretrained"] * 2
