"""The recipes of docs/extending.md: each diff applies, is small, and trains, evaluates and resumes."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from model.families import FAMILIES
from tests.helpers.tiny_config import write_tiny

PRODUCT = ("main.py", "options.py", "config", "data", "misc", "model", "text_utils")
TEXT = Path("docs/extending.md").read_text(encoding="utf-8")
PARTS = re.split(r"^## (.+)\n", TEXT, flags=re.MULTILINE)[1:]
ALL_DIFFS = {
    title: re.search(r"^```diff\n(.*?)^```$", part, re.MULTILINE | re.DOTALL)[1]
    for title, part in zip(PARTS[::2], PARTS[1::2], strict=True)
}
FAMILY = "A family of transformers models"  # what its diff adds is in the code
DIFFS = {title: diff for title, diff in ALL_DIFFS.items() if title != FAMILY}
REFERENCE = "config/config.yaml"  # written by `python -m config`
FILES = {
    "A loss with a head": {"model/objectives.py", "config/experiment.py", REFERENCE},
    "A data set format": {"data/readers/coco.py", "data/types.py"},
    "A backbone": {"model/convgru.py", "model/__init__.py", "config/convgru.yaml"},
    "A method with its own embedding": {
        *("model/objectives.py", "model/heads.py", "config/experiment.py", REFERENCE),
    },
}
OVERRIDES = {
    "A loss with a head": ["experiment.matching=true"],
    "A data set format": [],
    "A backbone": ["model.backbone=convgru", "model.embed_dim=32"],
    "A method with its own embedding": ["experiment.selection=true"],
}
RUN = """
import os, shutil, sys
from pathlib import Path
from config.__main__ import main as write_reference
from main import main
from misc.report import reporter

for name in ("draw_rankings", "draw_curves"):
    setattr(reporter, name, lambda *_: None)
os.fsync = lambda _: None
out, *run = sys.argv[1:]
assert write_reference([]) == 0
assert main([*run, "schedule.epoch=1"]) == 0
shutil.copy(f"{out}/results.json", f"{out}/trained.json")
assert main(["--config", f"{out}/options.yaml", "--evaluate", f"{out}/checkpoint_best.pth"]) == 0
assert main([*run, "--resume", "auto"]) == 0
"""
needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


def changed_copy(diff: str, folder: Path, *flags: str) -> Path:
    """A copy of the product with a diff."""
    for name in PRODUCT:
        if Path(name).is_dir():
            shutil.copytree(name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            folder.mkdir(exist_ok=True)
            shutil.copy(name, folder)
    environment = os.environ | {"GIT_CEILING_DIRECTORIES": str(folder.parent)}
    command = ["git", "apply", "--whitespace=nowarn", *flags, "-"]
    subprocess.run(command, input=diff, text=True, cwd=folder, env=environment, check=True)
    return folder


def changed_files(folder: Path) -> set[str]:
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return {
        name
        for name in names
        if "__pycache__" not in name
        and not (Path(name).exists() and Path(name).read_bytes() == (folder / name).read_bytes())
    }


def write_coco(people: Path, file: Path) -> str:
    """The English annotations of `people` in the format of the recipe."""
    images, annotations = [], []
    for split in ("train", "val", "test"):
        for item in json.loads((people / f"{split}_reid_en.json").read_text(encoding="utf-8")):
            number = len(images)
            image = {"id": number, "file_name": item["file_path"], "person_id": item["id"], "split": split}
            images.append(image)
            annotations += [{"image_id": number, "caption": caption} for caption in item["captions"]]
    file.write_text(json.dumps({"images": images, "annotations": annotations}), encoding="utf-8")
    return f"data.annotation_file={file}"


@needs_git
def test_a_family_is_a_file_an_entry_and_a_configuration(tmp_path: Path) -> None:
    folder = changed_copy(ALL_DIFFS[FAMILY], tmp_path / "code", "--reverse")
    name, config = "model/families/chinese_clip.py", "config/chinese-clip.yaml"
    assert changed_files(folder) == {"model/families/__init__.py"}
    assert not any((folder / file).exists() for file in (name, config))
    show = "from model.families import FAMILIES; print(*FAMILIES)"
    environment = os.environ | {"PYTHONPATH": str(folder)}
    command = [sys.executable, "-c", show]
    left = subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True)
    assert left.stdout.split() == [name for name in FAMILIES if name != "chinese_clip"]


def test_the_page_has_the_recipes() -> None:
    assert ALL_DIFFS.keys() == FILES.keys() | {FAMILY}


@needs_git
@pytest.mark.parametrize("recipe", FILES)
def test_a_recipe_changes_these_files_alone(recipe: str, tmp_path: Path) -> None:
    changed = changed_files(changed_copy(DIFFS[recipe], tmp_path / "code"))
    assert changed == FILES[recipe] - {REFERENCE}
    limits = {"A loss with a head": 3, "A data set format": 2, "A backbone": 3}
    assert len(FILES[recipe]) <= limits.get(recipe, 4)


@needs_git
@pytest.mark.parametrize(
    "recipe",
    [pytest.param(name, marks=() if "embedding" in name else pytest.mark.slow) for name in FILES],
)
def test_a_recipe_trains_evaluates_and_resumes(recipe: str, people: Path, tmp_path: Path) -> None:
    folder, out = changed_copy(DIFFS[recipe], tmp_path / "code"), tmp_path / "run"
    config = write_tiny(tmp_path / "tiny.yaml", people, out)
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace(str(Path("config").resolve()), str(folder / "config")), encoding="utf-8")
    overrides = list(OVERRIDES[recipe])
    if recipe == "A data set format":
        overrides.append(write_coco(people, tmp_path / "captions.json"))
    command = [sys.executable, "-c", RUN, str(out), "--config", str(config), *overrides]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr[-2000:]
    assert changed_files(folder) == FILES[recipe]
    trained, evaluated = (
        json.loads((out / name).read_text())["languages"]
        for name in ("trained.json", "evaluation/results.json")
    )
    assert trained == evaluated
    steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert max(line.get("epoch", 0) for line in steps) == 2
    for option in OVERRIDES[recipe]:
        if found := re.fullmatch(r"experiment\.(\w+)=true", option):
            assert any(f'"{found[1]}"' in json.dumps(line) for line in steps)
