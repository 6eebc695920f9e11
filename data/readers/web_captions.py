"""Captions that language models wrote of images: some are no captions."""

import logging
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

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


class Dropped:
    """Drops captions that are none, and counts them."""

    def __init__(self) -> None:
        self.counts, self.total = Counter[str](), 0

    def keep(self, captions: Iterable[str]) -> list[str]:
        """The captions without faults."""
        kept = []
        for caption in captions:
            self.total += 1
            if fault := fault_of(caption):
                self.counts[fault] += 1
            else:
                kept.append(caption)
        return kept

    def log(self, path: Path) -> None:
        """Say how many were dropped, and why."""
        if self.counts:
            reasons = ", ".join(f"{number:,} {name}" for name, number in self.counts.most_common())
            logger.warning(
                "'%s': dropped %s of %s captions that are none: %s",
                *(path, f"{self.counts.total():,}", f"{self.total:,}", reasons),
            )
