"""Hostile values (texts, numbers, JSON, YAML, bytes), and the ways in which good content is damaged."""

import copy
import json
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from tests.fuzz.cases import Damaged

NASTY = (
    *("", " ", "\t\n", ".", "!!!", "\0", "a\0b", "\ud800", "x\udcff", "\ufeff", "\u202eabc", "\u200b"),
    *("A" * 300, "x" * 5000, "a/" * 2000, "../" * 8 + "etc/passwd", "/etc/passwd", "~", "~root", "C:\\x"),
    *("&amp;&lt;&#0;&#x110000;", "<|endoftext|>", "$\\frac{1}{", "%s%n", "{0.__class__}", "true", "null"),
    *("=", "-", "--help", "\x1b[31mred", "\x7f\x80", "é" * 80, "a\u0301" * 50, "’s", "'", '"'),
    "!!python/none x",
    *("1e999", "nan", "-inf", "0x10", "1_000", "12:30:45", "2024-13-45", "@", "#", "*", "&a"),
    *("🧥👖", "مرحبا", "红色的外套"),
)
NUMBERS = (0, -1, 1, 2, 3, 7, 255, 2**31, 2**32, 2**63 - 1, 2**63, -(2**63), 2**64, 10**30, 10**400)
FLOATS = (0.0, -0.0, 0.5, 1e-300, 1e300, 1.8e308, float("inf"), float("-inf"), float("nan"))


def texts() -> SearchStrategy[str]:
    """Any Unicode, with unpaired surrogates and control characters, and strings known to cause trouble."""
    return st.one_of(
        st.sampled_from(NASTY), st.text(max_size=60), st.text(st.characters(codec=None), max_size=20)
    )


def numbers() -> SearchStrategy[int | float]:
    """Small, huge, negative and non-finite numbers."""
    return st.one_of(
        st.sampled_from(NUMBERS), st.sampled_from(FLOATS), st.integers(-9, 99), st.floats(width=32)
    )


def scalars() -> SearchStrategy[Any]:
    """None, booleans, numbers, texts."""
    return st.one_of(st.none(), st.booleans(), numbers(), texts())


def trees(keys: SearchStrategy[str] | None = None) -> SearchStrategy[Any]:
    """Lists and objects of scalars, some of them deep."""
    keys = texts() if keys is None else keys
    return st.recursive(
        scalars(),
        lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(keys, inner, max_size=4)),
        max_leaves=8,
    )


@st.composite
def mutated(draw: DrawFn, good: Any, values: SearchStrategy[Any] | None = None) -> Any:
    """A deep copy of lists and dictionaries with one to four places set, dropped, duplicated or renamed."""
    root = [copy.deepcopy(good)]
    for _ in range(draw(st.sampled_from((1, 1, 2, 4)))):
        holder, key = _place(draw, root)
        kind = draw(st.sampled_from(("set", "set", "drop", "duplicate", "rename", "swap")))
        if kind == "set" or holder is root:
            holder[key] = draw(trees() if values is None else values)
        elif kind == "drop":
            del holder[key]
        elif kind == "duplicate" and isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
        elif isinstance(holder, dict):
            value = holder.pop(key) if kind == "rename" else holder[key]
            holder[draw(st.one_of(texts(), st.sampled_from([str(k) for k in holder] or ["a"])))] = value
    return root[0]


def _place(draw: DrawFn, root: list[Any]) -> tuple[Any, Any]:
    holder, key = root, 0
    for _ in range(draw(st.sampled_from((0, 1, 2, 2, 3, 3, 3, 5)))):
        inner = holder[key]
        if not isinstance(inner, list | dict) or not inner:
            break
        keys = list(inner) if isinstance(inner, dict) else range(len(inner))
        holder, key = inner, draw(st.sampled_from(keys))
    return holder, key


@st.composite
def json_bytes(draw: DrawFn, value: SearchStrategy[Any]) -> bytes:
    """A value as JSON: plain, or deep, with long numbers or duplicate keys, or in another encoding."""
    text = json.dumps(draw(value), ensure_ascii=draw(st.booleans()))
    kinds = ("deep", "deep", "long number", "duplicate key", "tail", "utf-16", "bom")
    kind = draw(st.sampled_from(("plain",) * 8 + kinds))
    if kind == "deep":
        depth = draw(st.sampled_from((50, 900, 5000, 200_000)))
        opening, closing = draw(st.sampled_from((("[", "]"), ('{"a":', "}"))))
        text = opening * depth + draw(st.sampled_from((text, "1", ""))) + closing * depth
        text = draw(st.sampled_from((text, f"[{text}]")))
    elif kind == "long number":
        text = text.replace("1", "1" * draw(st.sampled_from((30, 4290, 5000))), 1)
    elif kind == "duplicate key":
        text = text.replace("{", '{"id": 1, "id": "x", ', 1)
    elif kind == "tail":
        text += draw(texts())
    coding = {"utf-16": "utf-16", "bom": "utf-8-sig"}.get(kind, "utf-8")
    return text.encode(coding, "surrogatepass")


@st.composite
def damaged_bytes(draw: DrawFn, content: SearchStrategy[bytes]) -> bytes:
    """Mostly unchanged; else with bytes changed, removed or inserted, or truncated."""
    data = bytearray(draw(content))
    for _ in range(draw(st.sampled_from((0, 0, 0, 1, 3)))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        kind = draw(st.sampled_from(("flip", "cut", "insert", "drop", "overwrite")))
        if kind == "flip" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del data[at:]
        elif kind == "insert":
            data[at:at] = draw(
                st.one_of(st.binary(max_size=9), st.sampled_from((b"\0", b"\xff\xfe", b"\xed\xa0\x80")))
            )
        elif kind == "drop":
            del data[at : at + draw(st.integers(1, 40))]
        elif data:
            data[at] = draw(st.integers(0, 255))
    return bytes(data)


@st.composite
def damaged_file(draw: DrawFn, good: str, size: int, places: tuple[int, ...] = ()) -> Damaged:
    """One to eight edits of a good file: near its beginning, its end, one of `places`, or anywhere."""
    near = [st.integers(0, min(4000, size)), st.integers(max(0, size - 4000), size), st.integers(0, size)]
    near += [st.integers(place, min(size, place + 3000)) for place in places]
    edits = []
    for _ in range(draw(st.sampled_from((1, 1, 1, 2, 8)))):
        at = draw(st.one_of(near))
        kind = draw(st.sampled_from(("flip", "flip", "flip", "cut", "insert", "drop")))
        if kind == "flip":
            edits.append((kind, at, draw(st.integers(1, 255))))
        elif kind == "cut":
            edits.append((kind, at))
        elif kind == "insert":
            edits.append((kind, at, draw(st.binary(min_size=1, max_size=20))))
        else:
            edits.append((kind, at, draw(st.integers(1, 5000))))
    return Damaged(good, tuple(edits))
