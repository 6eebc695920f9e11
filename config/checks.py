"""What a field of a section is declared with: its default, its meaning, the check its value must pass."""

import re
from collections.abc import Callable
from dataclasses import field
from typing import Any, NamedTuple


class Check(NamedTuple):
    """A test that a value must pass, and the words for it in an error message."""

    passes: Callable[[Any], bool]
    words: str


MOST_OF_SIDE, MOST_BLOCKS, MOST_TOKENS, MOST_WORKERS = 16_384, 1_000, 10_000_000, 256

POSITIVE = Check(lambda value: value > 0, "a number above 0")
NOT_NEGATIVE = Check(lambda value: value >= 0, "a number of at least 0")
FRACTION = Check(lambda value: 0 <= value <= 1, "a number from 0 to 1")
BELOW_ONE = Check(lambda value: 0 <= value < 1, "a number from 0 to below 1")
ALL_SIZES = Check(
    lambda values: all(v is None or 0 < v <= MOST_OF_SIDE for v in values),
    f"numbers from 1 to {MOST_OF_SIDE:,}",
)
MOMENTS = Check(lambda values: all(0 <= v < 1 for v in values), "two numbers from 0 to below 1")
NOT_EMPTY = Check(lambda values: len(set(values)) == len(values) > 0, "at least one, none of them twice")
SHARE = Check(lambda value: 0 < value <= 1, "a number above 0, up to 1 (all)")
UP_TO_HALF = Check(lambda value: 0 < value <= 0.5, "a number above 0, up to 0.5")
BLOCK_NUMBERS = Check(
    lambda values: all(v >= 0 for v in values) and len(set(values)) == len(values),
    "numbers of at least 0, none of them twice",
)

MINUTES = re.compile(r"(\d+(?:\.\d+)?) min(?:ute)?s?")
PERIOD = Check(
    lambda value: bool(MINUTES.fullmatch(value)) if isinstance(value, str) else value > 0,
    "a number of steps above 0, or minutes such as '10 minutes'",
)
WEIGHTS = Check(lambda weights: all(w > 0 for w in weights.values()), "weights above 0")


def up_to(most: int, least: int = 1) -> Check:
    """The check that a size or a count is one that a machine could take."""
    return Check(lambda value: least <= value <= most, f"a number from {least} to {most:,}")


SIZE, BLOCKS, VOCABULARY = up_to(MOST_OF_SIDE), up_to(MOST_BLOCKS), up_to(MOST_TOKENS)
TEXT_LENGTH = up_to(MOST_OF_SIDE, least=3)  # start, one piece, end
WORKERS, BLOCKS_OR_NONE = up_to(MOST_WORKERS, least=0), up_to(MOST_BLOCKS, least=0)
MINUTES_OF_WAITING = Check(lambda value: 0 < value <= 1e6, "a number above 0, up to a million")


def one_of(*choices: str) -> Check:
    """The check that a value is one of `choices`."""
    return Check(lambda value: value in choices, "one of " + ", ".join(choices))


def option(default: Any, doc: str, check: Check | None = None, needs: str = "") -> Any:
    """A field of a section: its default, a line of documentation, the check its value must pass.

    `needs`: the switches of `experiment` of which one must be on for the option to have an effect.
    """
    start = {"default_factory": default.copy} if isinstance(default, dict) else {"default": default}
    return field(**start, metadata={"doc": doc, "check": check, "needs": needs.split()})
