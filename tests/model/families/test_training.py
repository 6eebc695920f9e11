"""Families of transformers in training: gradients, frozen parts, dropout, scale and bias, checkpoints."""

import logging
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from config.experiment import LOSSES
from model import build_model
from model.families.encoder import HubEncoder
from model.transformers_adapter import build_transformers_clip
from options import Options, UserError, load_options

Families = Callable[[str], Path]
Images = Callable[[int, int], Tensor]


def settings(folder: Path, *losses: str, **others: object) -> Options:
    """The options with these losses alone."""
    overrides = {f"experiment.{name}": str(name in losses).lower() for name in (*LOSSES, "mvs_image")}
    overrides |= {"model.backbone": "transformers", "model.transformers_pretrained": folder}
    overrides |= {"misc.device": "cpu", **{key.replace("__", "."): value for key, value in others.items()}}
    return load_options("config/config.yaml", [f"{key}={value}" for key, value in overrides.items()])


def gradients(clip: HubEncoder, tokens: dict[str, Tensor], pixels: Tensor) -> dict[str, Tensor | None]:
    clip.zero_grad()
    (clip.encode_text(tokens).square().sum() + clip.encode_image(pixels).square().sum()).backward()
    return {name: parameter.grad for name, parameter in clip.named_parameters() if "logit" not in name}


def test_every_parameter_has_a_gradient_also_with_activation_checkpointing(
    families: Families, kind: str, captions: list[str], images: Images
) -> None:
    found = []
    for checkpointing in (False, True):
        clip, tokenizer, _ = build_transformers_clip(families(kind), grad_checkpointing=checkpointing)
        assert clip.training
        found.append(gradients(clip, tokenizer(captions), images(32, 32)))
        assert [name for name, gradient in found[-1].items() if gradient is None] == []
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient)


def test_locked_parts_have_no_gradient_and_the_others_do(
    families: Families, kind: str, captions: list[str], images: Images
) -> None:
    clip, tokenizer, _ = build_transformers_clip(families(kind))
    clip.lock(patch_embedding=True, image_blocks=1, text_blocks=1)
    found = gradients(clip, tokenizer(captions), images(32, 32))
    frozen = {name for name, gradient in found.items() if gradient is None}
    below = ("embeddings", "pre_layrnorm", "encoder.layers.0.", "encoder.layer.0.")
    assert frozen == {name for name in found if any(part in name for part in below)}
    with pytest.raises(UserError, match="lock_text_blocks: expected blocks from 0 to 1, found 2"):
        clip.lock(text_blocks=3)


@torch.no_grad()
def test_dropout_is_on_the_attention_of_the_text_tower_in_training_alone(
    families: Families, kind: str, captions: list[str], images: Images
) -> None:
    plain, tokenizer, _ = build_transformers_clip(families(kind))
    dropping, pixels, tokens = (
        build_transformers_clip(families(kind), dropout=0.4)[0],
        images(32, 32),
        tokenizer(captions),
    )
    expected = plain.eval().encode_text(tokens)
    torch.testing.assert_close(plain.train().encode_text(tokens), expected)
    torch.testing.assert_close(dropping.encode_image(pixels), plain.encode_image(pixels))
    assert (dropping.encode_text(tokens) - expected).abs().max() > 1e-3
    torch.testing.assert_close(dropping.eval().encode_text(tokens), expected)


def test_scale_and_bias_are_the_weights_own(
    families: Families, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    from transformers import AutoModel

    with caplog.at_level(logging.INFO):
        clip = build_transformers_clip(families(kind))[0]
    assert ("dropped logit_bias" in caplog.text) == kind.startswith("siglip")
    assert clip.logit_scale.shape == ()
    assert clip.logit_scale.item() == pytest.approx(4.7)
    assert clip.max_logit_scale == clip.logit_scale.item() > math.log(100)
    assert clip.logit_bias == 0.0
    bias = build_transformers_clip(families(kind), logit_bias=True)[0].logit_bias
    assert isinstance(bias, nn.Parameter)
    own = getattr(AutoModel.from_pretrained(families(kind)), "logit_bias", torch.tensor(-10.0))
    assert bias.item() == own.item()


def test_a_checkpoint_takes_the_place_of_the_weights(
    families: Families, kind: str, tmp_path: Path, images: Images
) -> None:
    options = settings(families(kind), "nitc", "sigmoid", data__image_size=[48, 16])
    model, *_ = build_model(options, 3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
        expected = model.eval().embed(images(48, 16))
    torch.save({"model": model.state_dict()}, tmp_path / "checkpoint.pth")
    loaded, *_ = build_model(options, 0, str(tmp_path / "checkpoint.pth"))
    with torch.no_grad():
        torch.testing.assert_close(loaded.eval().embed(images(48, 16)), expected)
    assert loaded.clip.logit_bias.item() == model.clip.logit_bias.item()
    with pytest.raises(UserError, match=r"'no\.pth' does not exist; a checkpoint of a \w+ run is expected"):
        build_model(options, 0, "no.pth")
    other = settings(families(kind), "nitc", data__image_size=[48, 16], model__embed_dim=7)
    with pytest.raises(UserError, match=r"model\.embed_dim: 7 is set, but the weights .* have \d+"):
        build_model(other, 3)


def test_mlm_over_a_large_vocabulary_must_be_asked_for(families: Families) -> None:
    words = build_transformers_clip(families("chinese_clip"))[0].vocab_size
    small = settings(families("chinese_clip"), "nitc", "mlm", experiment__mlm_max_words=words - 1)
    message = rf"experiment\.mlm: .* {words:,} words.*mlm_max_words={words - 1:,}.*mlm_max_words={words}"
    with pytest.raises(UserError, match=message):
        build_model(small, 3)
    asked = settings(families("chinese_clip"), "nitc", "mlm", experiment__mlm_max_words=words)
    assert "mlm" in build_model(asked, 3)[0].objectives
