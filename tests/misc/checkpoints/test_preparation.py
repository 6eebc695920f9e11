"""The preparation that weights were trained with: recorded, read off a layout, and followed by every use."""

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from data.datasets import evaluation_set
from data.types import Record
from main import main
from misc.checkpoints.run_options import (
    check_start,
    check_trained_with,
    features_depend_on,
    options_for,
    preparation_of,
    prepared_for,
)
from misc.evaluation.features import file_digest
from misc.search.encoder import identity_of, load_encoder
from model import build_model
from model.weights.pretrained import load_clip_weights
from options import DataOptions, UserError, load_options, read_options, to_dict
from tests.helpers.released import OF_ITSELF, TOKEN_SELECTION, irra, our_weights, tbps_clip
from tests.helpers.whole_runs import results_of
from text_utils.captions import clean_caption

RECORDS = {"en": [Record("a.png", 1, ("A man.", "..."), (), "en")]}
NAMES = ("preparation", "cleaning", "interpolation", "normalization", "image_size")
OF_IRRA = ("irra", "none", "bilinear", "clip", (384, 128))
OLDER = ("tbps-clip", "tbps-clip", "bicubic", "imagenet", (224, 224))


def values(data: DataOptions | None) -> tuple[object, ...] | None:
    return data and tuple(getattr(data, name) for name in NAMES)


def saved(folder: Path, **changes: object) -> Path:
    """A checkpoint whose run had these options of `data`; None: it is older than the option."""
    options = to_dict(load_options({}))
    options["data"] = {k: v for k, v in (options["data"] | changes).items() if v is not None}
    torch.save({"options": options}, folder / "checkpoint.pth")
    return folder / "checkpoint.pth"


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [line.getMessage() for line in caplog.records if line.levelno >= logging.WARNING]


# Recorded


def test_a_run_records_its_preparation_and_an_older_one_had_tbps_clips(tmp_path: Path) -> None:
    assert values(preparation_of(saved(tmp_path))) == OLDER
    older = {"preparation": None, "cleaning": None, "interpolation": None}
    assert values(preparation_of(saved(tmp_path, **older))) == OLDER
    own = {"normalization": "clip", "image_size": [64, 32]}
    expected = ("tbps-clip", "none", "bicubic", "clip", (64, 32))
    assert values(preparation_of(saved(tmp_path, cleaning="none", **own))) == expected
    with pytest.raises(UserError, match=r"data\.cleaning: expected one of .* the options saved in"):
        preparation_of(saved(tmp_path, cleaning="newer"))


def test_the_identity_of_features_is_that_of_indexes_written_before_the_options(tmp_path: Path) -> None:
    options = load_options({})
    checkpoint, depends = saved(tmp_path, cleaning=None, interpolation=None), features_depend_on(options)
    for name in ("data.cleaning", "data.interpolation"):
        del depends[name]
    before = json.dumps([file_digest(checkpoint), depends]).encode()
    assert identity_of(options, checkpoint) == hashlib.sha256(before).hexdigest()
    assert identity_of(load_options({}, ["experiment.tse_share=0.4"]), checkpoint) == identity_of(
        options, checkpoint
    )
    for override in ("data.cleaning=none", "data.interpolation=bilinear", "experiment.tse=true"):
        assert identity_of(load_options({}, [override]), checkpoint) != identity_of(options, checkpoint)


def test_queries_hold_captions_as_the_model_reads_them() -> None:
    assert evaluation_set(RECORDS, ".").queries["en"].captions == ["a man", ""]
    assert evaluation_set(RECORDS, ".", str.upper).queries["en"].captions == ["A MAN.", "..."]


# Read off released files


@pytest.fixture
def ours(config: Path) -> dict[str, Tensor]:
    return our_weights(config)


@pytest.fixture
def full_size(ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """With the 24 x 8 positions of IRRA, in place of the 4 x 2 of the tests."""
    return ours | {"visual.positional_embedding": torch.randn(1 + 24 * 8, 16)}


Make = Callable[[dict[str, Tensor]], Any]
LAYOUTS: dict[str, tuple[Make, tuple[object, ...] | None]] = {
    "IRRA": (irra, OF_IRRA),
    "module.base_model": (lambda ours: irra(ours, start="module."), OF_IRRA),
    "the state dict of IRRA alone": (lambda ours: irra(ours)["model"], OF_IRRA),
    "TBPS-CLIP": (tbps_clip, (*OLDER[:4], (64, 32))),  # its options have the size
    "our names, without options": (dict, None),
    "OpenAI's names": (lambda ours: {k.removeprefix("text."): v for k, v in ours.items()}, None),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_layout_of_a_release_tells_its_preparation(
    layout: str, ours: dict[str, Tensor], full_size: dict[str, Tensor], tmp_path: Path
) -> None:
    make, expected = LAYOUTS[layout]
    torch.save(make(ours if layout == "TBPS-CLIP" else full_size), tmp_path / "weights.pth")
    assert values(preparation_of(tmp_path / "weights.pth")) == expected


def test_a_size_that_the_positions_do_not_have_is_not_known(ours: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(irra(ours), tmp_path / "weights.pth")
    assert values(preparation_of(tmp_path / "weights.pth")) == (*OF_IRRA[:4], None)


def test_square_positions_are_of_a_square_size(ours: dict[str, Tensor], tmp_path: Path) -> None:
    """As elsewhere, where a file does not tell its grid."""
    torch.save(
        irra(ours | {"visual.positional_embedding": torch.randn(1 + 16, 16)}), tmp_path / "weights.pth"
    )
    assert values(preparation_of(tmp_path / "weights.pth")) == (*OF_IRRA[:4], (64, 64))


def test_positions_of_a_release_are_of_its_size_whatever_size_is_asked_for(
    full_size: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save(irra(full_size), tmp_path / "weights.pth")
    for size in ((256, 128), (192, 256)):  # the second one would have 192 patches, too, in another grid
        assert load_clip_weights(tmp_path / "weights.pth", size).grid == (24, 8)


def test_safetensors_tell_it_too(full_size: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(irra(full_size)["model"], tmp_path / "weights.safetensors")
    assert values(preparation_of(tmp_path / "weights.safetensors")) == OF_IRRA


def test_a_file_that_cannot_be_read_tells_nothing(tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(b"<html>")
    torch.save([1], tmp_path / "list.pth")
    for name in ("weights.pth", "list.pth", "missing.pth", "."):
        assert preparation_of(tmp_path / name) is None


# Used


def test_evaluated_weights_are_given_what_they_were_trained_on(
    full_size: dict[str, Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(irra(full_size), tmp_path / "best.pth")
    options = prepared_for(read_options("config/config.yaml"), tmp_path / "best.pth")
    assert values(options.data) == OF_IRRA
    assert warnings(caplog) == []


def test_settings_that_contradict_the_weights_are_used_and_named_once_with_both_values(
    full_size: dict[str, Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "best.pth"
    torch.save(irra(full_size), path)
    set_ = ["data.cleaning=tbps-clip", "data.image_size=[224,224]", "data.normalization=clip"]
    options = prepared_for(read_options("config/config.yaml", set_), path)
    assert values(options.data) == ("irra", "tbps-clip", "bilinear", "clip", (224, 224))
    theirs = "data.cleaning=none, data.image_size=[384,128]"
    ours = "data.cleaning=tbps-clip, data.image_size=[224,224]"
    (line,) = warnings(caplog)
    assert line.startswith(f"'{path}' was trained with {theirs}; used is what is set, {ours}: ")
    caplog.clear()
    options = prepared_for(read_options("config/config.yaml", ["data.preparation=tbps-clip"]), path)
    assert values(options.data) == OLDER
    (line,) = warnings(caplog)
    assert "data.interpolation=bilinear" in line
    assert "data.interpolation=bicubic" in line


def test_search_and_export_follow_the_weights_whatever_the_file(
    config: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also over the options saved with them."""
    options = load_options(config, ["data.preparation=irra", "data.image_size=[32,16]"])
    model, _, _ = build_model(options, 0)
    path = tmp_path / "best.pth"
    torch.save({"model": model.state_dict(), "options": to_dict(options)}, path)
    encoder = load_encoder(path, Path("config/s.config.yaml"))
    assert encoder.tokenizer.cleaning == "none"
    assert encoder.processor.settings()["resample"] == 2  # PIL's number for bilinear
    assert encoder.processor.image_size == (32, 16)
    assert encoder.identity == load_encoder(path).identity
    assert warnings(caplog) == []
    assert values(options_for(path, None, ["data.preparation=tbps-clip"]).data) == OLDER
    assert len(warnings(caplog)) == 1


@pytest.mark.parametrize(
    ("make", "recipe"),
    [
        (irra, "irra.yaml"),
        (lambda ours: irra(ours, start="module."), "irra.yaml"),
        (lambda ours: irra(ours, TOKEN_SELECTION), "rde.yaml"),
        (lambda ours: irra(ours, TOKEN_SELECTION, start="module."), "rde.yaml"),
        (lambda ours: irra(ours, TOKEN_SELECTION, OF_ITSELF), "itself.yaml"),
        (lambda ours: irra(ours, TOKEN_SELECTION | {"visul_emb_layer.fc": (4096, 8)}), "itself.yaml"),
        (tbps_clip, "config.yaml"),
    ],
)
def test_search_and_export_of_a_release_take_the_options_of_its_recipe(
    make: Make, recipe: str, full_size: dict[str, Tensor], ours: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "best.pth"
    torch.save(make(ours if make is tbps_clip else full_size), path)
    override = ["data.test_batch_size=8"]
    assert options_for(path, None, override) == options_for(path, Path("config") / recipe, override)


def test_other_weights_need_a_file_of_options(ours: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(ours, tmp_path / "weights.pth")
    with pytest.raises(UserError, match=r"has no options of a run; .* or others with --config FILE"):
        options_for(tmp_path / "weights.pth", None, [])
    with pytest.raises(UserError, match="does not exist"):
        options_for(tmp_path / "missing.pth", None, [])


def test_the_run_of_a_checkpoint_says_nothing_of_it(
    finished_run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    best, options = finished_run / "checkpoint_best.pth", finished_run / "options.yaml"
    arguments = ["--config", str(options), "--evaluate", str(best), "--output-dir", str(tmp_path)]
    assert main(arguments) == 0
    assert warnings(caplog) == []
    assert results_of(tmp_path)["languages"] == results_of(finished_run)["languages"]


def test_a_release_is_evaluated_without_a_word_of_its_input_and_otherwise_with_one(
    config: Path, ours: dict[str, Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "best.pth"
    torch.save(irra(ours), path)
    towers = ["model.image_heads=2", "model.text_heads=2"]
    arguments = ["--config", str(config), "--evaluate", str(path), "--output-dir", str(tmp_path), *towers]
    assert main(arguments) == 0
    own = results_of(tmp_path)["languages"]
    assert warnings(caplog) == []
    assert main([*arguments, "data.preparation=irra", "data.image_size=[64,32]"]) == 0
    assert results_of(tmp_path)["languages"] == own
    assert warnings(caplog) == []
    assert main([*arguments, "data.preparation=tbps-clip", "data.image_size=[64,32]"]) == 0
    assert results_of(tmp_path)["languages"] != own
    (line,) = warnings(caplog)
    assert "data.cleaning=none, data.interpolation=bilinear, data.normalization=clip;" in line


def test_features_of_models_with_other_preparations_are_fused(finished_run: Path, tmp_path: Path) -> None:
    """As RDE's with TBPS-CLIP's, on the same annotations: the one reads punctuation, the other does not."""
    best, features = finished_run / "checkpoint_best.pth", tmp_path / "features"
    arguments = ["--config", str(finished_run / "options.yaml"), "--evaluate", str(best), "--output-dir"]
    assert main([*arguments, str(tmp_path / "a"), "--save-features", str(features)]) == 0
    irra = ["data.preparation=irra", "data.image_size=[64,32]", "data.normalization=imagenet"]
    fused = [*irra, f"eval.fuse={{{features}: 1}}", "--save-features", str(tmp_path / "b" / "features")]
    assert main([*arguments, str(tmp_path / "b"), *fused]) == 0
    assert "fusion" in results_of(tmp_path / "b")["sets"]["test"]["rows"]
    saved = [
        json.loads((folder / "features.json").read_text()) for folder in (features, tmp_path / "b/features")
    ]
    assert [record["options"]["data.interpolation"] for record in saved] == ["bicubic", "bilinear"]
    cleaned, kept = (record["sets"]["test"]["queries"]["en"]["captions"][0] for record in saved)
    assert clean_caption(kept) == cleaned != kept


def test_another_model_is_refused_still(tmp_path: Path) -> None:
    other = read_options("config/config.yaml", ["experiment.text_length=50"])
    with pytest.raises(UserError, match=r"experiment\.text_length: .* with 77, these options have 50"):
        check_trained_with(other, saved(tmp_path))


@pytest.mark.parametrize(("preparation", "count"), [("irra", 0), ("tbps-clip", 1)])
def test_training_from_weights_of_another_preparation_is_warned_of(
    full_size: dict[str, Tensor],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    preparation: str,
    count: int,
) -> None:
    torch.save(irra(full_size), tmp_path / "best.pth")
    start = [f"model.clip_pretrained={tmp_path}/best.pth", f"data.preparation={preparation}"]
    check_start(load_options({}, start))
    assert len(warnings(caplog)) == count
    assert all("data.cleaning=none" in line and "=tbps-clip" in line for line in warnings(caplog))
    check_start(load_options({}, ["model.clip_pretrained=null"]))
    check_start(load_options({}, ["model.backbone=altclip"]))
    assert len(warnings(caplog)) == count
