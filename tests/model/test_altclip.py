"""AltCLIP behind the interface of CLIP: features, positions, sizes, dropout."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model import build_model
from model.altclip_adapter import build_altclip_clip
from model.protocol import Selection
from options import UserError
from tests.helpers.altclip_folders import (
    CAPTIONS,
    EMBED_DIM,
    IMAGE_SIZE,
    PATCH_SIZE,
    TEXT_LENGTH,
    build,
    copied,
    largest_cosine,
    pixels,
    settings,
    tokens_of,
    with_tensors,
    write_altclip,
)


def original(folder: Path) -> nn.Module:
    from transformers import AltCLIPModel

    return AltCLIPModel.from_pretrained(folder).eval()


def rows_of(output: Any) -> Tensor:
    """Features, which transformers 4 returns as they are and 5 in an object."""
    return output if isinstance(output, Tensor) else output.pooler_output


@torch.no_grad()
def test_the_features_are_those_of_transformers(folder: Path) -> None:
    clip, reference, tokens = build(folder), original(folder), tokens_of(folder)
    lengths = tokens["attention_mask"].sum(dim=1)
    assert lengths.min() < lengths.max() / 2
    assert clip.logit_scale.dtype == torch.float32
    expected = rows_of(reference.get_text_features(**tokens))
    torch.testing.assert_close(clip.encode_text(tokens), expected, atol=1e-5, rtol=0)
    assert largest_cosine(expected) < 0.999
    images = pixels(3)
    expected = rows_of(reference.get_image_features(images))
    torch.testing.assert_close(clip.encode_image(images), expected, atol=1e-5, rtol=0)
    assert largest_cosine(expected) < 0.999
    assert expected.shape == (3, EMBED_DIM) == (3, clip.embed_dim)


@torch.no_grad()
@pytest.mark.parametrize("filler", [0, 1, 57])
def test_padding_changes_no_feature_whatever_stands_in_it(folder: Path, filler: int) -> None:
    clip, tokens = build(folder), tokens_of(folder)
    longest = TEXT_LENGTH - tokens["input_ids"].shape[1]
    padded = {name: F.pad(values, (0, longest)) for name, values in tokens.items()}
    padded["input_ids"][padded["attention_mask"] == 0] = filler
    assert padded["input_ids"].shape == (len(CAPTIONS), TEXT_LENGTH)
    expected = torch.cat([clip.encode_text(tokens_of(folder, (text,))) for text in CAPTIONS])
    torch.testing.assert_close(clip.encode_text(tokens), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(clip.encode_text(padded), expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_every_word_of_a_caption_counts(folder: Path) -> None:
    clip, tokens = build(folder), tokens_of(folder, CAPTIONS[1:2])
    before, ids = clip.encode_text(tokens), tokens["input_ids"]
    for position in range(1, ids.shape[1] - 1):
        changed = ids.clone()
        changed[0, position] = 50 if ids[0, position] != 50 else 51
        assert (clip.encode_text({**tokens, "input_ids": changed}) - before).abs().max() > 1e-3, position


@torch.no_grad()
def test_dense_features_are_of_all_tokens_the_pooled_one_first(folder: Path) -> None:
    clip, tokens = build(folder, 48, 16), tokens_of(folder)
    pooled, dense = clip.encode_text(tokens, return_dense=True)
    assert dense.shape == (*tokens["input_ids"].shape, EMBED_DIM)
    torch.testing.assert_close(pooled, clip.encode_text(tokens))
    assert torch.equal(dense[:, 0], pooled)
    images = pixels(2, 48, 16)
    pooled, dense = clip.encode_image(images, return_dense=True)
    assert dense.shape == (2, 1 + (48 // PATCH_SIZE) * (16 // PATCH_SIZE), EMBED_DIM)
    torch.testing.assert_close(pooled, clip.encode_image(images))
    assert torch.equal(dense[:, 0], pooled)
    assert largest_cosine(dense[0]) < 0.999


@torch.no_grad()
def test_the_selected_tokens_are_those_that_the_first_one_attends_to(folder: Path) -> None:
    from transformers import AltCLIPModel

    clip, tokens, images = build(folder), tokens_of(folder), pixels(3)
    reference = AltCLIPModel.from_pretrained(folder, attn_implementation="eager").eval()
    lengths = tokens["attention_mask"].sum(dim=1).tolist()
    last = reference.text_model(**tokens, output_attentions=True).attentions[-1].mean(dim=1)[:, 0]
    _, dense = clip.encode_text(tokens, return_dense=True)
    pooled, none, selected = clip.encode_text(tokens, select=Selection(0.3))
    assert none is None
    torch.testing.assert_close(pooled, dense[:, 0])
    for row, length in enumerate(lengths):
        if length == 2:  # no words: the end token stands for them
            torch.testing.assert_close(selected.tokens[row, 0], dense[row, 1])
            continue
        best = 1 + last[row, 1 : length - 1].sort(descending=True).indices
        wanted = dense[row, best[: int(0.3 * (TEXT_LENGTH - 2))]]
        torch.testing.assert_close(selected.tokens[row][selected.mask[row]], wanted)

    last = reference.vision_model(images, output_attentions=True).attentions[-1].mean(dim=1)[:, 0]
    _, dense = clip.encode_image(images, return_dense=True)
    _, both, selected = clip.encode_image(images, return_dense=True, select=Selection(0.3))
    assert torch.equal(both, dense)
    for row in range(3):
        best = 1 + last[row, 1:].sort(descending=True).indices
        chosen = dense[row, best[: int(0.3 * (dense.shape[1] - 1))]]
        torch.testing.assert_close(selected.tokens[row], chosen)


@torch.no_grad()
def test_positions_are_interpolated_to_another_image_size_and_kept_at_the_weights_own(folder: Path) -> None:
    weights = original(folder).vision_model.embeddings.position_embedding.weight
    same = build(folder).visual.vision_model.embeddings.position_embedding.weight
    assert torch.equal(same, weights)
    side = IMAGE_SIZE // PATCH_SIZE
    grid = weights[1:].T.reshape(1, -1, side, side)
    expected = F.interpolate(grid, size=(6, 2), mode="bilinear", align_corners=False).flatten(2)[0].T
    resized = build(folder, 48, 16).visual.vision_model.embeddings.position_embedding.weight
    torch.testing.assert_close(resized, torch.cat([weights[:1], expected]))
    assert resized.requires_grad


@torch.no_grad()
def test_a_patch_has_the_position_of_its_row_and_column(folder: Path) -> None:
    clip = build(folder, 48, 16)
    embeddings = clip.visual.vision_model.embeddings
    embeddings.position_embedding.weight[1:] = 0
    plain = torch.zeros(1, 3, 48, 16)
    plain[..., 5 * PATCH_SIZE :, PATCH_SIZE:] = 1  # the last row's second column
    _, dense = clip.encode_image(plain, return_dense=True)
    different = (dense[0, 1:] - dense[0, 1]).abs().amax(dim=1) > 1e-4
    assert different.nonzero().flatten().tolist() == [5 * 2 + 1]


def test_an_image_of_another_size_is_a_mistake_of_the_program(folder: Path) -> None:
    with pytest.raises(AssertionError):
        build(folder).encode_image(pixels(1, 48, 16))


def test_scale_and_bias_are_the_weights_and_zero_or_learned_from_minus_ten(folder: Path) -> None:
    clip = build(folder)
    assert clip.logit_scale.item() == pytest.approx(original(folder).logit_scale.item()) != 0
    assert isinstance(clip.logit_scale, nn.Parameter)
    assert clip.logit_bias == 0.0
    assert "logit_bias" not in clip.state_dict()
    bias = build(folder, logit_bias=True).logit_bias
    assert isinstance(bias, nn.Parameter)
    assert bias.item() == -10


def test_a_changed_scale_of_the_weights_is_taken_over(folder: Path, tmp_path: Path) -> None:
    scale = {"logit_scale": torch.tensor(math.log(33.0))}
    there = with_tensors(folder, tmp_path / "model", lambda tensors: tensors | scale)
    assert build(there).logit_scale.exp().item() == pytest.approx(33.0, rel=1e-5)


@pytest.mark.parametrize("option", ["projection_dim", "embed_dim"])
def test_another_width_than_the_weights_is_refused_with_both_numbers(folder: Path, option: str) -> None:
    options = settings(folder, "nitc", **{f"model__{option}": 512})
    with pytest.raises(UserError, match=rf"model\.{option}\b.*\b512\b.*\b{EMBED_DIM}\b"):
        build_model(options, 3)
    build_model(settings(folder, "nitc", **{f"model__{option}": EMBED_DIM}), 3)


def test_a_longer_text_than_the_positions_reach_is_refused(folder: Path) -> None:
    build(folder, text_length=TEXT_LENGTH)
    with pytest.raises(UserError, match=rf"experiment\.text_length.*{TEXT_LENGTH}.*{TEXT_LENGTH + 1}"):
        build(folder, text_length=TEXT_LENGTH + 1)


def test_an_image_size_that_the_patch_does_not_divide_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"data\.image_size.*8.*36"):
        build(folder, 36, 32)


@torch.no_grad()
def test_dropout_is_on_the_attention_of_the_text_tower_in_training_alone(folder: Path) -> None:
    tokens, images = tokens_of(folder), pixels(2)
    expected = build(folder)
    without = build(folder, dropout=0.0).train()
    torch.testing.assert_close(without.encode_text(tokens), expected.encode_text(tokens))
    torch.testing.assert_close(without.encode_image(images), expected.encode_image(images))
    dropping = build_altclip_clip(folder, image_size=(IMAGE_SIZE, IMAGE_SIZE), dropout=0.3)[0]
    assert dropping.training
    assert (dropping.encode_text(tokens) - expected.encode_text(tokens)).abs().max() > 1e-3
    torch.testing.assert_close(dropping.encode_image(images), expected.encode_image(images))
    dropouts = {n: m.p for n, m in dropping.named_modules() if isinstance(m, nn.Dropout) and m.p}
    assert dropouts
    assert all(name.startswith("text.") and ".attention.self." in name for name in dropouts), dropouts
    assert set(dropouts.values()) == {0.3}
    torch.testing.assert_close(dropping.eval().encode_text(tokens), expected.encode_text(tokens))


@torch.no_grad()
def test_dropout_that_the_weights_own_config_asks_for_is_not_heeded(folder: Path, tmp_path: Path) -> None:
    there = copied(folder, tmp_path / "dropping")
    config = json.loads((there / "config.json").read_text())
    config["text_config"] |= {"hidden_dropout_prob": 0.5, "attention_probs_dropout_prob": 0.5}
    config["vision_config"]["attention_dropout"] = 0.5
    (there / "config.json").write_text(json.dumps(config))
    clip, tokens, images = build(there).train(), tokens_of(folder), pixels(2)
    torch.testing.assert_close(clip.encode_text(tokens), build(folder).encode_text(tokens))
    torch.testing.assert_close(clip.encode_image(images), build(folder).encode_image(images))


def test_another_small_altclip_has_other_sizes(tmp_path: Path) -> None:
    write_altclip(tmp_path / "wide", width=48, embed_dim=12)
    clip = build(tmp_path / "wide")
    assert clip.encode_image(pixels(1)).shape == (1, 12)
