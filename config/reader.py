"""From YAML text to typed values: files with `base:`, `key=value` overrides, conversion without loss."""

import contextlib
import dataclasses
import difflib
import os
import re
import reprlib
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from config.checks import Check

Settings = dict[str, tuple[Any, str]]

MAX_CHARACTERS, MAX_BASES = 200_000, 50  # of an options file; more is another file, or a hostile one
MAX_NAME_BYTES, MAX_PATH_LENGTH = 255, 1000  # the path stays below the system's limit with our file names
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


class UserError(ValueError):
    """A user error: one line with what and where, what was expected, what to do."""


def read_settings(
    source: Path | Mapping[str, Any], overrides: Iterable[str] = (), overlay: Path | None = None
) -> Settings:
    """{"section.name": (value as YAML gives it, where it was set)} of a file and its bases, or of sections.

    Those of `overlay`, without its bases, take precedence, and `section.name=value` overrides over all.

    Raises:
        UserError: a file that cannot be read, invalid YAML, an override without "=".
    """
    is_saved = isinstance(source, Mapping)
    settings = _flat(source, "the saved options") if is_saved else _read_file(source, seen=())
    if overlay:
        settings |= _read_file(overlay, seen=(), with_bases=False)
    for override in overrides:
        key, separator, text = override.partition("=")
        where = f"override '{override}'"
        if not separator:
            raise UserError(f"{where}: expected key.path=value, such as schedule.epoch=1")
        settings[key.strip()] = (_parse_yaml(text, where), where)
    return settings


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, which reads 1e-4 as a number and rejects duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping of a node; raises ConstructorError for a duplicate key."""
        seen = set()
        for key in (key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"duplicate key '{key}'", node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def _parse_yaml(text: str, where: str) -> Any:
    try:
        return yaml.load(text, _Loader)  # a SafeLoader: only plain values
    except Exception as error:  # its constructors raise what int, float and datetime raise
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or error
        raise UserError(f"{where}:{line} is not valid YAML ({problem!s:.200})") from error


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
    content = _parse_yaml(_read_text(path), f"'{path}'") or {}
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected sections such as 'schedule:', found {type(content).__name__}")
    settings: Settings = {}
    base = content.pop("base", None)
    if base is not None and with_bases:
        seen = (*seen, os.path.realpath(path))
        if not isinstance(base, str) or not is_name(base):
            raise UserError(f"base: expected the name of an options file, found {_shown(base)} (in '{path}')")
        if os.path.realpath(path.parent / base) in seen or len(seen) > MAX_BASES:
            words = "is too long" if len(seen) > MAX_BASES else "has a cycle"
            raise UserError(f"{path}: its chain of 'base:' files {words}")
        settings = _read_file(path.parent / base, seen)
    return settings | _flat(content, f"'{path}'")


def _flat(sections: Mapping[str, Any], where: str) -> Settings:
    settings: Settings = {}
    for section, values in sections.items():
        if isinstance(values, dict):
            settings |= {f"{_name(section)}.{_name(key)}": (value, where) for key, value in values.items()}
        else:
            settings[_name(section)] = (values, where)
    return settings


def _name(key: Any) -> str:
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
        if key in sections and value is None:  # a section without lines
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
    try:
        typed = _convert(value, hint)
    except TypeError:
        raise UserError(f"{key}: expected {_type_name(hint)}, found {_shown(value)} (in {where})") from None
    except OverflowError:
        words = f"numbers of at most {MAX_BITS} bits"
        raise UserError(f"{key}: expected {words}, found {_shown(value)} (in {where})") from None
    if check and typed is not None and not check.passes(typed):
        raise UserError(f"{key}: expected {check.expected}, found {_shown(value)} (in {where})")
    return typed


def _convert(value: Any, hint: Any) -> Any:
    """`value` as `hint`, only without loss: raises TypeError, or OverflowError for an integer too large."""
    if isinstance(hint, types.UnionType):
        *kinds, last = typing.get_args(hint)
        for kind in kinds:
            with contextlib.suppress(TypeError):
                return _convert(value, kind)
        return _convert(value, last)
    if typing.get_origin(hint) is Mapping:
        if not isinstance(value, dict):
            raise TypeError
        name, kind = typing.get_args(hint)
        return {_convert(key, name): _convert(item, kind) for key, item in value.items()}
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


def is_name(text: str) -> bool:
    """Whether a text can be the path of a file: UTF-8, not empty, no NUL, not too long."""
    try:
        parts = text.encode().split(b"/")
    except UnicodeEncodeError:  # an unpaired surrogate, or a byte that is not UTF-8
        return False
    is_short = len(text) <= MAX_PATH_LENGTH and max(map(len, parts)) <= MAX_NAME_BYTES
    return text != "" and "\0" not in text and is_short


def _type_name(hint: Any) -> str:
    if isinstance(hint, types.UnionType):
        return " or ".join(_type_name(kind) for kind in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        kinds = typing.get_args(hint)
        if kinds[-1] is Ellipsis:
            return f"a list of {_type_name(kinds[0])}s"
        return f"a list of {len(kinds)} {'texts' if str in kinds else 'numbers'}"
    if typing.get_origin(hint) is Mapping:
        return f"names, each with {_type_name(typing.get_args(hint)[1])}: {{name: ...}}"
    return {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "a text (not empty, at most 255 bytes between two '/')",
        type(None): "null",
    }[hint]
