"""Which options were set but have no effect, since others switch them off."""

import dataclasses
import typing
from typing import Any


def moot_settings(options: Any) -> list[str]:
    """A sentence for each option of an `Options` that was set but has no effect."""
    experiment, data, model = options.experiment, options.data, options.model
    sentences = _unmet_needs(options, experiment)
    if experiment.text_aug == "none" and _is_set(experiment, "eda_alpha"):
        sentences.append("experiment.eda_alpha has no effect while experiment.text_aug is none")
    if experiment.image_aug == "none" and experiment.nitc and experiment.mvs_image:
        sentences.append("experiment.mvs_image sees the same view twice while experiment.image_aug is none")
    same_words = experiment.text_aug == "none" and not experiment.back_trans
    same_language = len(data.languages) == 1 or data.language_draw == "all"
    if same_words and same_language and (experiment.ss_text or (experiment.nitc and experiment.mvs_text)):
        sentences.append(
            "SS-T and MVS-T see the same caption twice while text_aug is none and back_trans false"
        )
    if data.few_shot == 1 and _is_set(data, "few_shot_by"):
        sentences.append("data.few_shot_by has no effect while data.few_shot is 1")
    if len(data.languages) == 1 and _is_set(data, "language_draw"):
        sentences.append("data.language_draw has no effect while data.languages has one language")
    for name in ("rerank_k1", "rerank_k2", "rerank_lambda"):
        if not options.eval.rerank and _is_set(options.eval, name):
            sentences.append(f"eval.{name} has no effect while eval.rerank is false")
    if model.backbone == "clip" and experiment.use_altclip_processor:
        sentences.append("experiment.use_altclip_processor has no effect while model.backbone is clip")
    sizes = [f.name for f in dataclasses.fields(model) if f.name.startswith(("image_", "text_"))]
    for name in ("clip_pretrained", *sizes, "patch_size", "vocab_size"):
        if model.backbone == "altclip" and getattr(model, name) is not None and _is_set(model, name):
            sentences.append(f"model.{name} has no effect while model.backbone is altclip")
    return sentences


def _is_set(section: Any, name: str) -> bool:
    """Whether an option is on, or differs from its default."""
    value = getattr(section, name)
    return value if isinstance(value, bool) else value != getattr(type(section)(), name)


def _unmet_needs(options: Any, switches: Any) -> list[str]:
    """A sentence for each option that was set but of whose `needs`, fields of `switches`, none is on."""
    sentences = []
    for section, kind in typing.get_type_hints(type(options)).items():
        for f in dataclasses.fields(kind):
            needs = f.metadata["needs"]
            if (
                needs
                and _is_set(getattr(options, section), f.name)
                and not any(getattr(switches, switch) for switch in needs)
            ):
                names = " and ".join(f"experiment.{switch}" for switch in needs)
                verb = "is" if len(needs) == 1 else "are"
                sentences.append(f"{section}.{f.name} has no effect while {names} {verb} false")
    return sentences
