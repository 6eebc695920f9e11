"""What YAML reads in another way than it was written is refused, with the source text; the rest is read."""

from pathlib import Path

import pytest

from config.command_line import parse_command_line
from config.scalars import dump
from options import UserError, load_options, to_dict
from tests.helpers.whole_runs import assert_mentions

CONFIG = Path("config/config.yaml").absolute()


def mistakes(tmp_path: Path, key: str, written: str) -> list[str]:
    """The messages of a setting in a file, and on the command line."""
    section, name = key.split(".")
    path = tmp_path / "mine.yaml"
    path.write_text(f"base: {CONFIG}\n\n{section}:\n  {name}: {written}\n", encoding="utf-8")
    messages = []
    for source, overrides in ((path, []), (CONFIG, [f"{key}={written}"])):
        with pytest.raises(UserError) as caught:
            load_options(source, overrides)
        assert "\n" not in str(caught.value)
        messages.append(str(caught.value))
    assert f"'{path}' line 4" in messages[0]
    assert f"override '{key}=" in messages[1]
    return messages


@pytest.mark.parametrize(
    ("key", "written", "said"),
    [
        ("data.languages", "[en, no]", ["'no' as false", "in quotes"]),
        ("data.languages", "[NO]", ["'NO' as false"]),
        ("data.languages", "[en, On]", ["'On' as true"]),
        ("data.languages", "[en, ~]", ["'~' as null"]),
        ("data.languages", "[en, 010]", ["'010' as the number 8"]),
        ("data.languages", "[2024-01-01]", ["'2024-01-01' as a date"]),
        ("data.languages", "[en, .5]", ["'.5' as the number 0.5"]),
        ("output.dir", "off", ["'off' as false"]),
        ("output.dir", "2024", ["'2024' as the number 2024"]),
        ("output.dir", "2024-01-01 12:00:00", ["'2024-01-01 12:00:00' as a date"]),
        ("output.dir", "1e-4", ["'1e-4' as the number 0.0001"]),
        ("output.dir", "1_000", ["'1_000' as the number 1000"]),
        ("output.dir", "12:30", ["'12:30' as the number 750"]),
        ("output.dir", "Null", ["'Null' as null"]),
        ("output.dir", "~", ["'~' as null"]),
        ("data.cache", "~", ["'~' as null"]),
        ("data.cache", "None", ["write null for none"]),
        ("data.cache", "no", ["'no' as false"]),
        ("model.clip_pretrained", "none", ["write null for none"]),
        ("schedule.patience", "None", ["write null for none"]),
        ("eval.test_sets", "{no: [a, b]}", ["'no' as false"]),
        ("eval.test_sets", "{a: [b, 1.0]}", ["'1.0' as the number 1.0"]),
        ("eval.fuse", "{a: 010}", ["'010' as the number 8"]),
        ("misc.device", "off", ["'off' as false"]),
        ("schedule.epoch", "010", ["a whole number", "'010' as the number 8"]),
        ("schedule.epoch", "-010", ["'-010' as the number -8"]),
        ("schedule.epoch", "01", ["'01' as the number 1"]),
        ("schedule.epoch", "&e 010", ["'010' as the number 8"]),
        ("schedule.epoch", "!!int 010", ["'010' as the number 8"]),
        ("data.languages", "[&a no, *a]", ["for this text write 'no' in quotes"]),
        ("model.lock_text_layers", "3", ["expected a list of whole numbers, found '3'"]),
        ("schedule.epoch", "12:30", ["'12:30' as the number 750"]),
        ("schedule.epoch", "1_5", ["'1_5' as the number 15"]),
        ("schedule.epoch", "1.0", ["a whole number, found '1.0'"]),
        ("schedule.epoch", "1e1", ["a whole number, found '1e1'"]),
        ("schedule.epoch", "'3'", ["found '3'"]),
        ("schedule.epoch", "yes", ["'yes' as true"]),
        ("schedule.epoch", "~", ["'~' as null"]),
        ("schedule.lr", "1:30.5", ["'1:30.5' as the number 90.5"]),
        ("schedule.lr", "'1e-4'", ["a number, found '1e-4'"]),
        ("schedule.lr", "1,5", ["found '1,5'"]),
        ("schedule.lr", "-.5", ["above 0, found '-.5'"]),
        ("data.languages", "en", ["expected a list of texts, found 'en'"]),
        ("schedule.lr", "1e-4x", ["found '1e-4x'"]),
        ("schedule.betas", "[0,9, 0,98]", ["list of 2 numbers"]),
        ("data.image_size", "[0384, 128]", ["list of 2 whole numbers or null, found ['0384', '128']"]),
        ("log.checkpoint_period", "10:00", ["'10:00' as the number 600"]),
        ("log.checkpoint_period", "010", ["'010' as the number 8"]),
        ("experiment.ritc", "y", ["true or false, found 'y'"]),
        ("experiment.ritc", "0", ["true or false, found '0'"]),
        ("output.dir", "%x", ["not valid YAML", "%x"]),
        ("output.dir", "@x", ["not valid YAML", "@x"]),
        ("output.dir", "2024-13-45", ["not valid YAML (month must be", "2024-13-45"]),
    ],
)
def test_what_yaml_reads_as_something_else_is_refused_with_the_source_text(
    key: str, written: str, said: list[str], tmp_path: Path
) -> None:
    for message in mistakes(tmp_path, key, written):
        assert_mentions(message, *said)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *((f"schedule.lr={text}", 1e-4) for text in ("1e-4", "1E-4", "0.0001", "1.0e-4", "+1e-4", ".1e-3")),
        *((f"schedule.lr={text}", 0.5) for text in (".5", "0.5", "0.50", "5e-1", "+.5")),
        ("schedule.lr=1", 1.0),
        *((f"schedule.epoch={text}", 16) for text in ("16", "+16", "0x10", " 16 ")),
        ("schedule.epoch=1_000", 1000),
        *((f"experiment.ritc={text}", False) for text in ("false", "False", "no", "off")),
        *((f"experiment.mlm={text}", True) for text in ("true", "TRUE", "yes", "on")),
        *((f"data.cache={text}", None) for text in ("null", "Null")),
        *((f"data.languages={text}", ("en", "no")) for text in ("[en, 'no']", '["en","no"]', "- en\n- 'no'")),
        ("output.dir='2024'", "2024"),
        ("output.dir=runs/2024-01-01", "runs/2024-01-01"),
        ("output.dir=a:b", "a:b"),
        ("output.dir=a#b", "a#b"),
        ("output.dir=1.2.3", "1.2.3"),
        ("output.dir='a #b'", "a #b"),
        ("log.checkpoint_period=10 minutes", "10 minutes"),
        ("log.checkpoint_period=10", 10),
        ("schedule.patience=~", None),
    ],
)
def test_what_yaml_reads_as_it_is_written_stays(setting: str, value: object) -> None:
    section, name = setting.partition("=")[0].split(".")
    found = getattr(getattr(load_options(CONFIG, [setting]), section), name)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.cache=", "no value"),
        ("data.cache=  ", "no value"),
        ("data.cache=#x", "no value"),
        ("data.cache=&x", "'&x' as null"),
        ("output.dir=runs/a #1", "comment"),
        ("data.languages=[en] # English", "comment"),
    ],
)
def test_an_override_without_a_value_or_with_a_comment_is_refused(override: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        load_options(CONFIG, [override])
    assert_mentions(str(caught.value), f"override '{override}'", said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("schedule: {lr: 1}\nschedule.lr: 2\n", "duplicate key 'schedule.lr'"),
        ("schedule: {lr: 1, 'lr': 2}\n", "duplicate key 'lr'"),
        ("schedule: {lr: 1}\ndata: {}\nschedule: {}\n", "duplicate key 'schedule'"),
        ("eval: {test_sets: {a: [b, c], a: [d, e]}}\n", "duplicate key 'a'"),
        ("output:\n  dir: 'a\n", "mine.yaml' line"),
        ("schedule:\n\tlr: 1\n", "mine.yaml' line 2 is not valid YAML"),
        ("schedule:\n  no: 1\n", "schedule.no: no such option"),
        (
            "base: no\n",
            "base: expected the name of an options file, found 'no', and YAML reads 'no' as false",
        ),
        ("lr:1e-4\n", "expected sections"),
        ("schedule: lr:1e-4\n", "schedule: expected a section of options, found 'lr:1e-4'"),
    ],
)
def test_a_file_that_says_another_thing_than_it_seems_to_is_refused(
    text: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_options(tmp_path / "mine.yaml")
    assert_mentions(str(caught.value), said, "mine.yaml")


def test_merged_keys_give_way_to_those_of_the_mapping(tmp_path: Path) -> None:
    text = "schedule: &s {<<: {lr: 1, epoch: 7}, lr: 2}\nmisc: {seed: 3}\n"
    (tmp_path / "mine.yaml").write_text(text)
    schedule = load_options(tmp_path / "mine.yaml").schedule
    assert (schedule.lr, schedule.epoch) == (2, 7)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data.batch_size=4"], "use data.batch_size=4"),
        (["--data.batch_size", "4"], "use data.batch_size=4"),
        (["-data.batch_size=4"], "use data.batch_size=4"),
        (["--data.languages=[en, ch]"], "use data.languages=[en, ch]"),
        (["--schedule.lr"], "use schedule.lr=VALUE"),
        (["--batch-size=4"], "use data.batch_size=4"),
        (["--batch_size", "4"], "use data.batch_size=4"),
        (["--lr", "1e-4"], "use schedule.lr=1e-4"),
    ],
)
def test_an_option_with_dashes_says_that_they_go(arguments: list[str], said: str) -> None:
    with pytest.raises(UserError, match="without dashes") as caught:
        parse_command_line(arguments)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "no",
            "On",
            "None",
            "null",
            "010",
            "12:30",
            "1_000",
            "1e-4",
            "2024",
            "2024-01-01",
            ".5",
            "-.5",
            "0x10",
        ),
        *(
            "a #b",
            "%x",
            "@x",
            "'x'",
            "a: b",
            "- a",
            "红色",
            "a " * 100 + "b",
            "~x"[1:],
            "*x",
            "&x",
            "!x",
            "<<",
        ),
    ],
)
def test_what_is_written_to_options_yaml_is_read_as_it_was(text: str, tmp_path: Path) -> None:
    options = load_options({"output": {"dir": text}, "data": {"cache": text, "languages": [text]}})
    (tmp_path / "options.yaml").write_text(dump(to_dict(options)), encoding="utf-8")
    assert load_options(tmp_path / "options.yaml") == options


def test_a_base_of_null_is_none(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("base: null\nschedule: {epoch: 7}\n")
    assert load_options(tmp_path / "mine.yaml").schedule.epoch == 7
