"""What the languages share: what is to be said, and how lists and sentences are put together."""

import random
from collections.abc import Sequence
from typing import NamedTuple

from data.synthetic.attributes import Item

GARMENTS = ("upper", "lower", "shoes")
ACCESSORIES = ("hat", "scarf", "glasses", "mask")


class Content(NamedTuple):
    """What one caption says: the person's sex and the things mentioned, by field of `Identity`; besides
    these "build" and "view" (an `Item` whose kind is the build or the view). "upper" or "lower" is there."""

    sex: str
    items: dict[str, Item]


def listed(parts: Sequence[str], conjunction: str) -> str:
    """The parts joined by commas, the last one by `conjunction`."""
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + f" {conjunction} " + parts[-1]


def fresh_verb(choices: Sequence[str], used: set[str], rng: random.Random) -> str:
    """One of the verb phrases, rather one whose verb (its first word) is not in `used` yet; adds it there."""
    fresh = [phrase for phrase in choices if phrase.split()[0] not in used]
    chosen = rng.choice(fresh or choices)
    used.add(chosen.split()[0])
    return chosen


def mentioned(content: Content, fields: Sequence[str]) -> list[tuple[str, Item]]:
    """The things of these fields that a caption speaks of, in the order of `fields`."""
    return [(field, content.items[field]) for field in fields if field in content.items]


def paragraph(sentences: Sequence[str]) -> str:
    """The sentences that are not empty, each with a capital and a full stop."""
    return " ".join(f"{sentence[0].upper()}{sentence[1:]}." for sentence in sentences if sentence)
