"""One fuzzed input: a command line and the files it reads, to run in this process or in one of its own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Placeholders in arguments and files: the folder of this case, and that of the good inputs.
BOX, GOOD = "@BOX", "@GOOD"


@dataclass(frozen=True)
class Damaged:
    """A good file with edits: ("flip", at, bits), ("cut", at), ("insert", at, bytes), ("drop", at, count)."""

    good: str
    edits: tuple[tuple[Any, ...], ...]

    def content(self, good: Path) -> bytes:
        """The damaged bytes; positions beyond the end wrap around."""
        data = bytearray((good / self.good).read_bytes())
        for kind, at, *rest in self.edits:
            at %= len(data) + 1
            if kind == "flip" and at < len(data):
                data[at] ^= rest[0]
            elif kind == "cut":
                del data[at:]
            elif kind == "insert":
                data[at:at] = rest[0]
            elif kind == "drop":
                del data[at : at + rest[0]]
        return bytes(data)


@dataclass(frozen=True)
class Made:
    """A file that `make(path, good)` writes; reports call it `name`."""

    name: str
    make: Callable[[Path, Path], object] = field(repr=False)


Content = bytes | Damaged | Made


@dataclass(frozen=True)
class Case:
    """`program`, as `python -m` names it, called with `arguments` in a box that holds `files`.

    Attributes:
        folder: the working directory, relative to the box.
    """

    program: str
    arguments: tuple[str, ...]
    files: Mapping[str, Content] = field(default_factory=dict)
    folder: str = ""

    def __str__(self) -> str:
        """One line; the middle of long texts is left out."""
        parts = [*self.arguments, *(f"{name}: {content!r}" for name, content in self.files.items())]
        return f"{self.program} " + " | ".join(
            part if len(part) < 600 else f"{part[:400]} ... {part[-100:]}" for part in parts
        )

    def lay_out(self, box: Path, good: Path) -> list[str]:
        """Write the files; returns the arguments with the placeholders filled in."""
        for name, content in self.files.items():
            path = box / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Made):
                content.make(path, good)
            elif isinstance(content, Damaged):
                path.write_bytes(content.content(good))
            else:
                path.write_bytes(_filled(content, box, good))
        return [text.replace(BOX, str(box)).replace(GOOD, str(good)) for text in self.arguments]


def _filled(content: bytes, box: Path, good: Path) -> bytes:
    return content.replace(BOX.encode(), bytes(box)).replace(GOOD.encode(), bytes(good))
