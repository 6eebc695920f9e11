"""Paths in options and flags: `~`, `~user` and variables, wherever a path is written."""

import argparse
import dataclasses
import json
import os
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

import data.check.__main__
import data.shards.__main__
import data.synthetic.__main__
import misc.benchmark.__main__
import misc.detection.__main__
import misc.export.__main__
import misc.quick_start_altclip
import misc.search.__main__
import misc.search.benchmark
import misc.search.benchmark_people
import misc.study.__main__
import misc.tiny_altclip
import misc.verify_release
from config.command_line import build_parser, parse_command_line
from config.paths import FilePath, expand
from misc.cli import Parser, path_text
from options import Options, UserError, load_options, to_dict

CONFIG = Path("config/config.yaml")
# Texts that are no paths and have no list of choices.
NO_PATHS = {
    "model.open_clip_name",
    "model.backbone",
    "data.dataset",
    "data.shards",
    "data.languages",
    "log.checkpoint_period",
}
PARSERS: dict[str, Callable[[], Parser]] = {
    "main": lambda: build_parser(""),
    "data.check": data.check.__main__.build_parser,
    "data.shards": data.shards.__main__.build_parser,
    "data.synthetic": data.synthetic.__main__.build_parser,
    "misc.benchmark": misc.benchmark.__main__.build_parser,
    "misc.detection": misc.detection.__main__.build_parser,
    "misc.export": misc.export.__main__.build_parser,
    "misc.quick_start_altclip": misc.quick_start_altclip.build_parser,
    "misc.search.benchmark_people": misc.search.benchmark_people.build_parser,
    "misc.search.benchmark": misc.search.benchmark.build_parser,
    "misc.study": misc.study.__main__.build_parser,
    "misc.tiny_altclip": misc.tiny_altclip.build_parser,
    "misc.verify_release": misc.verify_release.build_parser,
}
# Flags that take a text and no path.
WORDS = {
    "local_rank",
    "recipes",
    "sets",
    "variant",
    "only",
    "device",
    "text",
    "sentences",
    "without",
    "dataset",
    "languages",
    "overrides",
    "precision",
    *(
        "exclude",
        "also",
        "folder",
        "pattern",
        "since",
        "until",
        "hours",
        "min_size",
        "max_size",
        "host",
        "allow_host",
    ),
}


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SCRATCH", "/scratch")
    monkeypatch.delenv("NO_SUCH", raising=False)


def options_of_the_schema() -> Iterator[tuple[str, object, dataclasses.Field[object]]]:
    """(section.name, type, field) of every option."""
    for section, kind in typing.get_type_hints(Options).items():
        hints = typing.get_type_hints(kind)
        for field in dataclasses.fields(kind):
            yield f"{section}.{field.name}", hints[field.name], field


def holds(hint: object, kind: object) -> bool:
    return hint is kind or any(holds(part, kind) for part in typing.get_args(hint))


def filled(hint: object, path: str) -> object:
    """A value of this type with `path` in the place of each path."""
    if hint is FilePath:
        return path
    if typing.get_origin(hint) is Mapping:
        key, value = typing.get_args(hint)
        return {filled(key, path): filled(value, path)}
    if typing.get_origin(hint) is tuple:
        return [filled(part, path) for part in typing.get_args(hint)]
    if typing.get_args(hint):  # or null
        return path
    return {str: "mine", float: 0.5}[hint]


PATH_OPTIONS = {key: hint for key, hint, _ in options_of_the_schema() if holds(hint, FilePath)}


def value_of(options: Options, key: str) -> object:
    section, name = key.split(".")
    return json.loads(json.dumps(to_dict(options)[section][name]))


def test_every_free_text_among_the_options_is_a_path_or_known_not_to_be_one() -> None:
    free = {
        key
        for key, hint, field in options_of_the_schema()
        if holds(hint, str)
        and not holds(hint, FilePath)
        and not (field.metadata["check"] and field.metadata["check"].choices)
    }
    assert free == NO_PATHS
    assert {"output.dir", "data.cache", "eval.test_sets", "eval.fuse"} < PATH_OPTIONS.keys()


@pytest.mark.parametrize("key", PATH_OPTIONS)
def test_every_path_among_the_options_is_expanded(key: str, tmp_path: Path) -> None:
    for written, expected in (("~/a b", f"{tmp_path}/a b"), ("${SCRATCH}/$SCRATCH", "/scratch//scratch")):
        given, wanted = (filled(PATH_OPTIONS[key], path) for path in (written, expected))
        assert value_of(load_options(CONFIG, [f"{key}={json.dumps(given)}"]), key) == wanted
        section, name = key.split(".")
        file = tmp_path / "mine.yaml"
        file.write_text(json.dumps({"base": str(CONFIG.absolute()), section: {name: given}}))
        assert value_of(load_options("~/mine.yaml"), key) == wanted
        assert value_of(load_options({section: {name: given}}), key) == wanted


@pytest.mark.parametrize("key", PATH_OPTIONS)
@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("~nobody-of-this-name/x", "user '~nobody-of-this-name' does not exist"),
        ("$NO_SUCH/x", "the environment variable NO_SUCH is not set"),
        ("runs/$(date)", "only $NAME and ${NAME} are expanded"),
        ("${HOME:-/x}/y", "only $NAME and ${NAME} are expanded"),
        ("C:\temp", "control character"),
    ],
)
def test_a_path_that_cannot_be_expanded_makes_no_folder_of_its_name(key: str, path: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        load_options(CONFIG, [f"{key}={json.dumps(filled(PATH_OPTIONS[key], path))}"])
    assert str(caught.value).startswith(key)
    assert said in str(caught.value)


def test_names_that_are_the_same_path_are_an_error() -> None:
    with pytest.raises(UserError, match=r"eval.fuse: .*two are the same path"):
        load_options(CONFIG, ["eval.fuse={~/x: 1, $HOME/x: 2}"])


def test_other_texts_stay_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for text in ("BAAI/AltCLIP", "a/~/b", "x~", "./~", "a$", "$5", "$$", "100%/@x"):
        assert expand(text) == text
    (tmp_path / "a$NO_SUCH").touch()
    assert expand("a$NO_SUCH") == "a$NO_SUCH"


def test_a_user_is_the_one_of_that_name() -> None:
    root = os.path.expanduser("~root")
    assert load_options(CONFIG, ["output.dir=~root/x"]).output.dir == f"{root}/x"


def test_the_resolved_options_mean_the_same_in_another_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = load_options(CONFIG, ["output.dir=~/runs", "data.cache=$SCRATCH/cache"])
    monkeypatch.setenv("HOME", "/home/another")
    monkeypatch.delenv("SCRATCH")
    assert load_options(to_dict(options)) == options
    assert options.output.dir == f"{tmp_path}/runs"


def test_a_base_may_be_in_the_home_folder(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("schedule: {epoch: 7}")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "mine.yaml").write_text("base: ~/base.yaml")
    assert load_options(tmp_path / "sub" / "mine.yaml").schedule.epoch == 7


def test_the_flags_of_main_expand_paths(tmp_path: Path) -> None:
    names = ("resume", "save-rankings", "save-features")
    arguments = [*(f"--{name}=~/x" for name in names), "--output-dir=~/x"]
    flags, options = parse_command_line(arguments)
    assert {flags.resume, flags.save_rankings, flags.save_features, options.output.dir} == {f"{tmp_path}/x"}
    assert parse_command_line(["--evaluate", "~/x"])[0].evaluate == f"{tmp_path}/x"
    assert parse_command_line(["--resume"])[0].resume == "auto"


def parsers() -> Iterator[tuple[str, Parser]]:
    yield from ((name, build()) for name, build in PARSERS.items())
    for command, (add_flags, _) in misc.search.__main__.COMMANDS.items():
        parser = Parser()
        add_flags(parser)
        yield f"misc.search {command}", parser


@pytest.mark.parametrize(("name", "parser"), [pytest.param(*pair, id=pair[0]) for pair in parsers()])
def test_every_path_among_the_flags_of_the_programs_is_expanded(
    name: str, parser: Parser, tmp_path: Path
) -> None:
    for action in parser._actions:
        takes_text = action.nargs != 0 and not action.choices and action.type not in (int, float)
        if takes_text and action.dest not in WORDS:
            assert str(parser._get_value(action, "~/x")) == f"{tmp_path}/x", f"{name}: {action.dest}"
            for text in ("", "~nobody-of-this-name", "x" * 300):
                with pytest.raises(argparse.ArgumentError):
                    parser._get_values(action, [text])


def test_a_model_id_is_no_path() -> None:
    assert path_text("BAAI/AltCLIP") == "BAAI/AltCLIP"
