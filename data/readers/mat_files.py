"""MATLAB files, of the sets that annotate persons in frames."""

from pathlib import Path
from typing import Any

from data.types import Box
from misc.process.failures import reason_of
from options import UserError


def variable(path: Path, *names: str) -> Any:
    """The value of the first of these variables that a file has: arrays, lists of cells, dicts of structs in
    the order of their fields; None where it has none of them.

    Raises:
        UserError: no such file, or one that is damaged.
    """
    from scipy.io import loadmat  # here: every annotation file is shown to the readers of these sets

    try:
        found = loadmat(path, variable_names=names, simplify_cells=True)
    except FileNotFoundError as error:
        raise UserError(f"data.annotation_file: there is no '{path}'. Check the download") from error
    except Exception as error:  # a parser can raise anything on damaged bytes
        raise UserError(
            f"data.annotation_file: '{path}' cannot be read ({reason_of(error):.150}). Download it again"
        ) from error
    return next((found[name] for name in names if name in found), None)


def needed(path: Path, name: str) -> Any:
    """As `variable`; raises UserError where the file does not have it."""
    value = variable(path, name)
    if value is None:
        raise UserError(f"data.annotation_file: '{path}' has no variable '{name}'. Download it again")
    return value


def items(value: Any) -> list[Any]:
    """The cells or structs of a value: MATLAB has no list of one."""
    return list(value) if isinstance(value, list) or getattr(value, "ndim", 0) else [value]


def fields(struct: Any, number: int, where: str) -> list[Any]:
    """The values of the first fields of a struct, by their order. Raises UserError where it has fewer."""
    values = list(struct.values()) if isinstance(struct, dict) else []
    if len(values) < number:
        raise UserError(f"{where}: expected a struct of {number} fields, found {struct!r:.40}")
    return values[:number]


def as_box(value: Any, where: str) -> Box:
    """(left, top, width, height). Raises UserError where these are no four finite numbers."""
    try:
        left, top, width, height = (float(number) for number in value)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: expected a box of four numbers, found {value!r:.60}") from error
    if not all(abs(number) < 1e6 for number in (left, top, width, height)):
        raise UserError(f"{where}: expected a box in pixels, found {value!r:.60}")
    return left, top, width, height


def is_box(value: Any) -> bool:
    """Whether there is a box: an empty array stands for none."""
    return getattr(value, "size", 0) > 0
