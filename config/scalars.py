"""YAML text to Python values that remember how they were written, and back."""

import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

# What YAML 1.1 reads as another number than its writer: 010 is octal, 12:30 counts in sixties, 1_5 is 15.
MISREAD = re.compile(r"[-+]?(0[0-7_]+|.*:.*|.*_(?!\d{3}(?!\d)).*)")
# An anchor or a tag before a value: they are no part of it.
PROPERTIES = re.compile(r"^([&!]\S*\s+)+(?=\S)")
# Numbers that YAML 1.1 reads as texts.
NUMBER = re.compile(r"^[-+]?(\d+\.?\d*[eE][-+]?\d+|\.\d+([eE][-+]?\d+)?)$")


@dataclass(frozen=True)
class Scalar:
    """A word or a number of a YAML text: what YAML reads it as, its source text and its line."""

    value: Any
    source: str = field(default="", compare=False)
    line: int = field(default=0, compare=False)
    is_plain: bool = field(default=True, compare=False)

    def __repr__(self) -> str:
        return repr(self.source) if self.is_plain else " ".join(self.source.split())

    @property
    def is_misread(self) -> bool:
        """Whether YAML reads a number in another way than people, or finds no value."""
        if self.value is None:
            return self.source.lower() not in ("", "~", "null")
        is_number = type(self.value) in (int, float)
        return is_number and self.is_plain and MISREAD.fullmatch(self.source) is not None

    def note(self, text_expected: bool) -> str:
        """The end of an error message: what YAML makes of the source, where that is a surprise."""
        meaning = _meaning(self.value)
        is_plain_number = type(self.value) in (int, float) and not self.is_misread
        if not self.is_plain or (not text_expected and (is_plain_number or meaning == self.source)):
            return ""
        if isinstance(self.value, str):
            return ""
        source = repr(self.source[:100])
        quotes = f"; for this text write {source} in quotes" if text_expected else ""
        return f", and YAML reads {source} as {meaning}{quotes}"


def _meaning(value: object) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"the number {value}" if abs(value) < 1e15 else "a number"
    if isinstance(value, datetime.date):
        return "a date"
    return {True: "true", False: "false", None: "null"}.get(value, "another value")


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, which reads 1e-4 as a number, rejects duplicate keys and makes `Scalar`s."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        """As the base class has it; raises ComposerError for a duplicate key."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.composer.ComposerError(None, None, f"duplicate key '{key.value}'", key.start_mark)
            seen.add(key.value)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """As the base class has it, a `Scalar` for a scalar."""
        if not isinstance(node, yaml.ScalarNode):
            return super().construct_object(node, deep)
        start, end = node.start_mark, node.end_mark
        source = PROPERTIES.sub("", start.buffer[start.pointer : end.pointer])
        try:
            value = super().construct_object(node, deep)
        except ValueError as error:  # what int, float and datetime raise
            raise yaml.constructor.ConstructorError(None, None, str(error), start) from error
        return Scalar(value, source, start.line + 1, node.style is None)


class _Dumper(yaml.SafeDumper):
    """YAML's safe dumper, for `_Loader`: texts that it would refuse, or read as numbers, are in quotes."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        """The scalar of a text."""
        needs_quotes = text.lower() == "none" or NUMBER.match(text)
        return self.represent_scalar("tag:yaml.org,2002:str", text, style="'" if needs_quotes else None)


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", NUMBER, list("-+.0123456789"))
_Dumper.add_representer(str, _Dumper.represent_text)


def dump(settings: Mapping[str, Any]) -> str:
    """Settings as the text of an options file, which `parse` reads as they are."""
    return yaml.dump(settings, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def parse(text: str) -> Any:
    """The content of a YAML text: dicts, lists and `Scalar`s; None for an empty one.

    Raises:
        ValueError: with the line and its text, where they are known.
    """
    try:
        return yaml.load(text, _Loader)  # a SafeLoader: only plain values
    except Exception as error:  # also RecursionError, and what resolvers raise
        mark = getattr(error, "problem_mark", None)
        place = f" line {mark.line + 1}" if mark else ""
        lines = text.splitlines()
        quoted = f": {lines[mark.line].strip()[:100]!r}" if mark and mark.line < len(lines) else ""
        problem = getattr(error, "problem", None) or error
        raise ValueError(f"{place} is not valid YAML ({problem!s:.200}){quoted}") from error


def parse_value(text: str) -> Any:
    """The value of an override, as `parse` has it; raises ValueError for a comment, or if there is none."""
    value = parse(text)
    end = yaml.compose(text, _Loader)
    if end is None or (isinstance(value, Scalar) and not value.source):
        raise ValueError(" has no value; write null for none")
    if text[end.end_mark.index :].strip():
        raise ValueError(" ends in a comment, '#' and what follows; put the value in quotes of YAML")
    return value
