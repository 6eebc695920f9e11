"""Captions that language models wrote of images: some are no captions."""

import logging
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from data.records import Report, read_record
from data.types import Record
from options import UserError

logger = logging.getLogger(__name__)

# What is wrong with a caption, and how it shows.
FAULTS = {
    "refusals": re.compile(
        r"\b(I'?m|I am) (sorry|unable|not able)\b|\bI (cannot|can'?t|apologi[sz]e)\b|\bas an AI\b"
        r"|\b(sorry|unfortunately), (but )?I\b|\bAI (language )?(model|assistant)\b",
        re.IGNORECASE,
    ),
    "tags": re.compile(r"<[^<>]*>|\[/?INST\]"),
    "literal escapes": re.compile(r"\\[nrt\"u]|/n(?![a-z])"),
}


def fault_of(caption: str) -> str | None:
    """What is wrong with a caption, of `FAULTS` or "blanks"; None: nothing."""
    if not caption.strip():
        return "blanks"
    straight = caption.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    return next((name for name, pattern in FAULTS.items() if pattern.search(straight)), None)


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
                item = {**item, "captions": self._kept(captions)}
            if not self.has_persons and isinstance(image, str):
                item = {**item, "id": self._persons.setdefault(image, len(self._persons))}
        return read_record(item, self.image_field, "en", where, report)

    def _kept(self, captions: list[str]) -> list[str]:
        faults = [fault_of(caption) for caption in captions]
        self._total += len(captions)
        self._counts.update(filter(None, faults))
        return [caption for caption, fault in zip(captions, faults, strict=True) if not fault]

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
