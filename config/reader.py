"""From YAML text to typed values: files with `base:`, `key=value` overrides, conversion without loss."""

import contextlib
import dataclasses
import difflib
import os
import reprlib
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from config.checks import Check
from config.data import Preparation
from config.paths import FilePath, expand, expand_home, is_name
from config.scalars import Scalar, parse, parse_value

Settings = dict[str, tuple[Any, str]]

MAX_CHARACTERS, MAX_BASES = 200_000, 50  # of an options file; more is another file, or a hostile one
MAX_BITS = 63  # of an integer

# Options of TBPS-CLIP that have another name here.
RENAMED = {
    "anno_dir": "data.annotation_file",
    "image_dir": "data.image_root",
    "device": "misc.device",
    "model.checkpoint": "model.clip_pretrained",
    "model.ckpt_type": "model.clip_pretrained (the format is detected from the file)",
    "model.saved_path": "output.dir",
    "experiment.input_resolution": "data.image_size",
    "distributed.url": "nothing: torchrun sets the address",
}
PREPARATION, PREPARED = "data.preparation", {f"data.{name}" for name in Preparation._fields}


class UserError(ValueError):
    """A user error: one line with what and where, what was expected, what to do."""


def read_settings(
    source: Path | Mapping[str, Any], overrides: Iterable[str] = (), overlay: Path | None = None
) -> Settings:
    """{"section.name": (value as YAML gives it, where it was set)} of a file and its bases, or of sections.

    Those of `overlay`, without its bases, take precedence, and `section.name=value` overrides over all.

    Raises:
        UserError: a file that cannot be read, invalid YAML, an override without "=" or value.
    """
    if isinstance(source, Mapping):
        settings = _flat(source, "the saved options")
    else:
        settings = _read_file(_expanded(source), seen=())
    if overlay:
        settings = _over(settings, _read_file(_expanded(overlay), seen=(), with_bases=False))
    given: Settings = {}
    for override in overrides:
        key, separator, text = override.partition("=")
        where = f"override '{override}'"
        if not separator:
            raise UserError(f"{where}: expected key.path=value, such as schedule.epoch=1")
        given[key.strip()] = (_parsed(parse_value, text, where), where)
    return _over(settings, given)


def _over(settings: Settings, above: Settings) -> Settings:
    """The settings with those `above` over them. A preparation also replaces what it decides: it would have
    no effect over options.yaml, where each of these options has its value.
    """
    replaced = PREPARED if PREPARATION in above else ()
    return {key: value for key, value in settings.items() if key not in replaced} | above


def _expanded(path: Path) -> Path:
    try:
        return Path(expand_home(str(path)))
    except ValueError as error:
        raise UserError(f"options file {error}") from error


def _parsed(parse: Callable[[str], Any], text: str, where: str) -> Any:
    try:
        return parse(text)
    except ValueError as error:
        raise UserError(f"{where}{error}") from error


def _read_text(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MAX_CHARACTERS + 1)
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a NUL in the name
        raise UserError(f"{path}: cannot be read as an options file ({error})") from error
    if len(text) > MAX_CHARACTERS:
        raise UserError(f"{path}: is not an options file: it has more than {MAX_CHARACTERS:,} characters")
    return text


def _read_file(path: Path, seen: tuple[str, ...], with_bases: bool = True) -> Settings:
    """The settings of a file and of its bases: {"section.name": (value, the file that sets it)}."""
    content = _parsed(parse, _read_text(path), f"'{path}'") or {}
    if not isinstance(content, dict):
        kind = "a single value" if isinstance(content, Scalar) else type(content).__name__
        raise UserError(f"{path}: expected sections such as 'schedule:', found {kind}")
    settings: Settings = {}
    base = content.pop(Scalar("base"), None)
    if base not in (None, Scalar(None)) and with_bases:
        name = Path(_base(base, path))
        seen = (*seen, os.path.realpath(path))
        if os.path.realpath(path.parent / name) in seen or len(seen) > MAX_BASES:
            words = "is too long" if len(seen) > MAX_BASES else "has a cycle"
            raise UserError(f"{path}: its chain of 'base:' files {words}")
        settings = _read_file(path.parent / name, seen)
    return _over(settings, _flat(content, f"'{path}'"))


def _base(value: Any, path: Path) -> str:
    try:
        return _convert(value, FilePath)
    except TypeError as error:
        expected = f"expected the name of an options file, found {_shown(value)}{error}"
        raise UserError(f"base: {expected} (in '{path}')") from error
    except ValueError as error:
        raise UserError(f"base: {error} (in '{path}')") from error


def _flat(sections: Mapping[Any, Any], where: str) -> Settings:
    """{"section.name": (value, where)}; raises UserError for an option that is set twice."""
    settings: Settings = {}
    for section, values in sections.items():
        is_section = isinstance(values, dict)
        for key, value in values.items() if is_section else [(section, values)]:
            name = f"{_name(section)}.{_name(key)}" if is_section else _name(key)
            if name in settings:
                raise UserError(f"{where}: duplicate key '{name}'")
            line = f" line {key.line}" if isinstance(key, Scalar) else ""
            settings[name] = (value, where + line)
    return settings


def _name(key: Any) -> str:
    if isinstance(key, Scalar):
        key = key.value if isinstance(key.value, str) else key.source[:200]
    return key if isinstance(key, str) else _shown(key)


def _shown(value: Any) -> str:
    """A value for a message, shortened."""
    short = reprlib.Repr()
    short.maxlevel, short.maxstring, short.maxother = 3, 200, 200
    try:
        return short.repr(value)
    except ValueError:  # Python refuses to print integers of more than 4,300 digits
        return "a number with thousands of digits"


def build(kind: type, settings: Settings) -> Any:
    """Build the options dataclass `kind`, a section in each field, from the settings and its defaults.

    Raises:
        UserError: a key that does not exist, a value of the wrong type or one that fails its check.
    """
    sections = typing.get_type_hints(kind)
    known = {f"{s}.{f.name}": f for s, section in sections.items() for f in dataclasses.fields(section)}
    chosen: dict[str, dict[str, Any]] = {section: {} for section in sections}
    for key, (value, where) in settings.items():
        if key in sections and value in (None, Scalar(None)):  # a section without lines
            continue
        if key in sections:
            raise UserError(f"{key}: expected a section of options, found {_shown(value)} (in {where})")
        if key not in known:
            raise UserError(_unknown(key, where, list(known)))
        section, name = key.split(".")
        hint = typing.get_type_hints(sections[section])[name]
        chosen[section][name] = _checked(key, value, hint, known[key].metadata["check"], where)
    return kind(**{section: sections[section](**values) for section, values in chosen.items()})


def _unknown(key: str, where: str, known: list[str]) -> str:
    if key in RENAMED:
        return f"{key}: no such option (in {where}); it is now {RENAMED[key]}"
    by_name = {k.split(".")[1]: k for k in known}
    near = difflib.get_close_matches(key, known, 1, 0.6) or [
        by_name[n] for n in difflib.get_close_matches(key.split(".")[-1], list(by_name), 1, 0.6)
    ]
    return f"{key}: no such option (in {where})" + (f"; did you mean {near[0]}?" if near else "")


def _checked(key: str, value: Any, hint: Any, check: Check | None, where: str) -> Any:
    """The value in its field's type; raises UserError where type or check do not fit."""
    if check and isinstance(value, Scalar) and value.value in check.choices:
        value = value.value  # "none" among them: a name, where it would be taken for null
    try:
        typed = _convert(value, hint)
    except TypeError as error:
        found = f"found {_shown(value)}{error}"  # the error may add what YAML made of it
        raise UserError(f"{key}: expected {_type_name(hint)}, {found} (in {where})") from None
    except OverflowError:
        words = f"numbers of at most {MAX_BITS} bits"
        raise UserError(f"{key}: expected {words}, found {_shown(value)} (in {where})") from None
    except ValueError as error:
        raise UserError(f"{key}: {error} (in {where})") from None
    if check and typed is not None and not check.passes(typed):
        raise UserError(f"{key}: expected {check.expected}, found {_shown(value)} (in {where})")
    return typed


def _convert(value: Any, hint: Any) -> Any:
    """`value` as `hint`, only without loss.

    Raises:
        TypeError: it has another type; what YAML reads it as, if that is a surprise.
        OverflowError: an integer that is too large.
        ValueError: a path that cannot be expanded.
    """
    if isinstance(value, Scalar):
        return _of_scalar(value, hint)
    if _is_union(hint):
        *kinds, last = typing.get_args(hint)
        for kind in kinds:
            with contextlib.suppress(TypeError):
                return _convert(value, kind)
        return _convert(value, last)
    if hint is FilePath:
        return expand(_convert(value, str))
    if typing.get_origin(hint) is Mapping:
        if not isinstance(value, dict):
            raise TypeError
        name, kind = typing.get_args(hint)
        items = {_convert(key, name): _convert(item, kind) for key, item in value.items()}
        if len(items) != len(value):
            raise ValueError(f"expected different names, found {_shown(value)}: two are the same path")
        return items
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise TypeError
        kinds = typing.get_args(hint)
        kinds = kinds[:1] * len(value) if kinds[-1] is Ellipsis else kinds
        if len(kinds) != len(value):
            raise TypeError
        return tuple(_convert(v, kind) for v, kind in zip(value, kinds, strict=True))
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint or value != value or value in (float("inf"), float("-inf")):
        raise TypeError
    if hint is int and value.bit_length() > MAX_BITS:
        raise OverflowError
    if hint is str and not is_name(value):
        raise TypeError
    return value


def _of_scalar(scalar: Scalar, hint: Any) -> Any:
    """As `_convert`; also refuses what stands for a null that YAML or Python has and the other has not."""
    kinds = typing.get_args(hint) if _is_union(hint) else (hint,)
    is_text = str in kinds or FilePath in kinds
    is_none = scalar.is_plain and scalar.source.lower() == "none" and type(None) in kinds
    is_home = scalar.is_plain and scalar.source == "~" and FilePath in kinds
    try:
        if scalar.is_misread or is_none or is_home:
            raise TypeError
        return _convert(scalar.value, hint)
    except TypeError:
        note = "; write null for none" if is_none else scalar.note(is_text)
        raise TypeError(note) from None


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (types.UnionType, typing.Union)


def _type_name(hint: Any) -> str:
    if _is_union(hint):
        return " or ".join(_type_name(kind) for kind in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        kinds = typing.get_args(hint)
        count = "" if kinds[-1] is Ellipsis else f"{len(kinds)} "
        nouns = {str: "texts", FilePath: "texts", int: "whole numbers"}
        return f"a list of {count}{nouns.get(kinds[0], 'numbers')}"
    if typing.get_origin(hint) is Mapping:
        return f"names, each with {_type_name(typing.get_args(hint)[1])}: {{name: ...}}"
    return {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "a text (not empty, at most 255 bytes between two '/')",
        type(None): "null",
    }[str if hint is FilePath else hint]
