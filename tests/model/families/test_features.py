"""Each family of transformers behind the interface of CLIP: its features, tokens and selected tokens."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.families.encoder import HubEncoder
from model.protocol import Selection
from model.transformers_adapter import build_transformers_clip

Families = Callable[[str], Path]
Images = Callable[[int, int], Tensor]
NATIVE, TALL, SQUARE = (32, 32), (48, 16), (48, 48)


def library(folder: Path) -> nn.Module:
    from transformers import AutoModel

    return AutoModel.from_pretrained(folder, attn_implementation="eager").eval()


def build(folder: Path, size: tuple[int, int] = NATIVE, **settings: object) -> HubEncoder:
    return build_transformers_clip(folder, image_size=size, **settings)[0].eval()


def naflex_inputs(images: Tensor, patch: int = 8) -> dict[str, Tensor]:
    """What the processor of the library makes of images that need no resizing."""
    rows, columns = (side // patch for side in images.shape[2:])
    patches = [
        image[:, patch * row :, patch * column :][:, :patch, :patch].permute(1, 2, 0).flatten()
        for image in images
        for row in range(rows)
        for column in range(columns)
    ]
    pixels = torch.stack(patches).unflatten(0, (len(images), rows * columns))
    mask = torch.ones(pixels.shape[:2], dtype=torch.int64)
    return {
        "pixel_values": pixels,
        "pixel_attention_mask": mask,
        "spatial_shapes": torch.tensor([[rows, columns]] * len(images)),
    }


def image_features(model: nn.Module, images: Tensor) -> Tensor:
    if model.config.model_type == "siglip2":
        return model.vision_model(**naflex_inputs(images)).pooler_output
    pooled = model.vision_model(images, interpolate_pos_encoding=True).pooler_output
    return pooled if model.config.model_type == "siglip" else model.visual_projection(pooled)


def text_features(model: nn.Module, folder: Path, captions: list[str]) -> Tensor:
    """As the documentation of the library has it, with its own tokenizer; captions cut at the positions."""
    from transformers import AutoTokenizer

    length = model.config.text_config.max_position_embeddings
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="right")
    padding = "max_length" if model.config.model_type.startswith("siglip") else True
    if padding == "max_length":
        captions = [caption.lower() for caption in captions]
    tokens = tokenizer(captions, padding=padding, truncation=True, max_length=length, return_tensors="pt")
    if model.config.model_type.startswith("siglip"):
        return model.text_model(tokens["input_ids"]).pooler_output
    output = model.text_model(tokens["input_ids"], attention_mask=tokens["attention_mask"])
    first = (
        output.last_hidden_state[:, 0] if model.config.model_type == "chinese_clip" else output.pooler_output
    )
    return model.text_projection(first)


@torch.no_grad()
def test_features_are_those_of_the_library_at_its_size_and_at_another(
    families: Families, kind: str, images: Images, captions: list[str]
) -> None:
    model, expected = library(families(kind)), []
    for size in (NATIVE, TALL, SQUARE):
        clip = build(families(kind), size)
        expected.append(image_features(model, images(*size)))
        torch.testing.assert_close(clip.encode_image(images(*size)), expected[-1], atol=1e-5, rtol=0)
    assert (expected[0][0] - expected[0][1]).abs().max() > 0.1
    clip, tokenizer, _ = build_transformers_clip(families(kind))
    found = clip.eval().encode_text(tokenizer(captions))
    torch.testing.assert_close(found, text_features(model, families(kind), captions), atol=1e-5, rtol=0)
    assert (found[0] - found[1]).abs().max() > 0.1
    assert clip.embed_dim == found.shape[1] == expected[0].shape[1]


@torch.no_grad()
@pytest.mark.parametrize("filler", [0, 1, 9])
def test_a_caption_has_the_same_feature_beside_longer_ones_and_whatever_its_padding_holds(
    families: Families, kind: str, captions: list[str], filler: int
) -> None:
    clip, tokenizer, _ = build_transformers_clip(families(kind))
    tokens = tokenizer(captions)
    alone = torch.cat([clip.eval().encode_text(tokenizer([caption])) for caption in captions])
    ids = tokens["input_ids"].masked_fill(tokens["attention_mask"] == 0, filler)
    torch.testing.assert_close(clip.encode_text({**tokens, "input_ids": ids}), alone, atol=1e-5, rtol=0)
    masked = tokens["attention_mask"].sum(dim=1)
    assert masked.min() < masked.max() == tokens["input_ids"].shape[1]


@torch.no_grad()
def test_dense_features_are_the_pooled_one_and_each_patch_pooled_alone(
    families: Families, kind: str, images: Images, captions: list[str]
) -> None:
    clip, tokenizer, _ = build_transformers_clip(families(kind), image_size=TALL)
    pooled, dense = clip.eval().encode_image(images(*TALL), return_dense=True)
    assert dense.shape == (2, 1 + 6 * 2, clip.embed_dim)
    torch.testing.assert_close(pooled, clip.encode_image(images(*TALL)))
    assert torch.equal(dense[:, 0], pooled)
    vision = clip.visual.vision_model
    if kind.startswith("siglip"):  # its head, over one token
        inputs = naflex_inputs(images(*TALL)) if kind == "siglip2" else None
        x = (
            library(families(kind)).vision_model(**inputs).last_hidden_state
            if inputs
            else library(families(kind)).vision_model(images(*TALL), interpolate_pos_encoding=True)[0]
        )
        torch.testing.assert_close(dense[:, 3], vision.head(x[:, 2:3]), atol=1e-5, rtol=0)
    else:
        model = library(families(kind))
        x = model.vision_model(images(*TALL), interpolate_pos_encoding=True).last_hidden_state
        expected = model.visual_projection(model.vision_model.post_layernorm(x))
        torch.testing.assert_close(dense, expected, atol=1e-5, rtol=0)
    tokens = tokenizer(captions)
    pooled, dense = clip.encode_text(tokens, return_dense=True)
    assert dense.shape == (*tokens["input_ids"].shape, clip.embed_dim)
    torch.testing.assert_close(pooled, clip.encode_text(tokens))
    ends = tokens["attention_mask"].sum(dim=1) - 1
    at = {"chinese_clip": torch.zeros_like(ends), "metaclip_2": ends}.get(kind)
    if at is not None:
        torch.testing.assert_close(dense[torch.arange(3), at], pooled)


@torch.no_grad()
def test_the_selected_patches_are_those_that_the_pooling_attends_to(
    families: Families, kind: str, images: Images
) -> None:
    clip, pixels = build(families(kind), TALL), images(*TALL)
    _, dense = clip.encode_image(pixels, return_dense=True)
    model = library(families(kind)).vision_model
    if kind.startswith("siglip"):
        inputs = naflex_inputs(pixels) if kind == "siglip2" else {"pixel_values": pixels}
        more = {} if kind == "siglip2" else {"interpolate_pos_encoding": True}
        x = model(**inputs, **more).last_hidden_state
        probe = model.head.probe.expand(2, -1, -1)
        row = model.head.attention(probe, x, x, need_weights=True)[1][:, 0]
    else:
        output = model(pixels, interpolate_pos_encoding=True, output_attentions=True)
        row = output.attentions[-1].mean(dim=1)[:, 0, 1:]
    best = row.topk(4, dim=1).indices + 1  # 0.35 of 12 patches
    for return_dense in (False, True):
        pooled, tokens, selected = clip.encode_image(pixels, return_dense, Selection(0.35))
        assert (tokens is not None) == return_dense
        torch.testing.assert_close(pooled, dense[:, 0])
        expected = dense[torch.arange(2)[:, None], best]
        torch.testing.assert_close(selected.tokens, expected, atol=1e-5, rtol=0)
        assert selected.mask is None


@torch.no_grad()
def test_the_selected_words_are_those_that_the_pooled_token_attends_to(
    families: Families, kind: str, captions: list[str]
) -> None:
    clip, tokenizer, _ = build_transformers_clip(families(kind))
    tokens = tokenizer(captions)
    ids, mask = tokens["input_ids"], tokens["attention_mask"]
    lengths, is_siglip = mask.sum(dim=1).tolist(), kind.startswith("siglip")
    model = library(families(kind)).text_model
    if is_siglip:  # the tokenizer pads with 0
        ids, mask = F.pad(ids * mask, (0, 24 - ids.shape[1])), None
    attention = model(ids, attention_mask=mask, output_attentions=True).attentions[-1].mean(dim=1)
    _, dense = clip.eval().encode_text(tokens, return_dense=True)
    pooled, none, selected = clip.encode_text(tokens, select=Selection(0.5))
    assert none is None
    torch.testing.assert_close(pooled, clip.encode_text(tokens))
    for row, length in enumerate(lengths):
        read = {"chinese_clip": 0, "metaclip_2": length - 1}.get(kind, 23)
        first = 0 if is_siglip else 1
        weights = attention[row, read, first : length - 1]
        best = first + weights.sort(descending=True).indices[:11]
        found = selected.tokens[row][selected.mask[row]]
        torch.testing.assert_close(found, dense[row, best], atol=1e-5, rtol=0)
