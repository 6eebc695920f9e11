"""`data.preparation`: what four options are where they are null, in layers of files and overrides."""

from pathlib import Path

import pytest

from config.data import DataOptions, differences, prepared
from config.scalars import dump
from options import Options, UserError, ineffective_settings, load_options, read_options, to_dict

CONFIG = Path("config/config.yaml")
OF_TBPS_CLIP = ("tbps-clip", "tbps-clip", "bicubic", "imagenet", (224, 224))
OF_IRRA = ("irra", "none", "bilinear", "clip", (384, 128))


def values(options: Options) -> tuple[object, ...]:
    data = options.data
    return (data.preparation, data.cleaning, data.interpolation, data.normalization, data.image_size)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], OF_TBPS_CLIP),
        (["data.preparation=auto"], OF_TBPS_CLIP),
        (["data.preparation=irra"], OF_IRRA),
        (["data.preparation=irra", "data.cleaning=tbps-clip"], (OF_IRRA[0], "tbps-clip", *OF_IRRA[2:])),
        (["data.image_size=[64, 32]", "data.preparation=irra"], (*OF_IRRA[:4], (64, 32))),
        (["data.image_size=null", "data.cleaning=none"], ("tbps-clip", "none", *OF_TBPS_CLIP[2:])),
    ],
)
def test_a_preparation_stands_for_four_options_and_each_may_be_set(
    overrides: list[str], expected: tuple[object, ...]
) -> None:
    assert values(load_options(CONFIG, overrides)) == expected


def test_resolved_options_are_read_back_as_they_are_and_count_as_no_setting(tmp_path: Path) -> None:
    altclip = ["model.backbone=altclip", "experiment.use_altclip_processor=true"]
    options = load_options(CONFIG, ["data.preparation=irra", *altclip])
    assert ineffective_settings(options) == []
    written = write(tmp_path / "options.yaml", dump(to_dict(options)))
    assert load_options(written) == load_options(to_dict(options)) == read_options(written) == options


def test_a_preparation_replaces_what_the_files_below_it_say(tmp_path: Path) -> None:
    """Over a run's options.yaml, which sets all four, it would have no effect otherwise."""
    run = write(tmp_path / "options.yaml", dump(to_dict(load_options(CONFIG, ["data.image_size=[64, 32]"]))))
    assert values(load_options(run, ["data.preparation=irra"])) == OF_IRRA
    over = write(tmp_path / "over.yaml", "base: options.yaml\ndata: {preparation: irra, image_size: [96,32]}")
    assert values(load_options(over)) == (*OF_IRRA[:4], (96, 32))
    assert values(load_options(run, overlay=over)) == (*OF_IRRA[:4], (96, 32))
    assert values(load_options(over, ["data.preparation=auto"])) == OF_TBPS_CLIP


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "data.preparation=clip",
            "data.preparation: expected one of auto, tbps-clip, irra, native, found 'clip'",
        ),
        ("data.preparation=null", "data.preparation: expected a text"),
        (
            "data.cleaning=all",
            "data.cleaning: expected one of tbps-clip, none, ",
        ),
        ("data.interpolation=nearest", "data.interpolation: expected one of bicubic, bilinear, found"),
        ("data.interpolation=none", "found 'none'; write null for none"),
        ("data.normalization=zero", "data.normalization: expected one of imagenet, clip, half, none, found"),
    ],
)
def test_an_unknown_name_is_refused_with_those_there_are(override: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        load_options(CONFIG, [override])
    assert said in str(caught.value)


def test_what_weights_were_trained_on_takes_the_place_of_auto_and_null() -> None:
    trained = prepared(DataOptions(preparation="irra", image_size=(192, 64)))
    assert prepared(DataOptions(), trained) == trained
    assert prepared(DataOptions(preparation="irra"), trained) == trained
    assert prepared(DataOptions(preparation="tbps-clip"), trained) == prepared(DataOptions())
    set_by_hand = prepared(DataOptions(cleaning="tbps-clip", image_size=(384, 128)), trained)
    assert (set_by_hand.preparation, set_by_hand.interpolation) == ("irra", "bilinear")
    assert differences(set_by_hand, trained) == (
        "data.cleaning=none, data.image_size=[192,64]",
        "data.cleaning=tbps-clip, data.image_size=[384,128]",
    )
    assert differences(trained, trained) == ("", "")
