"""The imports of every file, local ones and those under `TYPE_CHECKING` included: floors, circles, weight."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

# The lowest floor first. A module stands on the floor of the longest name here that it begins with, and it
# imports from its own floor and from lower ones.
FLOORS = [
    names.split()
    for names in (
        "config options text_utils data.types model.protocol model.losses misc.metrics misc.process misc.cli",
        "data model",
        "misc.checkpoints misc.evaluation misc.detection",
        "misc.training",
        "misc.report",
        "misc.search misc.export misc.benchmark misc.study misc.quick_start misc.quick_start_altclip "
        "misc.tiny_altclip misc.detection.__main__ data.check.__main__ data.synthetic.__main__",
        "main misc.verify_release",
    )
]
FLOOR_OF = {name: number for number, names in enumerate(FLOORS) for name in names}
# Modules that parse JSON, YAML, MATLAB files, pickles and command lines: their input has no type before
# they check it.
PARSERS = (
    *("config", "options", "misc.cli", "data.records", "data.readers.table", "data.readers.json_files"),
    *("misc.study.plan", "data.readers.mat_files"),
    *("model.weights.pickles", "model.weights.stand_ins", "model.weights.pretrained", "model.weights.shapes"),
)
MAX_ANY = 5
HEAVY = {
    "torch",
    "sklearn",
    "torchvision",
    "transformers",
    "numpy",
    "PIL",
    "matplotlib",
    "tqdm",
    "safetensors",
}


def module_name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


ROOMS = ("config", "text_utils", "data", "model", "misc")
PATHS = [Path("main.py"), Path("options.py"), *(path for room in ROOMS for path in Path(room).rglob("*.py"))]
MODULES = {module_name(path): path for path in sorted(PATHS)}


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported_names(tree: ast.AST) -> Iterator[str]:
    """Dotted names, `from misc.process import logs` as misc.process.logs."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_module(name: str) -> str | None:
    """The module of the product that a dotted name is, or is in."""
    while name not in MODULES and "." in name:
        name = name.rpartition(".")[0]
    return name if name in MODULES else None


@cache
def own_imports(module: str) -> frozenset[str]:
    found = {own_module(name) for name in imported_names(parse(MODULES[module]))}
    return frozenset(name for name in found if name)


def floor(module: str) -> int:
    name = module
    while name not in FLOOR_OF:
        name, dot, _ = name.rpartition(".")
        assert dot, f"{MODULES[module]} stands on no floor: add it to FLOORS"
    return FLOOR_OF[name]


def is_in(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


@pytest.mark.parametrize("module", sorted(MODULES.keys() - {"misc"}))
def test_a_file_imports_only_from_its_own_floor_and_lower_ones(module: str) -> None:
    upward = {name for name in own_imports(module) if floor(name) > floor(module)}
    assert not upward, f"{MODULES[module]} imports from above: {', '.join(sorted(upward))}"


def test_data_and_model_do_not_import_each_other() -> None:
    for module in MODULES:
        for one, other in (("data", "model"), ("model", "data")):
            if is_in(module, one) and floor(module) <= FLOOR_OF[one]:
                wrong = {n for n in own_imports(module) if is_in(n, other) and floor(n) == FLOOR_OF[other]}
                assert not wrong, f"{MODULES[module]} imports {', '.join(sorted(wrong))}"


def test_no_import_leads_back_to_its_file() -> None:
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"a circle: {' -> '.join((*path[path.index(module) :], module))}"
        if module not in done:
            for name in sorted(own_imports(module)):
                visit(name, (*path, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


def test_nothing_imports_main_but_the_check_of_releases_which_runs_it() -> None:
    for module in MODULES:
        if "main" in own_imports(module):
            assert module == "misc.verify_release", f"{MODULES[module]} imports main; import misc.cli"
            assert "main" not in imports_at_start(module), f"{MODULES[module]}: import main where it is run"


def test_one_module_knows_torch_distributed_and_one_the_variables_of_a_launch() -> None:
    variables = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    for module, path in MODULES.items():
        names = [name for name in imported_names(parse(path)) if is_in(name, "torch.distributed")]
        assert not names or module == "misc.process.distributed", f"{path} imports {', '.join(names)}"
        for variable in variables if module != "misc.process.launch" else ():
            assert f'"{variable}"' not in path.read_text(encoding="utf-8"), f"{path} reads {variable}"


def imports_at_start(module: str) -> set[str]:
    """The modules and packages that importing a module loads, directly or by the product's own modules."""
    found = set()
    for node in parse(MODULES[module]).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            for name in imported_names(node):
                own = own_module(name)
                found |= {own} | imports_at_start(own) if own else {name.partition(".")[0]}
    return found


@pytest.mark.parametrize("module", ["main", "options", "misc.cli"])
def test_the_command_lines_start_without_heavy_imports(module: str) -> None:
    heavy = HEAVY & imports_at_start(module)
    assert not heavy, f"{MODULES[module]} imports {', '.join(sorted(heavy))}"


def test_files_and_folders_stay_small_enough_to_read() -> None:
    for path in PATHS:
        lines = len(path.read_text(encoding="utf-8").splitlines())
        assert lines <= 300, f"{path} has {lines} lines; at most 300"
    for folder in {path.parent for path in [*PATHS, *Path("tests").rglob("*.py")]}:
        number = len([path for path in folder.glob("*.py") if path.name != "__init__.py"])
        assert number <= 15, f"{folder} has {number} modules; at most 15"


def count_any(annotation: ast.expr | None) -> int:
    """How often `Any` stands in an annotation, but for mappings of names: objects of JSON, saved states."""
    if annotation is None or ast.unparse(annotation) in ("dict[str, Any]", "Mapping[str, Any]"):
        return 0
    own = isinstance(annotation, ast.Name) and annotation.id == "Any"
    children = (node for node in ast.iter_child_nodes(annotation) if isinstance(node, ast.expr))
    return own + sum(map(count_any, children))


def signatures() -> Iterator[tuple[str, str, list[ast.arg], ast.expr | None]]:
    """(module, where, parameters, return type) of every function."""
    for module, path in MODULES.items():
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.FunctionDef):
                a = node.args
                given = [*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg]
                parameters = [p for p in given if p and p.arg not in ("self", "cls")]
                yield module, f"{path}:{node.lineno} {node.name}", parameters, node.returns


def test_every_signature_is_typed() -> None:
    for _, where, parameters, returns in signatures():
        untyped = [p.arg for p in parameters if p.annotation is None]
        assert not untyped, f"{where}: no type of {', '.join(untyped)}"
        assert returns is not None, f"{where}: no return type"


def test_any_stands_in_few_signatures_but_those_of_parsers() -> None:
    found = []
    for module, where, parameters, returns in signatures():
        if not is_in(module, *PARSERS):
            found += [where] * sum(map(count_any, [*(p.annotation for p in parameters), returns]))
    assert len(found) <= MAX_ANY, "\n".join([f"{len(found)} times Any; at most {MAX_ANY}:", *found])


def test_no_test_module_imports_another() -> None:
    found = [
        f"{path} imports {name}; what tests share is in tests/helpers"
        for path in Path("tests").rglob("*.py")
        for name in imported_names(parse(path))
        if name.startswith("tests.") and ".test_" in name
    ]
    assert not found, "\n".join(found)
