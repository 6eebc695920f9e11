"""Who imports whom, read off the imports: the shape of the house stays as it was drawn."""

import ast
from pathlib import Path

import pytest

OURS = {"options", "config", "model", "data", "text_utils", "misc", "main"}
# Command lines see everything.
PROGRAMS = {"main.py", "data/check/__main__.py", "misc/tiny_altclip.py", "misc/quick_start_altclip.py"}
PROGRAMS |= {"misc/verify_release.py"}
PROGRAMS |= {
    str(path) for folder in ("benchmark", "export", "search") for path in Path("misc", folder).glob("*.py")
}
ALLOWED = {
    "config": {"config.checks"},
    "misc/process/distributed.py": {"misc.process.heartbeat"},
    "options.py": {"config"},
    "text_utils": {"text_utils"},
    "data": {"data", "text_utils", "options"},
    "model": {
        "model",
        "text_utils",
        "options",
        "misc.process.distributed",
        "model.weights.pickles",
        "misc.seed",
    },
    "misc": {"misc", "options"},
}
ALONE = {
    "misc/process/heartbeat.py",
    "misc/metrics.py",
    "model/weights/pickles.py",
    "misc/process/seed.py",
    "model/losses.py",
}
FILES = [
    path
    for path in sorted(Path(".").rglob("*.py"))
    if path.parts[0] in OURS | {"options.py", "main.py"} and path.name != "__init__.py"
]


def imports(path: Path) -> set[str]:
    """Dotted names that a file imports, `from misc import distributed` as misc.process.distributed."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def ours(path: Path) -> set[str]:
    return {name for name in imports(path) if name.split(".")[0] in OURS}


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_file_imports_only_what_its_place_allows(path: Path) -> None:
    if str(path) in PROGRAMS:
        return
    allowed = set() if str(path) in ALONE else ALLOWED.get(str(path), ALLOWED[path.parts[0]])
    for name in ours(path):
        assert any(name == a or name.startswith(a + ".") for a in allowed), f"{path} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=str)
def test_only_the_distributed_module_knows_of_processes(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if str(path) == "misc/process/distributed.py":
        assert "torch.distributed" in text
        return
    assert not any(name.startswith("torch.distributed") for name in imports(path))
    for variable in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        assert f'"{variable}"' not in text, f"{path} reads {variable}"


@pytest.mark.parametrize("path", [Path("main.py"), Path("options.py"), *Path("config").glob("*.py")], ids=str)
def test_the_command_line_starts_without_heavy_imports(path: Path) -> None:
    at_top = {
        name.split(".")[0]
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([a.name for a in node.names] if isinstance(node, ast.Import) else [node.module])
    }
    assert not at_top & {
        "torch",
        "torchvision",
        "transformers",
        "numpy",
        "PIL",
        "matplotlib",
        "model",
        "data",
        "misc",
    }


def test_files_stay_short_enough_to_read() -> None:
    for path in FILES:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 300, f"{path} is too long"
