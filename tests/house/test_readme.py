"""The two READMEs are short and say the same; what they say of the demo is what the demo does."""

import re
import shlex
from pathlib import Path

import pytest

from data.synthetic.__main__ import build_parser
from main import parse_command_line
from options import UserError
from tests.helpers.documents import ADDRESS, READMES, TEXTS, blocks, numbers, prose, rows, spans

ENGLISH, CHINESE = (TEXTS[name] for name in READMES)
MAX_LINES = 230
both = pytest.mark.parametrize("name", READMES)


@both
def test_it_is_short_and_has_its_sections(name: str) -> None:
    assert len(TEXTS[name].splitlines()) <= MAX_LINES
    assert len(re.findall(r"^## ", TEXTS[name], re.MULTILINE)) == 10
    assert len(re.findall(r"^make (?:demo|test)$", TEXTS[name], re.MULTILINE)) == 2


@both
def test_every_document_is_linked(name: str) -> None:
    assert {f"docs/{path.name}" for path in Path("docs").glob("*.md")} <= set(
        re.findall(r"\]\(([^)]+)\)", TEXTS[name])
    )


@both
def test_every_file_of_the_code_map_exists(name: str) -> None:
    room, found = Path(), 0
    for line in code_map(TEXTS[name]).splitlines():
        if not line.startswith(" ") and "/" in line.split()[0]:
            room = Path(line.split("/")[0])
        for path in re.findall(r"(?:[\w-]+/)*\w+\.py\b|\b\w+/(?= |$)", line):
            assert Path(path).exists() or any(room.rglob(path.rstrip("/"))), line
            found += 1
    assert found > 40


@both
def test_the_error_shown_is_the_one_of_the_code(name: str) -> None:
    error = next(block for block in blocks(TEXTS[name], "text") if block.startswith("error: "))
    with pytest.raises(UserError) as caught:
        parse_command_line([re.search(r"override '(.*?)'", error)[1]])
    assert error == f"error: {caught.value}"


@both
def test_the_size_of_the_demo_is_that_of_the_makefile(name: str) -> None:
    command = next(line for line in Path("Makefile").read_text().splitlines() if "-m data.synthetic" in line)
    demo = build_parser().parse_args(shlex.split(command.split("data.synthetic", 1)[1].replace("$", "")))
    images = demo.test_identities * demo.images_per_identity
    chance = f"{100 * demo.images_per_identity / images:.2f}"
    named = set(numbers(prose(TEXTS[name])))
    assert {str(demo.identities), str(demo.test_identities), str(images), chance} <= named


def sections(text: str) -> list[str]:
    """The parts below each heading, the head of the file first."""
    return re.split(r"^##+ ", text, flags=re.MULTILINE)


def code_map(text: str) -> str:
    return next(block for block in blocks(text, "text") if block.startswith("main.py"))


def test_both_languages_show_the_same_commands_and_the_same_files() -> None:
    english, chinese = (
        [block for block in blocks(text) if block != code_map(text)] for text in (ENGLISH, CHINESE)
    )
    assert english == chinese
    files = [re.findall(r"[\w/]+\.py|[\w/]+/", code_map(text)) for text in (ENGLISH, CHINESE)]
    assert files[0] == files[1]


def test_both_languages_name_the_same_things_numbers_and_links_in_each_part() -> None:
    for english, chinese in zip(sections(ENGLISH), sections(CHINESE), strict=True):
        assert set(spans(english)) == set(spans(chinese)), english[:40]
        assert set(numbers(prose(english))) == set(numbers(prose(chinese))), english[:40]
        assert ADDRESS.findall(english) == ADDRESS.findall(chinese), english[:40]


def test_both_languages_have_the_same_numbers_in_their_tables() -> None:
    for row, other in zip(rows(ENGLISH), rows(CHINESE), strict=True):
        assert [numbers(cell) for cell in row] == [numbers(cell) for cell in other]
