"""Settings without effect: options that were set, but that other options make irrelevant."""

import dataclasses
import re
from typing import Any

# Each option names its conditions in `needs`; these sentences are about several options together.
SAME_IMAGE = "experiment.mvs_image compares a view with itself while experiment.image_aug is none"
SAME_CAPTION = (
    "experiment.ss_text and experiment.mvs_text compare a caption with itself while experiment.text_aug is "
    "none and experiment.back_trans is false"
)
ONE_LANGUAGE = "data.language_draw has no effect while data.languages has one language"


def ineffective_settings(options: Any) -> list[str]:
    """A sentence for each option of an `Options` that was set but has no effect."""
    experiment, data = options.experiment, options.data
    sentences = []
    for section in dataclasses.fields(options):
        for option in dataclasses.fields(getattr(options, section.name)):
            key, needs = f"{section.name}.{option.name}", option.metadata["needs"]
            if needs and _is_set(getattr(options, section.name), option.name):
                unmet = [_unmet(options, section.name, condition) for condition in needs]
                if all(unmet):
                    sentences.append(f"{key} has no effect while {' and '.join(map(str, unmet))}")
    if experiment.image_aug == "none" and experiment.nitc and experiment.mvs_image:
        sentences.append(SAME_IMAGE)
    has_one_language = len(data.languages) == 1
    same_words = experiment.text_aug == "none" and not experiment.back_trans
    same_language = has_one_language or data.language_draw == "all"
    if same_words and same_language and (experiment.ss_text or (experiment.nitc and experiment.mvs_text)):
        sentences.append(SAME_CAPTION)
    if has_one_language and _is_set(data, "language_draw"):
        sentences.append(ONE_LANGUAGE)
    return sentences


def _is_set(section: Any, name: str) -> bool:
    """Whether an option is true, or differs from its default; null is no setting."""
    value = getattr(section, name)
    return value if isinstance(value, bool) else value not in (None, getattr(type(section)(), name))


def _unmet(options: Any, section: str, condition: str) -> str | None:
    """What the other option is, such as "experiment.ss is false"; None where the condition holds."""
    name, comparison, wanted = re.fullmatch(r"([\w.]+)(!?=)?(.*)", condition).groups()
    key = name if "." in name else f"{section}.{name}"
    value = getattr(getattr(options, key.split(".")[0]), key.split(".")[1])
    found = str(value).lower() if isinstance(value, bool) else str(value)
    holds = found == wanted if comparison == "=" else found != (wanted if comparison else "false")
    return None if holds else f"{key} is {found}"
