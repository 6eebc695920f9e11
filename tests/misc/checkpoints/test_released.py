"""Released checkpoints of TBPS-CLIP, IRRA and RDE as they are: into --evaluate and into training."""

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import easydict
import pytest
import torch
from torch import Tensor

from main import main
from model import build_model
from model.clip import build_clip
from model.weights.pickles import read_pickled
from model.weights.pretrained import layout_of, load_clip_weights
from options import UserError, load_options
from tests.helpers.released import (
    CLASSIFIER,
    MLM,
    OF_ITSELF,
    TOKEN_SELECTION,
    irra,
    our_weights,
    tbps_clip,
)
from tests.helpers.whole_runs import assert_same, error_line, results_of

SIZE = (64, 32)
LAYOUTS = {"zip": True, "old": False}


@pytest.fixture
def ours(config: Path) -> dict[str, Tensor]:
    return our_weights(config)


def save(content: object, path: Path, layout: str = "zip") -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=LAYOUTS[layout])
    return path


def figures(config: Path, weights: Path, out: Path, *overrides: str) -> dict[str, Any]:
    arguments = ["--config", str(config), "--evaluate", str(weights), "--output-dir", str(out), *overrides]
    assert main(arguments) == 0
    return results_of(out)["languages"]


def test_the_layout_of_a_release_is_read_off_the_names_in_its_file(ours: dict[str, Tensor]) -> None:
    assert layout_of(tbps_clip(ours)["model"]) == "tbps-clip"
    assert layout_of(irra(ours, CLASSIFIER)["model"]) == "irra"
    assert layout_of(irra(ours, start="module.")["model"]) == "irra"
    for start in ("", "clip.", "base_model.model."):
        assert layout_of(start + name for name in ours) is None


# TBPS-CLIP


@pytest.mark.parametrize("recipe", ["full", "simplified"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_release_of_tbps_clip_gives_our_weights_and_names_its_heads(
    ours: dict[str, Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture, recipe: str, layout: str
) -> None:
    path = save(tbps_clip(ours, recipe), tmp_path / "checkpoint_best.pth", layout)
    with caplog.at_level(logging.INFO, logger="model.weights.pretrained"):
        weights = load_clip_weights(path)
    assert_same(dict(weights.tensors), dict(ours))
    assert weights.grid == (4, 2)
    named = "tensors that are not part of the towers: simclr_mlp (4)" in caplog.text
    assert named == (recipe == "full")
    assert "TBPS-CLIP; trained with data.preparation=tbps-clip" in caplog.text


def test_a_release_evaluates_to_the_figures_of_ours(
    config: Path, ours: dict[str, Tensor], tmp_path: Path
) -> None:
    content = {"model": {f"clip.{name}": tensor for name, tensor in ours.items()}}
    expected = figures(config, save(content, tmp_path / "ours.pth"), tmp_path / "ours")
    assert 0 < expected["en"]["t2i"]["mAP"] < 100
    assert figures(config, save(tbps_clip(ours), tmp_path / "theirs.pth"), tmp_path / "theirs") == expected


def test_a_release_starts_a_training(config: Path, ours: dict[str, Tensor], tmp_path: Path) -> None:
    path = save(tbps_clip(ours), tmp_path / "theirs.pth")
    model, _, _ = build_model(load_options(config, [f"model.clip_pretrained={path}"]), 5)
    assert_same(dict(model.clip.state_dict()), dict(ours))
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("numpy_1", [True, False])
def test_numbers_of_numpy_and_options_of_easydict_are_plain_values(
    ours: dict[str, Tensor], tmp_path: Path, numpy_1: bool
) -> None:
    path = save(tbps_clip(ours), tmp_path / "theirs.pth", "old")
    if numpy_1:  # which wrote the released files; its name for the same function
        path.write_bytes(path.read_bytes().replace(b"cnumpy._core.multiarray", b"cnumpy.core.multiarray"))
    content = read_pickled(path)
    rates = [group["lr"] for group in content["optimizer"]["param_groups"]]
    assert {type(rate) for rate in rates} == {float}
    assert rates[0] == 1e-6
    assert rates[-1] == pytest.approx(1e-4)
    assert content["config"]["experiment"] == {"input_resolution": [64, 32], "text_length": 77, "ss": True}
    assert isinstance(content["config"]["experiment"], dict)
    assert not isinstance(content["config"], easydict.EasyDict)
    assert content["optimizer"]["state"][0]["step"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("encode_text.ln_final.weight"), "lacks 1 .*'text.ln_final.weight'"),
        (lambda s: s.update({"encode_text.extra": torch.ones(1)}), "1 unexpected tensors .*'extra'"),
        (lambda s: s.update({"head.weight": torch.ones(1)}), "1 unexpected tensors .*'head.weight'"),
        (lambda s: s.pop("logit_scale"), "lacks 1 .*'logit_scale'"),
    ],
)
def test_any_other_name_that_is_missing_or_too_many_is_an_error(
    ours: dict[str, Tensor], tmp_path: Path, change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    content = tbps_clip(ours)
    change(content["model"])
    with pytest.raises(UserError, match=message):
        load_clip_weights(save(content, tmp_path / "theirs.pth"))


# IRRA, RDE and ITSELF


OF_IRRA = "classifier (2), mlm_head (16)"
OF_RDE = "visul_emb_layer.linear (2), tse_head (8)"


@pytest.mark.parametrize(
    ("groups", "start", "beside"),
    [
        ((CLASSIFIER, MLM), "", OF_IRRA),
        ((CLASSIFIER, MLM), "module.", OF_IRRA),
        ((TOKEN_SELECTION,), "", OF_RDE),
        ((TOKEN_SELECTION, OF_ITSELF), "", OF_RDE.replace("tse", "grab") + ", cid_head (4), classifier (2)"),
    ],
)
def test_a_release_of_irra_or_rde_gives_our_features_and_names_its_heads(
    config: Path,
    ours: dict[str, Tensor],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    groups: tuple[dict[str, tuple[int, ...]], ...],
    start: str,
    beside: str,
) -> None:
    mine, theirs = tmp_path / "ours.pt", tmp_path / "best.pth"
    save(ours, mine)
    save(irra(ours, *groups, start=start), theirs)
    with caplog.at_level(logging.INFO, logger="model.weights.pretrained"):
        pair = [
            build_clip(path, image_size=SIZE, image_heads=2, text_heads=2)[0].eval()
            for path in (mine, theirs)
        ]
    pixels = torch.randn(2, 3, *SIZE)
    tokens = {"input_ids": torch.tensor([[49_406, 320, 49_407]]), "attention_mask": torch.ones(1, 3).long()}
    with torch.no_grad():
        assert torch.equal(pair[0].encode_image(pixels), pair[1].encode_image(pixels))
        assert torch.equal(pair[0].encode_text(tokens), pair[1].encode_text(tokens))
    assert pair[1].logit_scale.item() == pytest.approx(math.log(1 / 0.07))
    assert "no logit_scale" in caplog.text
    assert "IRRA, RDE or ITSELF; trained with data.preparation=irra" in caplog.text
    assert f"tensors that are not part of the towers: {beside}" in caplog.text


def test_a_grid_that_the_image_size_asked_for_does_not_make_is_an_error_that_says_what_to_set(
    ours: dict[str, Tensor], tmp_path: Path
) -> None:
    path = save(irra(ours), tmp_path / "best.pth")
    expected = r"8 patches, .* square or data.image_size=\[64,64\]; set that to .*\[384,128\]"
    with pytest.raises(UserError, match=expected):
        build_clip(path, image_size=(64, 64), image_heads=2, text_heads=2)


def test_a_mistake_in_the_file_to_evaluate_does_not_name_the_option_of_another(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save([1], tmp_path / "list.pth")
    assert main(["--config", str(config), "--evaluate", str(path)]) == 2
    assert error_line(capsys) == f"error: weights '{path}' holds a list; a state dict is expected."
