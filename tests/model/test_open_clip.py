"""Towers of open_clip behind the interface of CLIP: features, tokens, positions, padding."""

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.open_clip_adapter import build_open_clip, to_openai
from model.protocol import Built, Selection
from options import UserError
from tests.helpers.altclip_folders import cache_root

Folder = Callable[[str], Path]
KINDS = (
    "plain",
    "class token",
    "attention pooling",
    "average",
    "rotary",
    "convolutions",
    "batch norm",
    "hub",
)
CAPTIONS = [
    "a man",
    "a woman in a long red coat and black shoes carries a bag over her shoulder and walks",
    "",
]
TEXTS = ("plain", "attention pooling", "average", "convolutions", "hub")  # the kinds that differ in it
REAL = ("ViT-B-16", "ViT-B-16-quickgelu", "ViT-B-16-SigLIP", "ViT-B-16-SigLIP2", "EVA02-B-16", "PE-Core-B-16")
REAL += ("MobileCLIP2-S0", "MobileCLIP2-B", "convnext_base", "ViTamin-S", "swin_base_patch4_window7_224")
SIZES = {"rotary": ((56, 56), (84, 28))}


@functools.cache
def library(folder: Path, size: tuple[int, int]) -> nn.Module:
    """What open_clip's loader makes of the folder, resized by itself."""
    import open_clip

    return open_clip.create_model(f"local-dir:{folder}", force_image_size=size, pretrained_text=False).eval()


def sizes(kind: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """The native size, and one that is not square."""
    return SIZES.get(kind, ((64, 64), (96, 32)))


def pixels(size: tuple[int, int], rows: int = 2) -> Tensor:
    return torch.randn(rows, 3, *size, generator=torch.Generator().manual_seed(0))


@functools.cache
def built(folder: Path, size: tuple[int, int] | None = None) -> Built:
    """In evaluation mode, to be read and not changed."""
    clip, *others = build_open_clip(pretrained=folder, image_size=size)
    return clip.eval(), *others


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_features_of_images_are_those_of_the_library_at_any_size(open_clip_folder: Folder, kind: str) -> None:
    folder = open_clip_folder(kind)
    for size in sizes(kind):
        theirs = library(folder, size).encode_image(pixels(size))
        clip, _, processor = built(folder, size)
        torch.testing.assert_close(clip.encode_image(pixels(size)), theirs, atol=1e-5, rtol=1e-5)
        assert F.cosine_similarity(*theirs, dim=0) < 0.999
        assert processor.image_size == size
        assert clip.embed_dim == theirs.shape[1] == 24


@torch.no_grad()
@pytest.mark.parametrize("kind", TEXTS)
def test_features_of_captions_are_those_of_the_library_whatever_stands_beside_them(
    open_clip_folder: Folder, kind: str
) -> None:
    folder = open_clip_folder(kind)
    clip, tokenizer, _ = built(folder, sizes(kind)[1])
    tokens = tokenizer(CAPTIONS)
    theirs = library(folder, sizes(kind)[1]).encode_text(padded(tokens, tokenizer.pad_token_id))
    pooled, dense = clip.encode_text(tokens, return_dense=True)
    torch.testing.assert_close(pooled, theirs, atol=1e-5, rtol=0)
    for caption, feature in zip(CAPTIONS, theirs, strict=True):
        torch.testing.assert_close(clip.encode_text(tokenizer([caption]))[0], feature, atol=1e-5, rtol=0)
    present = tokens["attention_mask"].bool()
    garbage = tokens | {"input_ids": tokens["input_ids"].masked_fill(~present, 77)}
    assert dense.shape == (*present.shape, 24)
    for found, expected in zip(clip.encode_text(garbage, return_dense=True), (pooled, dense), strict=True):
        is_read = present if expected.ndim == 3 else slice(None)
        torch.testing.assert_close(found[is_read], expected[is_read], atol=1e-6, rtol=0)


def padded(tokens: dict[str, Tensor], pad_id: int, length: int = 16) -> Tensor:
    """The ids as open_clip's tokenizers pad them."""
    return F.pad(tokens["input_ids"], (0, length - tokens["input_ids"].shape[1]), value=pad_id)


@torch.no_grad()
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("class token", "hub")])
def test_a_patch_has_the_feature_of_an_image_of_this_patch_alone(open_clip_folder: Folder, kind: str) -> None:
    size = sizes(kind)[1]
    clip, reference = built(open_clip_folder(kind), size)[0], library(open_clip_folder(kind), size)
    pooled, dense = clip.encode_image(pixels(size), return_dense=True)
    rows, columns = clip.patch_grid
    assert dense.shape == (2, 1 + rows * columns, 24)
    torch.testing.assert_close(dense[:, 0], pooled)
    torch.testing.assert_close(pooled, reference.encode_image(pixels(size)), atol=1e-5, rtol=0)
    for patch in (0, rows * columns - 1):
        alone = only_patch(reference.visual, pixels(size), patch, columns)
        largest = max(1.0, alone.abs().max().item())  # without a norm over the channels it is 160
        torch.testing.assert_close(dense[:, 1 + patch], alone, atol=1e-5 * largest, rtol=0)


def only_patch(visual: nn.Module, images: Tensor, patch: int, columns: int) -> Tensor:
    """The library's pooling and projection of one patch of the map before them."""
    if not hasattr(visual, "trunk"):
        x = visual.transformer(visual._embeds(images))
        return visual.ln_post(x[:, 1 + patch]) @ visual.proj
    trunk = visual.trunk
    x = trunk.forward_features(images)
    if x.ndim == 4:
        row, column = divmod(patch, columns)
        return visual.head(trunk.forward_head(x[:, :, row : row + 1, column : column + 1]))
    one = x[:, trunk.num_prefix_tokens + patch]
    pooled = trunk.attn_pool(one[:, None]) if trunk.attn_pool is not None else one
    return visual.head(trunk.head(trunk.fc_norm(pooled)))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["plain", "class token", "attention pooling", "rotary"])
def test_selected_patches_are_those_of_the_largest_attention(open_clip_folder: Folder, kind: str) -> None:
    size = sizes(kind)[1]
    clip, reference = built(open_clip_folder(kind), size)[0], library(open_clip_folder(kind), size)
    assert clip.selects_tokens
    pooled, dense, selected = clip.encode_image(pixels(size), return_dense=True, select=Selection(0.5))
    torch.testing.assert_close(pooled, clip.encode_image(pixels(size)))
    row = attention_row(reference.visual, pixels(size))[:, -(dense.shape[1] - 1) :]
    order = row.argsort(dim=1, descending=True)[:, : row.shape[1] // 2]
    expected = dense[torch.arange(2)[:, None], 1 + order]
    torch.testing.assert_close(selected.tokens, expected, atol=1e-5, rtol=0)
    assert selected.mask is None


def attention_row(visual: nn.Module, images: Tensor) -> Tensor:
    """(B, N) the attention by which the library pools, from its code that is not fused."""
    rows: list[Tensor] = []
    if not hasattr(visual, "trunk"):
        block, x = visual.transformer.resblocks[-1], visual._embeds(images)
        for other in visual.transformer.resblocks[:-1]:
            x = other(x)
        x = block.ln_1(x)
        return block.attn(x, x, x, need_weights=True)[1][:, 0]
    trunk = visual.trunk
    if (pool := trunk.attn_pool) is not None:
        x = trunk.forward_features(images)
        query = pool.q(pool.latent).view(pool.num_heads, -1)
        key = pool.kv(x)[..., : x.shape[2]].unflatten(2, (pool.num_heads, -1))
        return (torch.einsum("hd,bnhd->bhn", query, key) * pool.scale).softmax(dim=2).mean(dim=1)
    attention = trunk.blocks[-1].attn
    attention.fused_attn = False
    attention.attn_drop.register_forward_hook(lambda _, inputs, __: rows.append(inputs[0].mean(dim=1)[:, 0]))
    trunk.forward_features(images)
    return rows[0]


@torch.no_grad()
@pytest.mark.parametrize("kind", ["plain", "attention pooling", "average"])
def test_selected_words_are_those_of_the_largest_attention(open_clip_folder: Folder, kind: str) -> None:
    folder = open_clip_folder(kind)
    clip, tokenizer, _ = built(folder, sizes(kind)[1])
    tokens = tokenizer(CAPTIONS)
    _, dense, selected = clip.text(*tokens.values(), True, Selection(0.3))
    text = library(folder, sizes(kind)[1]).text
    x, mask = text._embeds(padded(tokens, tokenizer.pad_token_id))
    x = text.transformer.resblocks[0](x, attn_mask=mask)
    block = text.transformer.resblocks[1]
    x = block.ln_1(x)
    weights = block.attn(x, x, x, attn_mask=mask, need_weights=True)[1]
    for caption, length in enumerate(tokens["attention_mask"].sum(dim=1).tolist()):
        row = weights[caption, 15 if text.pool_type == "last" else length - 1]
        start = 0 if text.pool_type == "last" else 1  # SigLIP's tokenizers have no start token
        words = [word for word in range(start, length - 1) if tokens["input_ids"][caption, word]] or [
            length - 1
        ]
        best = sorted(words, key=lambda word: -row[word])[:4]  # 0.3 of 14 positions
        assert selected.mask[caption].sum() == len(best)
        expected = dense[caption, best]
        torch.testing.assert_close(selected.tokens[caption, : len(best)], expected, atol=1e-5, rtol=0)


def test_towers_without_such_an_attention_say_so(open_clip_folder: Folder) -> None:
    for kind in ("average", "convolutions", "batch norm", "hub"):
        assert not built(open_clip_folder(kind), sizes(kind)[1])[0].selects_tokens


def test_batch_norm_keeps_the_statistics_of_the_weights(
    open_clip_folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        clip = build_open_clip(pretrained=open_clip_folder("batch norm"))[0]
    assert "batch normalisation" in caplog.text
    assert clip.training
    before = {name: buffer.clone() for name, buffer in clip.visual.named_buffers()}
    images = pixels((64, 64), rows=4)
    whole = clip.encode_image(images)
    parts = torch.cat([clip.encode_image(part) for part in images.split(1)])
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-4)
    whole.sum().backward()
    assert all(torch.equal(buffer, before[name]) for name, buffer in clip.visual.named_buffers())
    norm = next(part for part in clip.visual.modules() if isinstance(part, nn.BatchNorm2d))
    assert norm.weight.grad.any()


@pytest.mark.parametrize("kind", ["plain", "attention pooling", "convolutions", "hub"])
def test_a_step_reaches_every_parameter_and_checkpointing_changes_no_gradient(
    open_clip_folder: Folder, kind: str
) -> None:
    gradients = []
    for is_checkpointed in (False, True):
        clip, tokenizer, _ = build_open_clip(
            pretrained=open_clip_folder(kind), logit_bias=True, grad_checkpointing=is_checkpointed
        )
        images, texts = clip.encode_image(pixels(sizes(kind)[0], 3)), clip.encode_text(tokenizer(CAPTIONS))
        logits = F.normalize(images) @ F.normalize(texts).T * clip.logit_scale.exp() + clip.logit_bias
        F.cross_entropy(logits, torch.arange(3)).backward()
        missing = [name for name, parameter in clip.named_parameters() if parameter.grad is None]
        assert not missing
        gradients.append({name: parameter.grad for name, parameter in clip.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("kind", ["plain", "attention pooling", "convolutions", "hub"])
def test_locked_parts_are_those_that_are_named(open_clip_folder: Folder, kind: str) -> None:
    clip = build_open_clip(pretrained=open_clip_folder(kind))[0]
    clip.lock(patch_embedding=True)
    frozen = [name for name, parameter in clip.named_parameters() if not parameter.requires_grad]
    assert frozen
    assert all(name.startswith("visual.tower.") for name in frozen)
    assert len(frozen) < len(list(clip.visual.parameters())) / 2
    clip.lock(image_blocks=1, text_blocks=1)
    parts = clip.lockable()
    assert not any(parameter.requires_grad for parameter in parts.text_blocks[0].parameters())
    assert all(parameter.requires_grad for parameter in parts.text_blocks[1].parameters())
    assert all(parameter.requires_grad for parameter in parts.image_blocks[1].parameters())
    with pytest.raises(UserError, match="lock_text_blocks: expected blocks from 0 to 1, found 2"):
        clip.lock(text_blocks=3)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["plain", "hub"])
def test_dropout_is_on_the_text_towers_attention_weights_in_training(
    open_clip_folder: Folder, kind: str
) -> None:
    clip, tokenizer, _ = build_open_clip(pretrained=open_clip_folder(kind), dropout=0.5)
    tokens, images = tokenizer(CAPTIONS[:2]), pixels((64, 64))
    assert not torch.allclose(clip.encode_text(tokens), clip.encode_text(tokens))
    assert torch.equal(clip.encode_image(images), clip.encode_image(images))
    clip.eval()
    assert torch.equal(clip.encode_text(tokens), clip.encode_text(tokens))
    certain = build_open_clip(pretrained=open_clip_folder(kind))[0]
    torch.testing.assert_close(certain.encode_text(tokens), clip.encode_text(tokens))


@pytest.mark.slow  # towers of 60 to 450 million parameters
@torch.no_grad()
@pytest.mark.parametrize("name", REAL)
def test_models_of_every_family_have_the_features_of_the_library(
    open_clip_folder: Folder, tmp_path: Path, name: str
) -> None:
    import open_clip

    cache = cache_root(open_clip_folder("attention pooling"), tmp_path, f"models--timm--{name}")
    clip, tokenizer, processor = build_open_clip(name, cache_dir=cache)
    settings = {"load_weights": False, "pretrained_text": False, "force_custom_text": True}
    model = open_clip.create_model(name, **settings).eval()
    state = to_openai(clip.eval())[0]
    assert not model.load_state_dict(state, strict=False).unexpected_keys
    tokens, length = tokenizer(CAPTIONS), model.context_length
    theirs = model.encode_text(padded(tokens, tokenizer.pad_token_id, length))
    torch.testing.assert_close(clip.encode_text(tokens), theirs, atol=1e-5, rtol=0)
    images = pixels(processor.image_size)
    torch.testing.assert_close(clip.encode_image(images), model.encode_image(images), atol=1e-5, rtol=0)
    torch.save(state, tmp_path / "weights.pt")
    if "timm_model_name" in clip.config["vision_cfg"]:
        model.visual.set_input_size((384, 128))
    else:
        model = open_clip.create_model(name, **settings, force_image_size=(384, 128)).eval()
        open_clip.load_checkpoint(model, tmp_path / "weights.pt", strict=False)
    other = build_open_clip(name, tmp_path / "weights.pt", cache, image_size=(384, 128))[0].eval()
    images = pixels((384, 128))
    torch.testing.assert_close(other.encode_image(images), model.encode_image(images), atol=1e-5, rtol=0)
