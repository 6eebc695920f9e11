"""What the documents say, taken apart: fenced blocks, spans of code, commands, tables."""

import ast
import dataclasses
import functools
import re
import shlex
import typing
from pathlib import Path

from options import Options

READMES = ("README.md", "README.zh-CN.md")
DOCUMENTS = (*READMES, "text_utils/README.md", *sorted(map(str, Path("docs").glob("*.md"))))
TEXTS = {name: Path(name).read_text(encoding="utf-8") for name in DOCUMENTS}
SECTIONS = typing.get_type_hints(Options)
OPTIONS = {f"{s}.{f.name}" for s, kind in SECTIONS.items() for f in dataclasses.fields(kind)}
ROOMS = ("config", "data", "misc", "model", "options", "text_utils", "tests")
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ADDRESS = re.compile(r"https?://[^\s)]+")


def blocks(text: str, *kinds: str) -> list[str]:
    """The fenced blocks of these kinds (none: of all), without comments and blank lines."""
    found = [body for kind, body in FENCE.findall(text) if not kinds or kind in kinds]
    bare = [[re.sub(r"\s*(^|\s)#.*$", "", line) for line in body.splitlines()] for body in found]
    return ["\n".join(line for line in lines if line) for lines in bare]


def prose(text: str) -> str:
    """The text outside of fenced blocks, without web addresses."""
    return ADDRESS.sub("", FENCE.sub("", text))


def spans(text: str) -> list[str]:
    """Inline code."""
    return re.findall(r"`([^`\n]+)`", prose(text))


def commands(text: str) -> list[str]:
    """The lines of the shell blocks, and inline commands."""
    inline = [span for span in spans(text) if re.match(r"(python|make|torchrun) ", span)]
    return inline + "\n".join(blocks(text, "bash")).splitlines()


def code(text: str) -> list[str]:
    """Inline code and the lines of the shell blocks."""
    return spans(text) + "\n".join(blocks(text, "bash")).splitlines()


def calls(text: str) -> list[tuple[str, list[str]]]:
    """(program, its arguments) of each command that starts a program here: "main.py", "misc.search"."""
    found = []
    for line in commands(text):
        words = shlex.split(re.sub(r"^srun bash -c '(.*)'$", r"\1", line.rstrip("&")))
        for before, program, *_ in zip(words, words[1:], [*words[2:], ""], strict=False):
            if (before == "-m" and program != "venv") or program.endswith(".py"):
                found.append((program, words[words.index(program) + 1 :]))
                break
    return found


def rows(text: str) -> list[list[str]]:
    """The cells of the rows of all tables."""
    lines = [line for line in text.splitlines() if line.startswith("|") and not line.startswith("|-")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def numbers(text: str) -> list[str]:
    """The numbers in a text, web addresses left out."""
    return re.findall(r"\d+(?:\.\d+)*", ADDRESS.sub("", text))


@functools.cache
def names_in(file: Path) -> frozenset[str]:
    """Functions, classes, their members ("Class.member"), constants and imported names of a file."""
    names = set()

    def collect(body: list[ast.stmt], prefix: str = "") -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(prefix + node.name)
            if isinstance(node, ast.ClassDef):
                collect(node.body, f"{node.name}.")
            if isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names.update(prefix + target.id for target in targets if isinstance(target, ast.Name))
            if isinstance(node, ast.ImportFrom):
                names.update(alias.asname or alias.name for alias in node.names)

    collect(ast.parse(file.read_text(encoding="utf-8")).body)
    return frozenset(names)


def exists_in_code(dotted: str) -> bool:
    """Whether "misc.metrics.retrieval_metrics" is a module, a package, or a name in one."""
    words = dotted.split(".")
    for cut in range(len(words), 0, -1):
        path = Path(*words[:cut])
        file = path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__init__.py"
        if path.is_dir() or file.exists():
            name = ".".join(words[cut:])
            return not name or (file.exists() and name in names_in(file))
    return False
