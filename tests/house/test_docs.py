"""The documents say what is true: their commands parse; the options, files, flags and names in them exist."""

import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import yaml

from data.annotations import MAX_BAD_PERCENT, read_splits
from data.check.__main__ import build_parser as check_parser
from data.shards.__main__ import build_parser as shards_parser
from data.synthetic.__main__ import build_parser as synthetic_parser
from data.types import FORMATS
from main import parse_command_line
from misc.benchmark.__main__ import build_parser as benchmark_parser
from misc.benchmark.memory import build_parser as memory_parser
from misc.benchmark.parts import PARTS, select_parts
from misc.benchmark.reading import build_parser as reading_parser
from misc.checkpoints import read as checkpoint
from misc.checkpoints import saver
from misc.checkpoints.lock import LOCK
from misc.checkpoints.run_folder import BAD_IMAGES, RUN_FILES
from misc.detection.__main__ import build_parser as detection_parser
from misc.export.__main__ import build_parser as export_parser
from misc.process import heartbeat
from misc.process.signals import RESUME_ME
from misc.quick_start import build_parser as quick_start_parser
from misc.quick_start_altclip import build_parser as altclip_parser
from misc.search.__main__ import COMMANDS
from misc.search.__main__ import parse as parse_search
from misc.search.benchmark import build_parser as search_benchmark_parser
from misc.search.benchmark_people import build_parser as people_benchmark_parser
from misc.search.storage.store import SKIPPED
from misc.study.__main__ import build_parser as study_parser
from options import IMAGE_AUGMENTATIONS, LOSSES, TEXT_AUGMENTATIONS, load_options
from tests.helpers.documents import (
    ADDRESS,
    DOCUMENTS,
    FENCE,
    OPTIONS,
    ROOMS,
    SECTIONS,
    TEXTS,
    blocks,
    calls,
    code,
    exists_in_code,
    names_in,
    rows,
    spans,
)

PROGRAMS: dict[str, Callable[[Sequence[str]], object]] = {
    "main.py": parse_command_line,
    "data.check": lambda words: check_parser().parse_args(words),
    "data.shards": lambda words: shards_parser().parse_args(words),
    "data.synthetic": lambda words: synthetic_parser().parse_args(words),
    "misc.benchmark": lambda words: benchmark_parser().parse_args(words),
    "misc.benchmark.memory": lambda words: memory_parser().parse_args(words),
    "misc.benchmark.reading": lambda words: reading_parser().parse_args(words),
    "misc.detection": lambda words: detection_parser().parse_args(words),
    "misc.export": lambda words: export_parser().parse_intermixed_args(words),
    "misc.search": parse_search,
    "misc.search.benchmark_people": lambda words: people_benchmark_parser().parse_args(words),
    "misc.search.benchmark": lambda words: search_benchmark_parser().parse_args(words),
    "misc.study": lambda words: study_parser().parse_args(words),
    "misc/quick_start.py": lambda words: quick_start_parser().parse_intermixed_args(words),
    "misc/quick_start_altclip.py": lambda words: altclip_parser().parse_args(words),
}
WITHOUT_ARGUMENTS = {"config"}
MADE = {*RUN_FILES, LOCK, checkpoint.LAST, checkpoint.BEST, SKIPPED, "tensorboard/", "findings.txt"}
MADE |= {"shards.json", "train-en.arrow"}  # by data.shards
MADE |= {"runs.jsonl", "study.csv", "study.tex", "runs.png", "noise.png"}  # by misc.study
MADE_BY_USERS = re.compile(
    r"^(datasets|runs|weights|exports|VIDEO)/|^VIDEO\.txt$|^/|^\.venv|^config/mine\.yaml$|_reid|reid_raw"
)
METHOD, RUNNING, PERFORMANCE = (TEXTS[f"docs/{name}.md"] for name in ("method", "running", "performance"))
OPTION = re.compile(rf"(?<![\w/.,-])((?:{'|'.join(SECTIONS)})\.[a-z]\w*)(?![\w.]*\()")
DOTTED = re.compile(rf"((?:{'|'.join(ROOMS)})(?:\.\w+)*\.(?!py\b|yaml\b|\d)\w+)(?:\(.*\))?")
FLAGS_OF_OTHERS = re.compile(
    r"--(local_addr|local-rank|rdzv_conf|signals-to-handle|max-restarts|signal|requeue|gpus-per-\w+|read-only|tmpfs|rm)"
)
EXTENDING = TEXTS["docs/extending.md"]
ADDED_FILES = set(re.findall(r"^\+\+\+ b/(\S+)$", EXTENDING, re.MULTILINE))  # test_extending.py applies them
ADDED_OPTIONS = {
    f"experiment.{name}" for name in re.findall(r"^\+    (\w+): (?:bool|float) = ", EXTENDING, re.M)
}
ADDED = re.compile("|".join(map(re.escape, [*ADDED_OPTIONS, "config/convgru.yaml"])))
document = pytest.mark.parametrize("name", DOCUMENTS)


@document
def test_every_command_is_understood(name: str) -> None:
    for program, words in calls(TEXTS[name]):
        if program in WITHOUT_ARGUMENTS:
            assert not words
            assert exists_in_code(f"{program}.__main__")
        elif not ADDED.search(" ".join(words)):
            words = [re.sub(r"^(runs|config/mine).*yaml$", "config/demo.yaml", word) for word in words]
            words = ["64" if word == "N" else word for word in words]
            PROGRAMS[program](words)


@document
def test_every_make_target_named_exists(name: str) -> None:
    targets = set(re.findall(r"^([\w-]+):", Path("Makefile").read_text(), re.MULTILINE))
    named = {found[1] for line in code(TEXTS[name]) if (found := re.match(r"make ([\w-]+)", line))}
    assert named <= targets


@document
def test_every_option_named_exists(name: str) -> None:
    named = {key for line in code(TEXTS[name]) for key in OPTION.findall(line)} - {"experiment.NAME_ratio"}
    assert not {
        key for key in named - OPTIONS - ADDED_OPTIONS if key not in RUN_FILES and not exists_in_code(key)
    }


@document
def test_every_file_named_exists(name: str) -> None:
    text = ADDRESS.sub("", TEXTS[name])
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", text)
    folder = Path(name).parent
    assert not [link for link in links if not (folder / link).exists()]
    pattern = re.compile(r"[\w.-]+(?:/[\w.-]+)*\.(?:py|yaml|md|txt|png|gz|toml|jsonl)\b|^[\w/.-]+/$")
    named = {path for line in code(text) for path in pattern.findall(line)} - MADE - ADDED_FILES
    for path in sorted(path for path in named if not MADE_BY_USERS.search(path)):
        assert Path(path).exists() or (folder / path).exists(), path


@document
def test_every_place_in_the_code_exists(name: str) -> None:
    for span in spans(TEXTS[name]):
        if found := re.fullmatch(r"([\w/]+\.py): ([\w.]+)", span):
            assert found[2] in names_in(Path(found[1])), span
        elif (found := DOTTED.fullmatch(span)) and found[1] not in {*OPTIONS, *RUN_FILES}:
            assert exists_in_code(found[1]), span


@document
def test_every_flag_named_exists(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_command_line(["--help"])
    for command in COMMANDS:
        with pytest.raises(SystemExit):
            parse_search([command, "--help"])
    helps = [check_parser(), benchmark_parser(), export_parser(), search_benchmark_parser(), altclip_parser()]
    helps += [shards_parser(), synthetic_parser(), study_parser(), detection_parser()]
    helps += [people_benchmark_parser()]
    known = capsys.readouterr().out + "".join(parser.format_help() for parser in helps)
    inline = {flag for span in spans(TEXTS[name]) for flag in re.findall(r"^--[a-z][\w-]*", span)}
    assert not {flag for flag in inline if flag not in known and not FLAGS_OF_OTHERS.fullmatch(flag)}


@document
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_every_script_is_bash(name: str) -> None:
    for script in blocks(TEXTS[name], "bash"):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


@document
def test_every_yaml_file_shown_loads(name: str, tmp_path: Path) -> None:
    for text in blocks(TEXTS[name], "yaml"):
        path = tmp_path / "mine.yaml"
        path.write_text(text.replace("base: ", f"base: {Path('config').resolve()}/"), encoding="utf-8")
        settings = yaml.safe_load(text)
        options = load_options(path)
        for section, values in settings.items():
            for key, value in values.items() if isinstance(values, dict) else ():
                found = getattr(getattr(options, section), key)
                assert (list(found) if isinstance(found, tuple) else found) == (
                    float(value) if isinstance(found, float) else value
                )


@document
def test_no_figure_is_missing(name: str) -> None:
    assert "@@" not in FENCE.sub("", TEXTS[name])


def test_the_python_shown_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (text,) = blocks(TEXTS["docs/python.md"], "python")
    exec(compile(text, "docs/python.md", "exec"), {})
    assert "'mINP'" in capsys.readouterr().out


def test_the_annotations_shown_are_read(tmp_path: Path) -> None:
    records = []
    for text in blocks(TEXTS["docs/data.md"], "json"):
        (tmp_path / "train_reid.json").write_text(text, encoding="utf-8")
        records += read_splits(tmp_path, ["train"])["train"]["en"]
    assert len(records[0].captions) == len(records[0].back_translations) == 2
    assert [[len(group) for group in groups] for groups in records[1].rewrites] == [[2, 2], []]
    table = next(block for block in blocks(TEXTS["docs/data.md"], "text") if block.startswith("image,"))
    assert all(f"`{name}`" in TEXTS["docs/data.md"] for name in FORMATS)
    (tmp_path / "mine.csv").write_text(table, encoding="utf-8")
    assert len(read_splits(tmp_path / "mine.csv", ["train"], languages=None)["train"]) == 2


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_has_a_row(loss: str) -> None:
    assert re.search(rf"^\| `experiment\.{loss}` \|", METHOD, re.MULTILINE)


def test_every_option_of_the_method_is_explained() -> None:
    named = {key for span in spans(METHOD) for key in OPTION.findall(span)}
    ratios = {f"experiment.{loss}_ratio" for loss in LOSSES}  # explained once for all
    tricks = {"model.use_gather", "model.softlabel_ratio", "schedule.ratio_factor", "data.few_shot"}
    explained = {key for key in OPTIONS if key.startswith(("experiment.", "model.lock_"))} - ratios | tricks
    assert explained <= named
    augmentations = {f"experiment.text_aug={name}" for name in TEXT_AUGMENTATIONS}
    assert augmentations <= set(spans(METHOD))
    for name in IMAGE_AUGMENTATIONS:
        assert {name, f"experiment.image_aug={name}"} & set(spans(METHOD))


def test_running_gives_the_numbers_and_names_of_the_code() -> None:
    assert f"| {RESUME_ME} | stopped by a signal" in RUNNING
    assert f"$status -eq {RESUME_ME} ]" in RUNNING
    assert f"after {heartbeat.PATIENCE:.0f} s." in RUNNING
    assert f"more than {MAX_BAD_PERCENT} % of the training images" in TEXTS["docs/data.md"]
    assert f"waits {saver.LAST_TRIES * saver.PAUSE / 60:.0f} minutes for" in RUNNING
    (message,) = re.findall(r"; (resume with .*)$", RUNNING, re.MULTILINE)
    assert message in Path("misc/training/engine.py").read_text(encoding="utf-8")
    for name in (*RUN_FILES, checkpoint.LAST, checkpoint.BEST, checkpoint.OLDER.format("N"), BAD_IMAGES):
        assert f"`{name}`" in RUNNING


def test_the_parts_of_the_benchmark_that_are_named_exist() -> None:
    found = re.findall(r"--only ([\w.,]+)", PERFORMANCE)
    assert len(found) == 4
    for names in found:
        assert select_parts(names)
    assert set(re.findall(r"`step\.\w+`", PERFORMANCE)) <= {f"`{part}`" for part in PARTS}


def test_the_tests_read_what_they_should() -> None:
    assert sum(len(calls(text)) for text in TEXTS.values()) > 70
    assert {program for text in TEXTS.values() for program, _ in calls(text)} == {*PROGRAMS, "config"}
    assert len({key for text in TEXTS.values() for line in code(text) for key in OPTION.findall(line)}) > 70
    assert sum(len(rows(text)) for text in TEXTS.values()) > 100
