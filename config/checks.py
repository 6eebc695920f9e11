"""The declaration of an option: its default, its meaning, the check that its value must pass."""

import re
from collections.abc import Callable
from dataclasses import field
from typing import Any, NamedTuple


class Check(NamedTuple):
    """A test that a value must pass, and what was expected, for the error message."""

    passes: Callable[[Any], bool]
    expected: str
    choices: tuple[str, ...] = ()


MAX_SIDE, MAX_BLOCKS, MAX_TOKENS, MAX_WORKERS = 16_384, 1_000, 10_000_000, 256

POSITIVE = Check(lambda value: value > 0, "a number above 0")
NOT_NEGATIVE = Check(lambda value: value >= 0, "a number of at least 0")
FRACTION = Check(lambda value: 0 <= value <= 1, "a number from 0 to 1")
BELOW_ONE = Check(lambda value: 0 <= value < 1, "a number from 0 to below 1")
ALL_SIZES = Check(
    lambda values: all(v is None or 0 < v <= MAX_SIDE for v in values), f"numbers from 1 to {MAX_SIDE:,}"
)
MOMENTS = Check(lambda values: all(0 <= v < 1 for v in values), "two numbers from 0 to below 1")
NOT_EMPTY = Check(lambda values: len(set(values)) == len(values) > 0, "at least one, without duplicates")
NOISE = Check(
    lambda value: isinstance(value, str) or 0 < value < 1, "a file, or a share above 0, below 1 (null: none)"
)
ADDRESS = Check(
    lambda value: value.startswith(("https://", "http://", "pipe:")) and value.count("{}") == 1,
    "an address that begins with https://, http:// or pipe: and has {} once",
)
SHARE = Check(lambda value: 0 < value <= 1, "a number above 0, up to 1 (all)")
SHARES = Check(lambda values: all(0 < v <= 1 for v in values), "two numbers above 0, up to 1 (all)")
UP_TO_HALF = Check(lambda value: 0 < value <= 0.5, "a number above 0, up to 0.5")
BLOCK_NUMBERS = Check(
    lambda values: all(v >= 0 for v in values) and len(set(values)) == len(values),
    "numbers of at least 0, without duplicates",
)

MINUTES = re.compile(r"(\d+(?:\.\d+)?) min(?:ute)?s?")
PERIOD = Check(
    lambda value: bool(MINUTES.fullmatch(value)) if isinstance(value, str) else value > 0,
    "a number of steps above 0, or minutes such as '10 minutes'",
)
WEIGHTS = Check(lambda weights: all(w > 0 for w in weights.values()), "weights above 0")


def between(lowest: int, highest: int) -> Check:
    """The check that a size or a count is in a range: no typing error fills the memory."""
    return Check(lambda value: lowest <= value <= highest, f"a number from {lowest} to {highest:,}")


SIZE, BLOCKS, VOCABULARY = between(1, MAX_SIDE), between(1, MAX_BLOCKS), between(1, MAX_TOKENS)
TEXT_LENGTH = between(3, MAX_SIDE)  # start, one word, end
WORKERS, BLOCKS_OR_NONE = between(0, MAX_WORKERS), between(0, MAX_BLOCKS)
SEVERAL_PROCESSES = "several_processes"  # a condition of `option`
TIMEOUT = Check(lambda value: 0 < value <= 1e6, "a number above 0, up to a million")


def one_of(*choices: str) -> Check:
    """The check that a value is one of `choices`."""
    return Check(lambda value: value in choices, "one of " + ", ".join(choices), choices)


def option(default: Any, doc: str, check: Check | None = None, needs: str = "", is_loss: bool = False) -> Any:
    """A field of a section: its default, a line of documentation, the check that its value must pass.

    Args:
        needs: conditions, separated by spaces, one of which must hold for the option to have an effect:
            NAME (the option is true), NAME=VALUE or NAME!=VALUE, where NAME is an option of the same section
            or "section.name"; or `SEVERAL_PROCESSES`.
        is_loss: whether the field switches on the loss of its name, whose weight is the field `NAME_ratio`.
    """
    start = {"default_factory": default.copy} if isinstance(default, dict) else {"default": default}
    metadata = {"doc": doc, "check": check, "needs": needs.split(), "is_loss": is_loss}
    return field(**start, metadata=metadata)
