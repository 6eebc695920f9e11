"""The heat map: checked by finite differences, against transformers, and on towers set by hand."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from misc.search.explain import explain, overlay, patch_relevance
from model.altclip_adapter import build_altclip_clip
from model.clip import build_clip
from model.objectives import TSE
from model.protocol import DualEncoder, Processor
from model.tbps import TBPS
from model.towers.vision import VisionTransformer
from options import UserError
from tests.helpers.altclip_folders import IMAGE_SIZE, PATCH_SIZE

SIZES = {"patch_size": 8, "image_width": 16, "image_layers": 3, "image_heads": 2, "text_width": 16}
SIZES |= {"text_layers": 1, "text_heads": 2, "embed_dim": 8}
GREY, RED = (128, 128, 128), (255, 0, 0)
Towers = tuple[DualEncoder, Processor]


def encoder_of(clip: DualEncoder, processor: Processor, text: Tensor | None = None) -> SimpleNamespace:
    """What `explain` needs of an encoder; every sentence has the feature `text`."""
    clip = clip.eval().requires_grad_(False)
    return SimpleNamespace(
        model=SimpleNamespace(embed=clip.encode_image, clip=clip),
        device=torch.device("cpu"),
        processor=processor,
        tokenizer=SimpleNamespace(clean=lambda text: text.strip(" .")),
        encode_texts=lambda captions: text[None],
    )


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8))


def small_clip() -> Towers:
    torch.manual_seed(0)
    clip, _, processor = build_clip(None, (24, 16), **SIZES)
    for parameter in clip.parameters():  # larger than at initialisation, with biases
        parameter.data += 0.1 * torch.randn_like(parameter)
    return clip, processor


def score_by_hand(tower: VisionTransformer, pixels: Tensor, text: Tensor, changes: Tensor) -> tuple:
    """(cosine, attentions) in float64, with `changes` (layers, heads, L, L) added to the attentions."""
    weights = {name: value.detach().double() for name, value in tower.named_parameters()}
    tokens = F.conv2d(pixels, weights["conv1.weight"], stride=8).flatten(2)[0].T
    x = torch.cat([weights["class_embedding"][None], tokens]) + weights["positional_embedding"]

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"])

    def linear(x: Tensor, name: str, kind: str = ".") -> Tensor:
        return x @ weights[f"{name}{kind}weight"].T + weights[f"{name}{kind}bias"]

    x, attentions = norm(x, "ln_pre"), []
    for layer, change in enumerate(changes):
        at = f"transformer.resblocks.{layer}"
        query, key, value = linear(norm(x, f"{at}.ln_1"), f"{at}.attn.in_proj", "_").chunk(3, dim=-1)
        heads = []
        for head, part in enumerate((slice(0, 8), slice(8, 16))):
            attention = torch.softmax(query[:, part] @ key[:, part].T / 8**0.5, dim=-1)
            attentions.append(attention)
            heads.append((attention + change[head]) @ value[:, part])
        x = x + linear(torch.cat(heads, dim=-1), f"{at}.attn.out_proj")
        hidden = linear(norm(x, f"{at}.ln_2"), f"{at}.mlp.c_fc")
        x = x + linear(hidden * torch.sigmoid(1.702 * hidden), f"{at}.mlp.c_proj")
    feature = norm(x[0], "ln_post") @ weights["proj"]
    return float(feature @ text / feature.norm() / text.norm()), torch.stack(attentions)


def rollout(attentions: Tensor, gradients: Tensor) -> Tensor:
    """The rules of the paper, token by token; (layers, heads, L, L) both."""
    length = attentions.shape[-1]
    relevance = np.eye(length)
    for layer, gradient in zip(attentions.numpy(), gradients.numpy(), strict=True):
        added = np.zeros_like(relevance)
        for i in range(length):
            for j in range(length):
                share = np.mean([max(0.0, g[i, j] * a[i, j]) for a, g in zip(layer, gradient, strict=True)])
                added[i] += share * relevance[j]
        relevance = relevance + added
    return torch.from_numpy(relevance[0, 1:])


def test_the_rollout_of_clip_is_the_papers_with_gradients_by_finite_differences() -> None:
    clip, processor = small_clip()
    image, text = noise(16, 24), torch.randn(8)
    found = patch_relevance(encoder_of(clip, processor), image, text)
    pixels = processor(images=[image])["pixel_values"].double()
    changes, step = torch.zeros(3, 2, 7, 7, dtype=torch.float64), 1e-6
    _, attentions = score_by_hand(clip.visual, pixels, text.double(), changes)
    gradients = torch.zeros_like(changes)
    for place in np.ndindex(*changes.shape):
        scores = []
        for sign in (1, -1):
            changes[place] = sign * step
            scores.append(score_by_hand(clip.visual, pixels, text.double(), changes)[0])
        changes[place] = 0
        gradients[place] = (scores[0] - scores[1]) / (2 * step)
    expected = rollout(attentions.view_as(changes), gradients).view(3, 2)
    assert expected.max() > 10 * expected.min()
    torch.testing.assert_close(found.double(), expected, atol=1e-7, rtol=1e-3)


def test_the_rollout_of_altclip_is_over_the_attentions_that_transformers_returns(folder: Path) -> None:
    clip, _, processor = build_altclip_clip(folder, image_size=(IMAGE_SIZE, IMAGE_SIZE))
    image, text = noise(IMAGE_SIZE, IMAGE_SIZE), torch.randn(clip.embed_dim)
    found = patch_relevance(encoder_of(clip, processor), image, text)
    tower = clip.visual.vision_model
    tower.config._attn_implementation = "eager"
    pixels = processor(images=[image])["pixel_values"].requires_grad_()
    output = tower(pixel_values=pixels, output_attentions=True)
    feature = clip.visual.visual_projection(output.pooler_output)[0]
    score = feature @ text / feature.norm() / text.norm()
    gradients = torch.autograd.grad(score, output.attentions)
    expected = rollout(torch.cat(output.attentions).detach(), torch.cat(gradients))
    side = IMAGE_SIZE // PATCH_SIZE
    torch.testing.assert_close(found, expected.view(side, side).float(), atol=1e-7, rtol=1e-3)


def test_explaining_changes_no_feature_and_leaves_no_gradient() -> None:
    clip, processor = small_clip()
    pixels = processor(images=[noise(16, 24)])["pixel_values"]
    before = clip.encode_image(pixels)
    encoder = encoder_of(clip, processor)
    with torch.no_grad():  # as a server would
        patch_relevance(encoder, noise(16, 24), torch.randn(8))
    assert torch.equal(clip.encode_image(pixels), before)
    assert all(parameter.grad is None for parameter in clip.parameters())


@pytest.fixture
def red_detector() -> Towers:
    """A tower of one layer, set by hand: the class token attends to red, and carries it to axis 0."""
    image_sizes = {"image_width": 8, "image_layers": 1, "image_heads": 1}
    clip, _, processor = build_clip(None, (32, 16), **(SIZES | image_sizes))
    tower, block = clip.visual, clip.visual.transformer.resblocks[0]
    for parameter in (*tower.parameters(), block.attn.in_proj_weight):
        parameter.data.zero_()
    for norm in (tower.ln_pre, block.ln_1, block.ln_2, tower.ln_post):
        norm.weight.data.fill_(1)
    tower.conv1.weight.data[0, 0] = 1 / 8  # axis 0: red
    tower.conv1.weight.data[1, 1:] = 1 / 8  # axis 1: the other two
    tower.class_embedding.data[2] = 4
    block.attn.in_proj_bias.data[0] = 4  # every query is axis 0,
    block.attn.in_proj_weight.data[8] = torch.eye(8)[0]  # every key what axis 0 holds,
    block.attn.in_proj_weight.data[16:] = torch.eye(8)  # and every value the token itself
    block.attn.out_proj.weight.data = torch.eye(8)
    tower.proj.data = torch.eye(8)
    return clip, processor


@pytest.mark.parametrize("patch", [(0, 0), (0, 1), (2, 1), (3, 0)])
def test_the_patch_that_decides_is_the_brightest(red_detector: Towers, patch: tuple[int, int]) -> None:
    row, column = patch
    image = Image.new("RGB", (16, 32), GREY)
    image.paste(RED, (8 * column, 8 * row, 8 * column + 8, 8 * row + 8))
    heat = explain(encoder_of(*red_detector, torch.eye(8)[0]), image, "red")
    assert heat.shape == (32, 16)
    assert (heat.min(), heat.max()) == (0, 1)
    inside = heat[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
    assert inside.min() > 0.2
    assert np.unravel_index(heat.argmax(), heat.shape)[0] // 8 == row
    assert heat.sum() < 2.5 * inside.sum()


@pytest.mark.parametrize("patch", [(0, 1), (2, 0)])
def test_the_patch_that_token_selection_reads_is_the_brightest(
    red_detector: Towers, patch: tuple[int, int]
) -> None:
    clip, processor = red_detector
    clip.visual.transformer.resblocks[0].attn.out_proj.weight.data.zero_()  # the class token carries nothing
    tse = TSE(8, 2, share=0.5)
    for parameter in tse.head["image"].parameters():
        parameter.data.zero_()
    tse.head["image"].residual.weight.data[:, :2] = torch.eye(2)  # red, and the other two colours
    row, column = patch
    image = Image.new("RGB", (16, 32), GREY)
    image.paste(RED, (8 * column, 8 * row, 8 * column + 8, 8 * row + 8))
    encoder = encoder_of(clip, processor, torch.eye(10)[8])
    encoder.model.embed = TBPS(clip, {"tse": tse}, {"tse": 1.0}).eval().embed
    relevance = patch_relevance(encoder, image, torch.eye(10)[8])
    assert relevance.argmax() == 2 * row + column
    assert relevance.sum() == relevance.max() > 0
    assert explain(encoder, image, "red")[8 * row : 8 * row + 8, 8 * column : 8 * column + 8].max() == 1


def test_a_patch_that_lowers_the_score_is_dark(red_detector: Towers) -> None:
    image = Image.new("RGB", (16, 32), (0, 255, 255))
    image.paste(RED, (0, 16, 8, 24))
    red = torch.eye(8)[0]
    for_red, against = (explain(encoder_of(*red_detector, text), image, "red") for text in (red, -red))
    assert for_red[16:24, 0:8].mean() > 2 * for_red.mean()
    assert against[16:24, 0:8].mean() < 0.5 * against.mean()


def test_the_heat_is_zero_where_no_patch_raises_the_score(red_detector: Towers) -> None:
    image = Image.new("RGB", (16, 32), RED)
    assert not explain(encoder_of(*red_detector, -torch.eye(8)[0]), image, "anything but red").any()


def test_the_heat_has_the_size_of_the_image_that_was_given() -> None:
    clip, processor = small_clip()
    heat = explain(encoder_of(clip, processor, torch.randn(8)), noise(61, 97), "a man")
    assert (heat.shape, heat.dtype) == ((97, 61), np.float32)


def test_what_the_preprocessing_of_altclip_crops_off_is_dark(folder: Path) -> None:
    clip, _, processor = build_altclip_clip(folder)
    encoder = encoder_of(clip, processor, torch.randn(clip.embed_dim))
    heat = explain(encoder, noise(40, 100), "a man")
    assert heat.shape == (100, 40)
    assert not heat[:30].any()
    assert not heat[70:].any()
    assert heat[30:70].max() == 1


def test_a_sentence_without_words_is_refused() -> None:
    with pytest.raises(UserError, match="no words"):
        explain(encoder_of(*small_clip()), noise(16, 24), " ... ")


def test_the_overlay_is_grey_at_no_heat_and_bright_at_full_heat() -> None:
    heat = np.zeros((10, 20), np.float32)
    heat[:, 10:] = 1
    pixels = np.asarray(overlay(Image.new("RGB", (20, 10), (40, 90, 10)), heat))
    assert pixels.shape == (10, 20, 3)
    assert len({*pixels[0, 0].tolist()}) == 1
    assert pixels[0, 15].sum() > 2 * pixels[0, 0].sum()


def test_a_tower_without_attention_is_a_user_error() -> None:
    clip, processor = small_clip()
    encoder = encoder_of(clip, processor, torch.ones(8))
    encoder.model.embed = nn.Sequential(nn.Flatten(), nn.Linear(3 * 24 * 16, 8))
    with pytest.raises(UserError, match="no attention"):
        explain(encoder, noise(20, 30), "a man")


class Pooled(nn.Module):
    """Two patches of 8 x 8, a layer of `nn.MultiheadAttention`, and an attention pooling or the mean."""

    def __init__(self, pooling: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.pooling, self.patch_grid = pooling, (2, 1)
        self.patches = nn.Conv2d(3, 8, 8, 8)
        self.layer, self.pool = (nn.MultiheadAttention(8, 2, batch_first=True) for _ in range(2))
        self.query = nn.Parameter(torch.randn(1, 1, 8))

    def encode_image(self, pixels: Tensor) -> Tensor:
        x = self.patches(pixels).flatten(2).transpose(1, 2)
        x = x + self.layer(x, x, x, need_weights=False)[0]
        return self.pool(self.query, x, x)[0][:, 0] if self.pooling == "attention" else x.mean(dim=1)

    def by_hand(self, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The feature, and the attention of each layer (heads, Q, L)."""

        def attend(attention: nn.MultiheadAttention, query: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
            weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
            q, k, v = (y @ w.T + b for y, w, b in zip((query, x, x), weights, biases, strict=True))
            heads = (slice(0, 4), slice(4, 8))
            shares = torch.stack([torch.softmax(q[:, h] @ k[:, h].T / 2, dim=-1) for h in heads])
            mixed = torch.cat([share @ v[:, h] for share, h in zip(shares, heads, strict=True)], dim=1)
            return attention.out_proj(mixed), shares

        x = self.patches(pixels).flatten(2)[0].T
        added, first = attend(self.layer, x, x)
        x = x + added
        if self.pooling == "mean":
            return x.mean(dim=0), [first]
        feature, second = attend(self.pool, self.query[0], x)
        return feature[0], [first, second]


@pytest.mark.parametrize("pooling", ["attention", "mean"])
def test_an_attention_pooling_and_a_mean_have_rows_of_their_own(pooling: str) -> None:
    clip, (_, processor) = Pooled(pooling), small_clip()
    processor.image_size = processor.view_size = (16, 8)
    image, text = noise(8, 16), torch.randn(8)
    found = patch_relevance(encoder_of(clip, processor), image, text)
    feature, attentions = clip.by_hand(processor(images=[image])["pixel_values"].requires_grad_())
    score = F.cosine_similarity(feature, text, dim=0)
    gradients = torch.autograd.grad(score, attentions)
    shares = [(a * g).clamp(min=0).mean(0) for a, g in zip(attentions, gradients, strict=True)]
    below = torch.eye(2) + (shares[0] if pooling == "attention" else 0)
    expected = shares[1] @ below if pooling == "attention" else (below.mean(0) + shares[0].sum(0))
    assert expected.max() > 0
    torch.testing.assert_close(found.flatten(), expected.flatten().detach(), atol=1e-7, rtol=1e-4)
