"""docs/method.md covers the options of the method; what it and docs/running.md name exists, as they say."""

import ast
import dataclasses
import re
import shlex
import shutil
import subprocess
import typing
from pathlib import Path

import pytest

from data.annotations import MAX_BAD_PERCENT
from main import parse_command_line
from misc.benchmark.parts import PARTS, chosen
from misc.checkpoints import read as checkpoint
from misc.checkpoints import saver
from misc.checkpoints.run_folder import BAD_IMAGES
from misc.process import heartbeat
from misc.process.signals import RESUME_ME
from options import IMAGE_AUGMENTATIONS, LOSSES, TEXT_AUGMENTATIONS, Options

TEXT = Path("docs/method.md").read_text(encoding="utf-8")
RUNNING = Path("docs/running.md").read_text(encoding="utf-8")
PERFORMANCE = Path("docs/performance.md").read_text(encoding="utf-8")
SCRIPTS = re.findall(r"^```bash\n(.*?)^```$", RUNNING, re.MULTILINE | re.DOTALL)
SPANS = re.findall(r"`([^`\n]+)`", TEXT)
KEYS = {
    f"{s}.{f.name}" for s, kind in typing.get_type_hints(Options).items() for f in dataclasses.fields(kind)
}
PLACES = sorted({span for span in SPANS if re.match(r"[\w/]+\.py: ", span)})


def defined_in(path: Path) -> set[str]:
    """Functions, classes, their methods ("Class.method") and constants of a file."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{item.name}" for item in node.body if isinstance(item, ast.FunctionDef)}
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_has_a_row(loss: str) -> None:
    assert re.search(rf"^\| `experiment\.{loss}` \|", TEXT, re.MULTILINE)


def test_every_option_of_the_method_is_explained() -> None:
    ratios = {f"experiment.{loss}_ratio" for loss in LOSSES}  # said once for all
    missing = {key for key in KEYS if key.startswith("experiment.")} - ratios - set(keys_named())
    assert not missing
    tricks = {"model.use_gather", "model.softlabel_ratio", "schedule.ratio_factor", "data.few_shot"}
    assert tricks | {key for key in KEYS if key.startswith("model.lock_")} <= set(keys_named())


def keys_named() -> list[str]:
    sections = "|".join(typing.get_type_hints(Options))
    return [match[1] for span in SPANS if (match := re.match(rf"((?:{sections})\.\w+)(?:=\w+)?$", span))]


def test_every_option_named_exists() -> None:
    named = set(keys_named()) - {"experiment.NAME_ratio"}
    assert len(named) > 35
    assert named <= KEYS


@pytest.mark.parametrize("name", IMAGE_AUGMENTATIONS)
def test_every_image_augmentation_is_explained(name: str) -> None:
    assert {name, f"experiment.image_aug={name}"} & set(SPANS)


@pytest.mark.parametrize("name", TEXT_AUGMENTATIONS)
def test_every_text_augmentation_is_explained(name: str) -> None:
    assert f"experiment.text_aug={name}" in SPANS


@pytest.mark.parametrize("place", PLACES)
def test_every_place_in_the_code_exists(place: str) -> None:
    file, name = place.split(": ")
    assert name in defined_in(Path(file))


def test_its_commands_are_understood() -> None:
    commands = re.findall(r"^python main\.py (.+)$", TEXT, re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        flags, options = parse_command_line(command.split())
        assert flags.simplified
        assert not options.experiment.nitc


@pytest.mark.parametrize("text", [RUNNING, PERFORMANCE], ids=["running", "performance"])
def test_every_option_named_exists_there_too(text: str) -> None:
    sections = "|".join(typing.get_type_hints(Options))
    named = set(re.findall(rf"(?<![\w/.,-])((?:{sections})\.[a-z]\w*)", text))
    named -= {"data.check", "misc.benchmark"}  # programs
    assert len(named) > 5
    assert named <= KEYS


def test_the_benchmarks_parts_and_files_that_are_named_exist() -> None:
    found = re.findall(r"--only ([\w.,]+)", PERFORMANCE)
    assert len(found) == 3
    for names in found:
        assert chosen(names)
    assert set(re.findall(r"`step\.\w+`", PERFORMANCE)) <= {f"`{part}`" for part in PARTS}
    for file in re.findall(r"`((?:misc|model|data|tests)/[\w/]+\.py)`", PERFORMANCE):
        assert Path(file).exists()


def test_every_command_for_running_is_understood() -> None:
    found = re.findall(r"main\.py\b(.*?)(?: &|')?$", "\n".join(SCRIPTS), re.MULTILINE)
    assert len(found) == 9
    for words in found:
        flags, _ = parse_command_line(shlex.split(words))
        assert flags.resume == ("auto" if "--resume" in words else None)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_for_running_is_bash(script: str) -> None:
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_running_says_the_numbers_and_names_of_the_code() -> None:
    assert f"| {RESUME_ME} | stopped by a signal" in RUNNING
    assert f"$status -eq {RESUME_ME} ]" in RUNNING
    assert f"after {heartbeat.PATIENCE:.0f} s." in RUNNING
    assert f"more than {MAX_BAD_PERCENT} % of the training images" in RUNNING
    assert f"waits {saver.LAST_TRIES * saver.PAUSE / 60:.0f} minutes for room" in RUNNING
    for name in (checkpoint.LAST, checkpoint.BEST, checkpoint.OLDER.format("N"), BAD_IMAGES):
        assert f"`{name}`" in RUNNING
