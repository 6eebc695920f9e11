"""The towers against `open_clip`'s on the same weights, and what they promise beside that."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import Compose, InterpolationMode, Normalize, Resize, ToTensor, v2

from config.data import PREPARATIONS
from model.clip import CLIP, build_clip
from model.processor import NORMALIZATIONS, ImageProcessor
from model.towers.layers import LayerNorm
from options import UserError
from tests.helpers.openai_format import IMAGE_SIZE, SIZES, openai_state_dict, save_torchscript
from text_utils.tokenizer import CLIPTokenizer

CAPTIONS = ["a man in a red shirt", "", "a woman with a long green coat carries two bags", "a red " * 60]


@pytest.fixture(scope="module")
def small() -> tuple[CLIP, CLIPTokenizer]:
    torch.manual_seed(0)
    model, tokenizer, _ = build_clip(image_size=IMAGE_SIZE, **SIZES)
    return model.eval().requires_grad_(False), tokenizer


def open_clip_features(state: dict[str, Tensor], pixels: Tensor) -> tuple[Tensor, Tensor]:
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
    from open_clip.tokenizer import tokenize

    vision = CLIPVisionCfg(layers=2, width=128, patch_size=16, image_size=IMAGE_SIZE[0])
    text = CLIPTextCfg(width=64, heads=1, layers=2)
    model = CLIP(SIZES["embed_dim"], vision, text, quick_gelu=True).eval()
    buffers = ("input_resolution", "context_length", "vocab_size")
    model.load_state_dict({name: tensor.float() for name, tensor in state.items() if name not in buffers})
    with torch.no_grad():
        return model.encode_image(pixels), model.encode_text(tokenize(CAPTIONS))


@pytest.mark.parametrize("half", [True, False])
def test_features_of_openais_format_equal_open_clips(tmp_path, half):
    state = openai_state_dict(half)
    pixels = torch.randn(3, 3, *IMAGE_SIZE)
    image_features, text_features = open_clip_features(state, pixels)
    model, tokenizer, _ = build_clip(save_torchscript(state, tmp_path / "ViT.pt"), image_size=IMAGE_SIZE)
    model.eval()
    with torch.no_grad():
        assert (model.encode_image(pixels) - image_features).abs().max() < 1e-4
        assert (model.encode_text(tokenizer(CAPTIONS)) - text_features).abs().max() < 1e-4
    assert image_features.std() > 0.1
    assert text_features.std() > 0.1


def test_the_default_model_is_vit_b_16_with_149620737_parameters():
    with torch.device("meta"):
        model, _, processor = build_clip()
    assert sum(parameter.numel() for parameter in model.parameters()) == 149_620_737
    assert (model.embed_dim, model.logit_bias, processor.image_size) == (512, 0.0, (224, 224))
    assert "logit_bias" not in model.state_dict()


def test_dense_tokens_hold_the_pooled_feature(small):
    model, tokenizer = small
    pixels, tokens = torch.randn(2, 3, *IMAGE_SIZE), tokenizer(CAPTIONS)
    pooled, dense = model.encode_image(pixels, return_dense=True)
    assert dense.shape == (2, 1 + 16, model.embed_dim)
    torch.testing.assert_close(pooled, dense[:, 0])
    torch.testing.assert_close(pooled, model.encode_image(pixels))
    pooled, dense = model.encode_text(tokens, return_dense=True)
    assert dense.shape == (4, 77, model.embed_dim)
    ends = (tokens["input_ids"] == 49_407).int().argmax(dim=1)
    torch.testing.assert_close(pooled, dense[torch.arange(4), ends])
    torch.testing.assert_close(pooled, model.encode_text(tokens))


def test_trimming_a_batch_to_its_longest_caption_changes_no_feature(small):
    model, tokenizer = small
    together = model.encode_text(tokenizer(CAPTIONS))
    alone = torch.cat([model.encode_text(tokenizer([caption])) for caption in CAPTIONS])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_a_text_token_does_not_see_those_after_it(small):
    model, tokenizer = small
    _, red = model.encode_text(tokenizer(["a man in red"]), return_dense=True)
    _, blue = model.encode_text(tokenizer(["a man in blue"]), return_dense=True)
    torch.testing.assert_close(red[:, :4], blue[:, :4])
    assert (red[:, 4:] - blue[:, 4:]).abs().max() > 1e-3


def test_dropout_acts_on_the_text_tower_in_training_only():
    model, tokenizer, _ = build_clip(image_size=IMAGE_SIZE, dropout=0.5, **SIZES)
    pixels, tokens = torch.randn(1, 3, *IMAGE_SIZE), tokenizer(CAPTIONS)
    with torch.no_grad():
        assert not torch.allclose(model.encode_text(tokens), model.encode_text(tokens))
        assert torch.equal(model.encode_image(pixels), model.encode_image(pixels))
        model.eval()
        assert torch.equal(model.encode_text(tokens), model.encode_text(tokens))


def test_a_random_start_has_openais_deviations_and_is_decided_by_the_seed(small):
    model, _ = small
    torch.manual_seed(0)
    again, _, _ = build_clip(image_size=IMAGE_SIZE, **SIZES)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    block = model.visual.transformer.resblocks[1]
    expected = {
        block.attn.in_proj_weight: 128**-0.5,
        block.attn.out_proj.weight: 128**-0.5 / 2,
        block.mlp.c_fc.weight: 256**-0.5,
        block.mlp.c_proj.weight: 128**-0.5 / 2,
        model.visual.proj: 128**-0.5,
        model.text.token_embedding.weight: 0.02,
        model.text.positional_embedding: 0.01,
        model.text.text_projection: 64**-0.5,
    }
    for parameter, std in expected.items():
        assert parameter.std().item() == pytest.approx(std, rel=0.05)
    assert model.logit_scale.item() == pytest.approx(math.log(1 / 0.07))


def test_the_norm_works_in_fp32_and_answers_in_the_type_of_its_input():
    x = torch.randn(4, 64) + 100
    norm = LayerNorm(64)
    assert norm(x.bfloat16()).dtype == torch.bfloat16
    torch.testing.assert_close(norm(x.bfloat16()), norm(x.bfloat16().float()).bfloat16())


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"image_size": (224, 100)}, "data.image_size.* 16, found 224, 100"),
        ({"image_width": 96}, "model.image_heads.* 96"),
        ({"text_width": 100}, "model.text_heads.* 100"),
        ({"text_width": 128, "text_heads": 3}, "model.text_heads.* 128.* 3"),
        ({"vocab_size": 1000}, "model.vocab_size.* 49408 .*1000"),
        ({"normalization": "zero"}, "data.normalization.*imagenet, clip.*'zero'"),
        ({"interpolation": "none"}, "data.interpolation.*bicubic, bilinear.*'none'"),
    ],
)
def test_sizes_that_can_not_be_are_errors_of_the_option(sizes, message):
    with pytest.raises(UserError, match=message):
        build_clip(**sizes)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_the_processor_is_torchvisions_resize_and_normalisation(mode, interpolation):
    random = np.random.default_rng(0)
    image = Image.fromarray(random.integers(0, 256, (90, 40, 3), dtype=np.uint8)).convert(mode)
    processor = ImageProcessor((64, 32), *NORMALIZATIONS["clip"], interpolation)
    resize = v2.Resize((64, 32), InterpolationMode(interpolation), antialias=True)
    normalize = v2.Normalize(processor.image_mean, processor.image_std)
    prepare = v2.Compose([resize, v2.ToImage(), v2.ToDtype(torch.float32, scale=True), normalize])
    expected = prepare(image.convert("RGB"))
    pixels = processor(images=[image, image], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(pixels, torch.stack([expected, expected]))
    assert processor.image_mean[0] == 0.48145466


@pytest.mark.parametrize("size", [(20, 11), (384, 128), (301, 77), (700, 350)])
def test_the_preparation_of_irra_is_torchvisions_with_its_defaults(size):
    """As its release evaluates images: smaller ones, larger ones, and those that have the size already."""
    pixels = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    _, *settings = PREPARATIONS["irra"]
    of_build = dict(zip(("interpolation", "normalization", "image_size"), settings, strict=True))
    _, _, processor = build_clip(**of_build, **SIZES)
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    release = Compose([Resize((384, 128)), ToTensor(), Normalize(mean, std)])
    expected = release(Image.fromarray(pixels))
    torch.testing.assert_close(processor(images=[Image.fromarray(pixels)])["pixel_values"][0], expected)
