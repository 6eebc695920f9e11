"""What the languages share: the content of a caption, lists and sentences."""

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from data.synthetic.attributes import Item

GARMENTS = ("upper", "lower", "shoes")
ACCESSORIES = ("hat", "scarf", "glasses", "mask")
Thing = Callable[[Item, random.Random], str]


class Content(NamedTuple):
    """What a caption states: the person's sex, and the things mentioned, by field of `Identity` or as "build"
    and "view" (an `Item` of that kind). "upper" or "lower" is always one of them.
    """

    sex: str
    items: dict[str, Item]


def listed(parts: Sequence[str], conjunction: str) -> str:
    """The parts joined by commas, the last one by `conjunction`."""
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + f" {conjunction} " + parts[-1]


def fresh_verb(choices: Sequence[str], used: set[str], rng: random.Random) -> str:
    """A verb phrase, preferably one whose verb (its first word) is not in `used`; adds the verb to it."""
    fresh = [phrase for phrase in choices if phrase.split()[0] not in used]
    chosen = rng.choice(fresh or choices)
    used.add(chosen.split()[0])
    return chosen


def mentioned(content: Content, fields: Sequence[str]) -> list[tuple[str, Item]]:
    """The mentioned things of these fields, in the order of `fields`."""
    return [(field, content.items[field]) for field in fields if field in content.items]


def clothes(
    content: Content, fields: Sequence[str], thing: Thing, over: Thing, rng: random.Random
) -> list[str]:
    """What is worn of these fields, as `thing` words it; an inner garment (`over`) with what is over it."""
    return [
        thing(item, rng)
        + (over(content.items["inner"], rng) if field == "upper" and "inner" in content.items else "")
        for field, item in mentioned(content, fields)
    ]


def carried(
    content: Content,
    verbs: dict[str, tuple[str, ...]],
    used: set[str],
    thing: Thing,
    word: str,
    rng: random.Random,
) -> list[str]:
    """What a person carries, as verb phrases with the thing and the pronoun `word` filled in."""
    return [
        fresh_verb(verbs[item.kind], used, rng).format(thing(item, rng), word)
        for _, item in mentioned(content, ("bag", "hand"))
    ]


def paragraph(sentences: Sequence[str]) -> str:
    """The sentences that are not empty, each with a capital and a full stop."""
    return " ".join(f"{sentence[0].upper()}{sentence[1:]}." for sentence in sentences if sentence)
