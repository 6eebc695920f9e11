"""From YAML text to typed values: files with `base:`, `key=value` overrides, conversion without loss."""

import contextlib
import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from config.checks import Check

Settings = dict[str, tuple[Any, str]]


# Options that are called otherwise since TBPS-CLIP.
RENAMED = {
    "anno_dir": "data.annotation_file",
    "image_dir": "data.image_root",
    "device": "misc.device",
    "model.checkpoint": "model.clip_pretrained",
    "model.ckpt_type": "model.clip_pretrained (the format is told by the file)",
    "model.saved_path": "output.dir",
    "experiment.input_resolution": "data.image_size",
    "distributed.url": "nothing: torchrun's environment tells the address",
}


class UserError(ValueError):
    """A mistake the user can mend: one line saying what, where, what was expected and what to do."""


def read_settings(
    source: Path | Mapping[str, Any], overrides: Iterable[str] = (), overlay: Path | None = None
) -> Settings:
    """The settings of a YAML file over those of its bases, or of plain sections; then of `overlay` without
    bases, then of `section.name=value` overrides over all.

    Returns:
        {"section.name": (value, where it was set)}, the values as YAML gives them.

    Raises:
        UserError: a file that cannot be read, text that is not YAML, an override without "=".
    """
    if isinstance(source, Mapping):
        settings = _flat(source, "the saved options")
    else:
        settings = _read_file(source, seen=())
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
    """YAML's safe loader, with 1e-4 read as a number and a key that stands twice refused."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping of a node; raises ConstructorError where a key stands twice."""
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"'{key}' stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def _parse_yaml(text: str, where: str) -> Any:
    try:
        return yaml.load(text, _Loader)  # a SafeLoader: builds plain values only
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        raise UserError(f"{where}:{line} is not valid YAML ({getattr(error, 'problem', error)})") from error


def _read_file(path: Path, seen: tuple[Path, ...], with_bases: bool = True) -> Settings:
    """The settings of a file over those of its bases: {"section.name": (value, the file it stands in)}."""
    if path.resolve() in seen:
        raise UserError(f"{path}: its chain of 'base:' files comes back to itself")
    try:
        content = _parse_yaml(path.read_text(encoding="utf-8"), f"'{path}'") or {}
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as an options file ({error})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected sections such as 'schedule:', found {type(content).__name__}")
    settings: Settings = {}
    base = content.pop("base", None)
    if base is not None and with_bases:
        settings = _read_file(path.parent / str(base), (*seen, path.resolve()))
    return settings | _flat(content, f"'{path}'")


def _flat(sections: Mapping[str, Any], where: str) -> Settings:
    settings: Settings = {}
    for section, values in sections.items():
        if isinstance(values, dict):
            settings |= {f"{section}.{name}": (value, where) for name, value in values.items()}
        else:
            settings[str(section)] = (values, where)
    return settings


def build(kind: type, settings: Settings) -> Any:
    """The options dataclass `kind`, a section in each field, with the settings in place of its defaults.

    Raises:
        UserError: a key that does not exist, a value of the wrong type or one that fails its check.
    """
    sections = typing.get_type_hints(kind)
    known = {f"{s}.{f.name}": f for s, section in sections.items() for f in dataclasses.fields(section)}
    chosen: dict[str, dict[str, Any]] = {section: {} for section in sections}
    for key, (value, where) in settings.items():
        if key in sections:
            if value is None:  # a section whose lines are all commented out
                continue
            raise UserError(f"{key}: expected a section of options, found {value!r} (in {where})")
        if key not in known:
            raise UserError(_unknown(key, where, list(known)))
        section, name = key.split(".")
        hint = typing.get_type_hints(sections[section])[name]
        chosen[section][name] = _checked(key, value, hint, known[key].metadata["check"], where)
    return kind(**{section: sections[section](**values) for section, values in chosen.items()})


def _unknown(key: str, where: str, known: list[str]) -> str:
    if key in RENAMED:
        return f"{key}: no option of that name in {where}; it is now {RENAMED[key]}"
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
        raise UserError(f"{key}: expected {_words(hint)}, found {value!r} (in {where})") from None
    if check and typed is not None and not check.passes(typed):
        raise UserError(f"{key}: expected {check.words}, found {value!r} (in {where})")
    return typed


def _convert(value: Any, hint: Any) -> Any:
    """`value` as a `hint`: only what loses nothing (1 for a float, a list for a tuple). Raises TypeError."""
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
        kinds = typing.get_args(hint)
        if not isinstance(value, list | tuple):
            raise TypeError
        if kinds[-1] is Ellipsis:
            kinds = (kinds[0],) * len(value)
        if len(kinds) != len(value):
            raise TypeError
        return tuple(_convert(v, kind) for v, kind in zip(value, kinds, strict=True))
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint or value != value or value in (float("inf"), float("-inf")):
        raise TypeError
    return value


def _words(hint: Any) -> str:
    if isinstance(hint, types.UnionType):
        return " or ".join(_words(kind) for kind in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        kinds = typing.get_args(hint)
        if kinds[-1] is Ellipsis:
            return f"a list of {_words(kinds[0])}s"
        return f"a list of {len(kinds)} {'texts' if str in kinds else 'numbers'}"
    if typing.get_origin(hint) is Mapping:
        return f"names, each with {_words(typing.get_args(hint)[1])}: {{name: ...}}"
    return {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "a text",
        type(None): "null",
    }[hint]
