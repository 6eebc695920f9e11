"""The READMEs say what is true: what they name exists, what they show runs, and the two say the same."""

import dataclasses
import json
import re
import shlex
import typing
from pathlib import Path

import pytest
import yaml

from data.annotations import read_splits
from data.check.__main__ import build_parser as check_parser
from data.synthetic.__main__ import build_parser
from main import Parser, parse_command_line
from misc.checkpoints.read import BEST, LAST
from misc.checkpoints.run_folder import RUN_FILES
from misc.export.__main__ import build_parser as export_parser
from misc.search.__main__ import COMMANDS
from misc.search.__main__ import parse as parse_search
from misc.search.update import SKIPPED
from options import Options, UserError, load_options

FILES = ("README.md", "README.zh-CN.md")
TEXTS = {name: Path(name).read_text(encoding="utf-8") for name in FILES}
SECTIONS = typing.get_type_hints(Options)
OPTIONS = {f"{s}.{f.name}": f.default for s, kind in SECTIONS.items() for f in dataclasses.fields(kind)}
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROGRAMS = {
    "misc.benchmark",
    "data.synthetic",
    "data.check",
    "misc.export",
    "misc.search",
    "misc.verify_release",
}
USERS = re.compile(r"^(datasets|runs|weights)/|^\.venv|^config/mine\.yaml$")  # made by users, not in git
both = pytest.mark.parametrize("name", FILES)


def blocks(text: str, *kinds: str) -> list[str]:
    """The fenced blocks, of these kinds alone where any are named, without comments and blank lines."""
    found = [body for kind, body in FENCE.findall(text) if not kinds or kind in kinds]
    bare = [[re.sub(r"\s*(^|\s)#.*$", "", line) for line in body.splitlines()] for body in found]
    return ["\n".join(line for line in lines if line) for lines in bare]


def prose(text: str) -> str:
    """The text outside of fenced blocks, without the addresses of the web."""
    return re.sub(r"https?://[^\s)]+", "", FENCE.sub("", text))


def spans(text: str) -> list[str]:
    """What stands between backticks in prose."""
    return re.findall(r"`([^`\n]+)`", prose(text))


def named_code(text: str) -> list[str]:
    """What stands between backticks in prose, and the commands."""
    return spans(text) + "\n".join(blocks(text, "bash")).splitlines()


def sections(text: str) -> list[str]:
    """The parts below each heading of the second level, the head of the file first."""
    return re.split(r"^## ", text, flags=re.MULTILINE)


def tables(text: str) -> list[list[str]]:
    """The rows of all tables, split into cells."""
    lines = [line for line in text.splitlines() if line.startswith("|") and not line.startswith("|-")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def numbers(text: str) -> list[str]:
    return re.findall(r"\d+(?:\.\d+)*", re.sub(r"https?://[^\s)]+", "", text))


def main_commands(text: str) -> list[list[str]]:
    """The arguments that follow `main.py` in each command."""
    words = [shlex.split(line) for line in "\n".join(blocks(text, "bash")).splitlines()]
    return [line[line.index("main.py") + 1 :] for line in words if "main.py" in line]


@both
def test_every_option_named_exists(name: str) -> None:
    pattern = re.compile(rf"(?<![\w/.-])({'|'.join(SECTIONS)})\.([a-z]\w*)")
    named = {".".join(key) for line in named_code(TEXTS[name]) for key in pattern.findall(line)}
    named -= {*PROGRAMS, *RUN_FILES}
    assert len(named) > 20
    assert named <= OPTIONS.keys()


@both
def test_the_table_of_options_gives_their_defaults(name: str) -> None:
    rows = [row for row in tables(TEXTS[name]) if row[0].strip("`") in OPTIONS]
    assert len(rows) > 15
    for key, default, *_ in rows:
        value = OPTIONS[key.strip("`")]
        assert yaml.safe_load(default) == (list(value) if isinstance(value, tuple) else value), key


@both
def test_every_file_named_is_in_the_repository(name: str) -> None:
    text = TEXTS[name]
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("http")]
    pattern = re.compile(r"[\w.-]+(?:/[\w.-]+)*\.(?:py|yaml|md|txt|png|gz|toml|jsonl)\b|^[\w/.-]+/$")
    named = {path for line in named_code(re.sub(r"https?://\S+", "", text)) for path in pattern.findall(line)}
    made = {*RUN_FILES, LAST, BEST, SKIPPED, "tensorboard/"}
    paths = {path for path in {*links, *named} if not USERS.match(path)} - made
    assert len(paths) > 20
    assert not [path for path in sorted(paths) if not Path(path).exists()]


@both
def test_every_flag_named_exists(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_command_line(["--help"])
    searching = Parser(conflict_handler="resolve")
    for add_flags, _ in COMMANDS.values():
        add_flags(searching)
    helps = capsys.readouterr().out + build_parser().format_help() + searching.format_help()
    flags = set(re.findall(r"--[a-z][\w-]*", helps))
    inline = [flag for span in spans(TEXTS[name]) for flag in re.findall(r"^--[a-z][\w-]*", span)]
    in_commands = [word for line in main_commands(TEXTS[name]) for word in line if word.startswith("--")]
    assert {"--evaluate", "--resume", "--simplified", "--config", "--output-dir"} <= {*inline, *in_commands}
    assert {*inline, *in_commands} <= flags


@both
def test_every_command_of_main_is_understood(name: str) -> None:
    commands = main_commands(TEXTS[name])
    assert len(commands) > 8
    for words in commands:
        parse_command_line(
            [re.sub(r"^(runs|config/mine).*yaml$", "config/demo.yaml", word) for word in words]
        )


@both
def test_every_command_of_the_other_programs_is_understood(name: str) -> None:
    understand = {
        "data.check": check_parser().parse_args,
        "misc.export": export_parser().parse_intermixed_args,
        "misc.search": parse_search,
    }
    lines = [shlex.split(line) for line in "\n".join(blocks(TEXTS[name], "bash")).splitlines()]
    commands = [line[2:] for line in lines if line[:2] == ["python", "-m"]]
    assert {program for program, *_ in commands} == understand.keys()
    for program, *words in commands:
        understand[program](words)


@both
def test_every_make_target_named_exists(name: str) -> None:
    targets = set(re.findall(r"^([\w-]+):", Path("Makefile").read_text(), re.MULTILINE))
    named = {found[1] for line in named_code(TEXTS[name]) if (found := re.match(r"make ([\w-]+)", line))}
    assert {"demo", "test"} <= named <= targets


@both
def test_the_size_of_the_demo_is_that_of_the_makefile(name: str) -> None:
    command = next(line for line in Path("Makefile").read_text().splitlines() if "-m data.synthetic" in line)
    demo = build_parser().parse_args(shlex.split(command.split("data.synthetic", 1)[1].replace("$", "")))
    images = demo.test_identities * demo.images_per_identity
    said = set(numbers(prose(TEXTS[name])))
    chance = f"{100 * demo.images_per_identity / images:.2f}"
    assert {str(demo.identities), str(demo.test_identities), str(images), chance} <= said


@both
def test_the_python_of_the_readme_runs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = blocks(TEXTS[name], "python")
    exec(compile(code, name, "exec"), {})
    assert "'mINP'" in capsys.readouterr().out


@both
def test_the_config_of_the_readme_loads(name: str, tmp_path: Path) -> None:
    (text,) = blocks(TEXTS[name], "yaml")
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace("base: ", f"base: {Path('config').resolve()}/"), encoding="utf-8")
    assert load_options(path).data.image_size == (384, 128)


@both
def test_the_record_of_the_readme_is_read(name: str, tmp_path: Path) -> None:
    (text,) = blocks(TEXTS[name], "json")
    (tmp_path / "train_reid.json").write_text(text, encoding="utf-8")
    (record,) = read_splits(tmp_path, ["train"])["train"]["en"]
    assert len(record.captions) == len(record.back_translations) == 2
    assert record.person_id == json.loads(text)[0]["id"]


@both
def test_the_error_of_the_readme_is_what_is_said(name: str) -> None:
    error = next(block for block in blocks(TEXTS[name], "text") if block.startswith("error: "))
    with pytest.raises(UserError) as caught:
        parse_command_line([re.search(r"override '(.*?)'", error)[1]])
    assert error == f"error: {caught.value}"


def test_both_languages_show_the_same_code() -> None:
    english, chinese = (blocks(TEXTS[name]) for name in FILES)
    assert english == chinese


def test_both_languages_name_the_same_things_with_the_same_numbers_and_links_in_each_part() -> None:
    for english, chinese in zip(*(sections(TEXTS[name]) for name in FILES), strict=True):
        assert set(spans(english)) == set(spans(chinese)), english[:40]
        assert set(numbers(prose(english))) == set(numbers(prose(chinese))), english[:40]
        links = [re.findall(r"https?://[^\s)]+", part) for part in (english, chinese)]
        assert links[0] == links[1], english[:40]


def test_both_languages_have_the_same_numbers_in_their_tables() -> None:
    english, chinese = (tables(TEXTS[name]) for name in FILES)
    for row, other in zip(english, chinese, strict=True):
        assert [numbers(cell) for cell in row] == [numbers(cell) for cell in other]
        assert spans(" ".join(row)) == spans(" ".join(other))


@both
def test_no_figure_is_left_to_be_filled_in(name: str) -> None:
    assert "@@" not in TEXTS[name]
