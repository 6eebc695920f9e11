"""Captions that language models wrote of images: some are no captions."""

import logging
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from data.records import DROPPED, Report, read_record
from data.types import Record
from options import UserError
from text_utils.captions import has_words

logger = logging.getLogger(__name__)

LONGEST = 10_000  # characters: no caption, but a model that has not stopped
# What is wrong with a caption: words of which it has one, in lower case, and how it shows. Looking for words
# first takes a third of the time.
FAULTS = {
    "refusals": (
        ("able", "ai ", "an ai", "apolog", "can't", "cannot", "do not", "don't", "please", "sorry"),
        re.compile(
            r"\b(I'?m|I am) (sorry|unable|not able)\b|\bI (cannot|can't|apologi[sz]e)\b|\bas an AI\b"
            r"|\bsorry, (but )?I\b|\bAI (language )?(model|assistant)\b|\bI (don't|do not) (have|see)\b"
            r"|\bplease (provide|upload|share)\b",
            re.IGNORECASE,
        ),
    ),
    "tags": (("<", "inst]"), re.compile(r"<[^<>]*>|\[/?INST\]")),
    "literal escapes": (("\\", "/n"), re.compile(r"\\[nrt\"u]|/n(?![a-z])")),
}


def fault_of(caption: str) -> str | None:
    """What is wrong with a caption: a name of `FAULTS`, "blanks" or "endless"; None: nothing."""
    if not has_words(caption):
        return "blanks"
    if len(caption) > LONGEST:
        return "endless"
    straight = caption.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    lower = straight.lower()
    for fault, (hints, pattern) in FAULTS.items():
        if any(hint in lower for hint in hints) and pattern.search(straight):
            return fault
    return None


class WebRecords:
    """Makes records of items with such captions: faulty ones are dropped and counted, and where there are no
    persons, each image is one of its own, numbered from 0 in order of appearance.
    """

    def __init__(self, image_field: str = "image", has_persons: bool = False) -> None:
        self.image_field, self.has_persons = image_field, has_persons
        self._persons, self._counts, self._total = dict[str, int](), Counter[str](), 0

    def read(self, item: object, where: str, report: Report) -> Record | None:
        """As `read_record`, of an item in English."""
        if isinstance(item, dict):
            image, captions = item.get(self.image_field), item.get("captions")
            if isinstance(captions, list) and all(isinstance(caption, str) for caption in captions):
                item = {**item, "captions": self._kept(captions, where, report)}
            if not self.has_persons and isinstance(image, str):
                item = {**item, "id": self._persons.setdefault(image, len(self._persons))}
        return read_record(item, self.image_field, "en", where, report)

    def _kept(self, captions: list[str], where: str, report: Report) -> list[str]:
        self._total += len(captions)
        kept = []
        for caption in captions:
            if fault := fault_of(caption):
                self._counts[fault] += 1
                report(DROPPED, f"{fault}: {where}: {caption!r:.80}")
            else:
                kept.append(caption)
        return kept

    def log(self, path: Path) -> None:
        """Say how many captions were dropped, and why."""
        if self._counts:
            reasons = ", ".join(f"{number:,} {name}" for name, number in self._counts.most_common())
            logger.warning(
                "'%s': dropped %s of %s captions that are none: %s",
                *(path, f"{self._counts.total():,}", f"{self._total:,}", reasons),
            )


def only_english(languages: Sequence[str] | None, path: Path) -> None:
    """Raise UserError where another language is wanted."""
    other = next((language for language in languages or () if language != "en"), None)
    if other is not None:
        raise UserError(f"data.languages: '{other}' is not in '{path}', which has only en")
