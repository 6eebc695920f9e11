"""CLIP (Radford et al. 2021, arXiv 2103.00020): an image and a text tower that share one embedding space."""

import contextlib
import dataclasses
import math
from pathlib import Path

import torch
from torch import Tensor, nn

from model.pretrained import ClipWeights, load_clip_weights
from model.processor import NORMALIZATIONS, ImageProcessor
from model.shapes import ClipShape
from model.text import TextTransformer
from model.vision import VisionTransformer
from options import UserError
from text_utils.tokenizer import CLIPTokenizer


class CLIP(nn.Module):
    """The two towers and the scale of their cosine similarities.

    Attributes:
        logit_scale: learned logarithm of the scale, started at ln(1 / 0.07).
        logit_bias: 0.0, a plain number, for whoever computes `scale * cosine + logit_bias`. A softmax does
            not feel a bias, so it is no parameter and lies in no checkpoint.
        embed_dim: D, the width of the shared space.
    """

    def __init__(self, visual: VisionTransformer, text: TextTransformer) -> None:
        super().__init__()
        self.visual = visual
        self.text = text
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.logit_bias = 0.0
        self.embed_dim = visual.proj.shape[1]

    def encode_image(
        self, pixel_values: Tensor, return_dense: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """(B, 3, H, W) -> features (B, D), not normalised; with `return_dense` also those of the class token
        and the P patches, (B, 1 + P, D).
        """
        return self.visual(pixel_values, return_dense)

    def encode_text(
        self, tokens: dict[str, Tensor], return_dense: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """What the tokenizer returned -> features (B, D), not normalised; with `return_dense` also those of
        all tokens, (B, L, D), padding included.
        """
        return self.text(tokens["input_ids"], tokens["attention_mask"], return_dense)


def build_clip(
    pretrained: str | Path | None = None,
    image_size: tuple[int, int] = (224, 224),
    text_length: int = 77,
    dropout: float = 0.0,
    *,
    normalization: str = "imagenet",
    patch_size: int | None = None,
    image_width: int | None = None,
    image_layers: int | None = None,
    image_heads: int | None = None,
    text_width: int | None = None,
    text_layers: int | None = None,
    text_heads: int | None = None,
    embed_dim: int | None = None,
    vocab_size: int | None = None,
) -> tuple[CLIP, CLIPTokenizer, ImageProcessor]:
    """The model, and the tokenizer and image processor that go with it.

    Args:
        pretrained: a file that `load_clip_weights` reads; None starts at random, from torch's seed.
        image_size: (height, width) in pixels. Position embeddings of the weights are resized to it.
        text_length: tokens of a caption, start and end included. Positions are resized to it too.
        dropout: on the text tower's attention weights, in training mode only.
        normalization: statistics of the images, "imagenet" or "clip".
        patch_size, ..., vocab_size: None is read off the weights, or ViT-B/16's where there are none.

    Raises:
        UserError: weights that can not be loaded; a size that disagrees with them, that the patch does not
            divide, or that the heads do not divide.
    """
    if normalization not in NORMALIZATIONS:
        choices = ", ".join(NORMALIZATIONS)
        raise UserError(f"data.normalization: one of {choices} is expected, not {normalization!r}.")
    given = {
        "patch_size": patch_size,
        "image_width": image_width,
        "image_layers": image_layers,
        "image_heads": image_heads,
        "text_width": text_width,
        "text_layers": text_layers,
        "text_heads": text_heads,
        "embed_dim": embed_dim,
        "vocab_size": vocab_size,
    }
    weights = None if pretrained is None else load_clip_weights(pretrained)
    shape = _settle_shape({name: value for name, value in given.items() if value is not None}, weights)
    height, width = image_size
    if height % shape.patch_size or width % shape.patch_size:
        raise UserError(
            f"data.image_size: multiples of patch {shape.patch_size} are expected, not {height}, {width}."
        )
    # On the meta device parameters cost neither memory nor time: the weights take their places.
    with torch.device("meta") if weights else contextlib.nullcontext():
        model = _towers(shape, (height, width), text_length, dropout)
    if weights:
        grid = (height // shape.patch_size, width // shape.patch_size)
        model.load_state_dict(weights.fitted_to(grid, text_length), assign=True)
    processor = ImageProcessor((height, width), *NORMALIZATIONS[normalization])
    return model, CLIPTokenizer(text_length), processor


def _towers(shape: ClipShape, image_size: tuple[int, int], text_length: int, dropout: float) -> CLIP:
    visual = VisionTransformer(
        image_size,
        patch_size=shape.patch_size,
        width=shape.image_width,
        layers=shape.image_layers,
        heads=shape.image_heads,
        embed_dim=shape.embed_dim,
    )
    text = TextTransformer(
        text_length,
        vocab_size=shape.vocab_size,
        width=shape.text_width,
        layers=shape.text_layers,
        heads=shape.text_heads,
        embed_dim=shape.embed_dim,
        dropout=dropout,
    )
    return CLIP(visual, text)


def _settle_shape(given: dict[str, int], weights: ClipWeights | None) -> ClipShape:
    """The weights' sizes, or ViT-B/16's, with those that are given, and the heads filled in."""
    shape = weights.shape if weights else ClipShape()
    for name, value in given.items():
        known = getattr(shape, name)
        if weights and known not in (None, value):
            raise UserError(
                f"model.{name}: {value} is set, but the weights '{weights.path}' have {known}. "
                "Set it to null to take it from them."
            )
    shape = dataclasses.replace(shape, **given)
    needed = CLIPTokenizer.vocab_size
    if shape.vocab_size < needed:
        raise UserError(f"model.vocab_size: the tokenizer needs {needed} at least, not {shape.vocab_size}.")
    return dataclasses.replace(
        shape,
        image_heads=_settle_heads("image", shape.image_width, shape.image_heads),
        text_heads=_settle_heads("text", shape.text_width, shape.text_heads),
    )


def _settle_heads(tower: str, width: int, heads: int | None) -> int:
    if heads is None and width % 64:
        raise UserError(
            f"model.{tower}_heads: null means model.{tower}_width / 64, but 64 does not divide {width}. "
            "Set a number that does."
        )
    heads = heads or width // 64
    if width % heads:
        raise UserError(
            f"model.{tower}_heads: a divisor of model.{tower}_width, {width}, is expected, not {heads}."
        )
    return heads
