"""Options: YAML and overrides in, one validated `Options` out, or one line that names the mistake."""

import dataclasses
import math
import typing
from pathlib import Path

import pytest
import torch
import yaml

import config.__main__
from config.__main__ import reference
from misc.process.device import pick_precision
from options import (
    LOSSES,
    ExperimentOptions,
    Options,
    UserError,
    ineffective_settings,
    load_options,
    read_options,
    to_dict,
)
from tests.helpers.whole_runs import assert_mentions

CONFIG = Path("config")


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def mistake(path: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_options(path, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_config_yaml_is_what_the_dataclasses_say() -> None:
    text = (CONFIG / "config.yaml").read_text(encoding="utf-8")
    assert text == reference(), "run python -m config"
    assert yaml.safe_load(text).keys() == to_dict(Options()).keys()
    assert read_options(CONFIG / "config.yaml") == Options()


def test_the_check_of_config_yaml_names_a_file_that_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "config.yaml", reference().replace("seed: 1 ", "seed: 2 "))
    monkeypatch.setattr(config.__main__, "PATH", path)
    assert config.__main__.main(["--check"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert config.__main__.main([]) == config.__main__.main(["--check"]) == 0
    assert read_options(path) == Options()


def test_every_option_has_a_line_of_documentation() -> None:
    for kind in typing.get_type_hints(Options).values():
        assert kind.__doc__.endswith(".")
        for field in dataclasses.fields(kind):
            assert len(field.metadata["doc"]) > 10, field.name


def test_every_loss_has_a_weight_that_needs_it() -> None:
    fields = {field.name: field for field in dataclasses.fields(ExperimentOptions)}
    assert len(LOSSES) == 13
    for loss in LOSSES:
        assert type(getattr(ExperimentOptions(), loss)) is bool
        assert fields[f"{loss}_ratio"].metadata["needs"] == [loss]


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "1.0e-4", "0.0001", "+1e-4", ".1e-3", "1.e-4"])
def test_a_number_in_exponent_form_is_a_number(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "o.yaml", f"schedule:\n  lr: {text}\n")
    assert load_options(path).schedule.lr == 1e-4
    assert load_options(path, [f"schedule.lr_end={text}"]).schedule.lr_end == 1e-4


def test_an_override_beats_the_file_and_the_file_beats_its_base(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", "schedule: {epoch: 7, lr: 0.5, eps: 1.0}\n")
    path = write(tmp_path / "o.yaml", "base: base.yaml\nschedule: {lr: 0.25, eps: 0.5}\n")
    schedule = load_options(path, ["schedule.eps=0.125"]).schedule
    assert (schedule.epoch, schedule.lr, schedule.eps) == (7, 0.25, 0.125)
    assert schedule.epoch_warmup == Options().schedule.epoch_warmup


def test_the_simplified_recipe_is_nitc_and_ritc_on_one_view() -> None:
    experiment = load_options(CONFIG / "s.config.yaml").experiment
    on = [name for name in ("nitc", "ritc", "citc", "ss", "mvs_image") if getattr(experiment, name)]
    assert on == ["nitc", "ritc"]


def test_the_resolved_options_are_a_valid_config_of_the_same_meaning(tmp_path: Path) -> None:
    options = load_options(CONFIG / "s.config.yaml", ["schedule.eps=3e-9", "data.languages=[en, ch]"])
    path = write(tmp_path / "options.yaml", yaml.safe_dump(to_dict(options)))
    assert load_options(path) == options


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("schedule.lrr=1", ["schedule.lrr", "did you mean schedule.lr?"]),
        ("scheduel.lr=1", ["scheduel.lr", "did you mean schedule.lr?"]),
        ("shedule.epohc=1", ["shedule.epohc", "did you mean schedule.epoch?"]),
        ("schedule.lr=-1", ["schedule.lr", "above 0", "-1"]),
        ("schedule.lr=fast", ["schedule.lr", "a number", "'fast'"]),
        ("schedule.lr=.nan", ["schedule.lr", "a number"]),
        ("schedule.lr=.inf", ["schedule.lr", "a number"]),
        ("schedule.epoch=2.5", ["schedule.epoch", "a whole number", "2.5"]),
        ("schedule.epoch=true", ["schedule.epoch", "a whole number", "'true'"]),
        ("schedule.epoch=null", ["schedule.epoch", "a whole number", "'null'"]),
        ("experiment.ritc=1", ["experiment.ritc", "true or false"]),
        ("data.image_size=[128]", ["data.image_size", "list of 2 whole numbers"]),
        ("data.image_size=[128, 0]", ["data.image_size", "from 1 to"]),
        ("data.languages=en", ["data.languages", "list", "'en'"]),
        ("data.languages=[]", ["data.languages", "at least one"]),
        ("misc.device=tpu", ["misc.device", "cpu", "'tpu'"]),
        ("schedule=3", ["schedule", "section"]),
        ("schedule.epoch", ["schedule.epoch", "key.path=value"]),
        ("schedule.epoch=[1", ["not valid YAML"]),
        ("model.checkpoint=x", ["model.checkpoint", "model.clip_pretrained"]),
        ("anno_dir=x", ["anno_dir", "data.annotation_file"]),
        ("experiment.tse_width=1", ["experiment.tse_width", "a number from 2"]),  # its hidden layer is half
        ("experiment.grab_share=[0.5,0]", ["experiment.grab_share", "two numbers above 0, up to 1"]),
        ("experiment.grab_blocks=[4]", ["experiment.grab_blocks", "2"]),
        ("experiment.grab_test_tokens=first", ["experiment.grab_test_tokens", "rollout, last"]),
        ("experiment.grab_global_weight=0", ["experiment.grab_global_weight", "a number above 0, up to 1"]),
        ("experiment.tse_ratio=0", ["experiment.tse_ratio", "a number above 0"]),  # it acts at test time
    ],
)
def test_a_mistaken_override_is_named_with_what_was_expected(override: str, said: list[str]) -> None:
    assert_mentions(mistake(CONFIG / "config.yaml", override), *said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("schedule:\n  lr: [1\n", "line"),
        ("schedule:\n  lr: 1\n  lr: 2\n", "duplicate key 'lr'"),
        ("- 1\n- 2\n", "sections"),
        ("schedule: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
        ("schedule:\n  lrr: 1\n", "schedule.lrr"),
        ("image_dir: x\n", "data.image_root"),
        ("base: missing.yaml\n", "missing.yaml"),
        ("base: o.yaml\n", "has a cycle"),
    ],
)
def test_a_mistaken_file_is_named(tmp_path: Path, text: str, said: str) -> None:
    message = mistake(write(tmp_path / "o.yaml", text))
    assert said in message
    assert "o.yaml" in message or "missing.yaml" in message


LAUGHS = "".join(
    f"{a}: &{a} [{', '.join(['*' + b] * 9)}]\n" for b, a in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("schedule: {epoch: " + "[" * 5000, "not valid YAML"),
        ("schedule: {epoch: " + "[" * 300 + "]" * 300 + "}", "schedule.epoch: expected a whole number"),
        (f"a: &a [x, x]\n{LAUGHS}schedule: {{epoch: *i}}", "a: no such option"),
        (f"eval: {{fuse: &a [x, x], select_on: {'x' * 5000}}}\n", "eval.fuse: expected"),
        ("schedule: &s {epoch: *s}", "schedule.epoch: expected a whole number"),
        ("schedule: {betas: &b [*b, *b]}", "schedule.betas: expected"),
        ("schedule: {epoch: 2024-13-45}", "not valid YAML (month must be"),
        ("schedule: {epoch: !!int 'x'}", "not valid YAML (invalid literal"),
        ("schedule: {epoch: !!timestamp 'x'}", "not valid YAML"),
        ("schedule: {epoch: !!bool 'x'}", "not valid YAML"),
        ("schedule: {epoch: !!python/object/apply:os.getcwd []}", "not valid YAML (could not determine"),
        ("schedule: {epoch: 0x" + "f" * 5000 + "}", "schedule.epoch: expected numbers of at most 63 bits"),
        ("? 0x" + "f" * 5000 + "\n: 3\n", "f: no such option"),
        ("schedule: {lr: 1" + "0" * 400 + "}", "schedule.lr: expected numbers of at most"),
        ("misc: {seed: 9223372036854775808}", "misc.seed: expected numbers of at most"),
        ("# " + "x" * 200_000, "is not an options file"),
        ('base: "a\\0b"', "base: expected the name of an options file"),
        ('base: "\\uD800"', "base: expected the name of an options file"),
        ("base: &b [*b]", "base: expected the name of an options file"),
        ("base: o.yaml", "has a cycle"),
        ("base: $NO_SUCH/x.yaml", "base: '$NO_SUCH/x.yaml': the environment variable NO_SUCH is not set"),
        ("base: ''", "base: expected the name of an options file"),
        ('output: {dir: "a\\0b"}', "output.dir: expected a text"),
        ('output: {dir: "\\uD800"}', "output.dir: expected a text"),
        ("output: {dir: ''}", "output.dir: expected a text (not empty"),
        ("eval: {test_sets: {'': [a, b]}}", "eval.test_sets: expected"),
    ],
)
def test_a_hostile_file_is_refused_in_a_short_line(tmp_path: Path, text: str, said: str) -> None:
    line = mistake(write(tmp_path / "o.yaml", text))
    assert said in line
    assert len(line) < 2500


def test_a_chain_of_bases_ends(tmp_path: Path) -> None:
    for number in range(1200):
        write(tmp_path / f"{number}.yaml", f"base: {number + 1}.yaml\n")
    assert "chain of 'base:' files is too long" in mistake(tmp_path / "0.yaml")


def test_a_file_that_is_missing_or_no_text_is_named(tmp_path: Path) -> None:
    assert "nowhere.yaml" in mistake(tmp_path / "nowhere.yaml")
    (tmp_path / "o.yaml").write_bytes(bytes(range(256)))
    assert "o.yaml" in mistake(tmp_path / "o.yaml")


def test_no_loss_at_all_is_refused() -> None:
    off = [f"experiment.{name}=false" for name in ("nitc", "ritc", "citc", "ss")]
    assert "no loss" in mistake(CONFIG / "config.yaml", *off)


def test_options_never_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Options().schedule.lr = math.pi  # type: ignore[misc]


ALTCLIP = "model.backbone=altclip"


@pytest.mark.parametrize(
    ("overrides", "warning"),
    [
        (["experiment.ss_ratio=0.7", "experiment.ss=false"], "experiment.ss_ratio {} experiment.ss is false"),
        (["experiment.image_aug=none"], "experiment.mvs_image compares a view with itself"),
        (
            ["experiment.text_aug=none", "experiment.back_trans=false", "experiment.mvs_text=true"],
            "experiment.ss_text and experiment.mvs_text compare a caption with itself",
        ),
        (
            ["experiment.text_aug=none", "experiment.eda_alpha=0.2"],
            "experiment.eda_alpha {} experiment.text_aug is none",
        ),
        (["data.few_shot_by=identities"], "data.few_shot_by {} data.few_shot is 1"),
        (["data.language_draw=one"], "data.language_draw {} data.languages has one language"),
        ([ALTCLIP, "model.clip_pretrained=a.pt"], "model.clip_pretrained {} model.backbone is altclip"),
        ([ALTCLIP, "model.patch_size=8"], "model.patch_size {} model.backbone is altclip"),
        (["model.altclip_pretrained=a"], "model.altclip_pretrained {} model.backbone is clip"),
        (["model.tokenizer_cache_dir=a"], "model.tokenizer_cache_dir {} model.backbone is clip"),
        (["model.projection_dim=9"], "model.projection_dim {} model.backbone is clip"),
        (
            ["experiment.use_altclip_processor=true", "data.image_size=[64, 32]"],
            "experiment.use_altclip_processor {} model.backbone is clip",
        ),
        (
            [ALTCLIP, "experiment.use_altclip_processor=true", "data.image_size=[64, 32]"],
            "data.image_size {} model.backbone is altclip and experiment.use_altclip_processor is true",
        ),
        (
            [ALTCLIP, "experiment.use_altclip_processor=true", "data.normalization=clip"],
            "data.normalization {} model.backbone is altclip and experiment.use_altclip_processor is true",
        ),
        (["eval.rerank_k1=5"], "eval.rerank_k1 {} eval.rerank is false"),
        (
            ["schedule.epoch_warmup=0", "schedule.lr_start=0"],
            "schedule.lr_start {} schedule.epoch_warmup is 0",
        ),
        (
            ["schedule.ratio_factor=2"],
            "schedule.ratio_factor {} experiment.mlm is false and experiment.id is false",
        ),
    ],
)
def test_a_setting_without_effect_is_named(overrides: list[str], warning: str) -> None:
    (sentence,) = ineffective_settings(load_options(CONFIG / "config.yaml", overrides))
    assert sentence.startswith(warning.format("has no effect while"))


@pytest.mark.parametrize("path", sorted(CONFIG.glob("*.yaml")), ids=lambda path: path.name)
def test_the_recipes_have_no_setting_without_effect(path: Path) -> None:
    assert ineffective_settings(load_options(path)) == []


def test_two_captions_differ_where_each_draws_its_language() -> None:
    same_words = ["experiment.text_aug=none", "experiment.back_trans=false", "experiment.mvs_text=true"]
    for draw, number in (("one", 0), ("all", 1)):
        overrides = [*same_words, "data.languages=[en,ch]", f"data.language_draw={draw}"]
        assert len(ineffective_settings(load_options(CONFIG / "config.yaml", overrides))) == number


@pytest.mark.parametrize(("capability", "dtype"), [((7, 5), torch.float16), ((8, 0), torch.bfloat16)])
def test_auto_precision_is_bf16_where_a_gpu_has_it(
    capability: tuple[int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert pick_precision("auto", torch.device("cuda")) == dtype
    assert pick_precision("auto", torch.device("cpu")) == torch.float32
