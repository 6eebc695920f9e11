"""CLIP (Radford et al. 2021, arXiv 2103.00020): an image and a text tower that share one embedding space."""

import contextlib
import dataclasses
import logging
import math
from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor, nn

from model.processor import INTERPOLATIONS, NORMALIZATIONS, ImageProcessor
from model.protocol import Backbone, Built, DualEncoder, Lockable
from model.towers.text import TextTransformer
from model.towers.vision import VisionTransformer
from model.weights.hf_clip import to_transformers
from model.weights.open_clip import to_openai
from model.weights.pretrained import ClipWeights, load_clip_weights
from model.weights.shapes import ClipShape, check_image_size, check_memory, check_setting, openai_heads
from options import Options, UserError
from text_utils.tokenizer import CLIPTokenizer

logger = logging.getLogger(__name__)
LOGIT_BIAS = -10.0


class CLIP(DualEncoder):
    """OpenAI's towers.

    Attributes:
        logit_scale: starts at ln(1 / 0.07), or at ln(10) with a bias.
        logit_bias: learned, from -10, with the sigmoid loss (SigLIP's start); elsewhere the number 0.0, since
            a bias does not change a softmax.
    """

    selects_tokens = rolls_out = shows_blocks = True
    transformers_class = "CLIPModel"

    def __init__(self, visual: VisionTransformer, text: TextTransformer, logit_bias: bool = False) -> None:
        super().__init__()
        self.visual = visual
        self.text = text
        self.logit_scale = nn.Parameter(torch.tensor(math.log(10.0 if logit_bias else 1 / 0.07)))
        self.logit_bias = nn.Parameter(torch.tensor(LOGIT_BIAS)) if logit_bias else 0.0
        self.embed_dim = visual.proj.shape[1]
        self.patch_grid = visual.grid
        self.vocab_size = text.token_embedding.num_embeddings

    def hidden_settings(self) -> dict[str, tuple[object, object]]:
        """See `DualEncoder.hidden_settings`."""
        image, text = self.visual.transformer, self.text.transformer
        return {
            "image_heads": (image.heads, openai_heads(len(self.visual.class_embedding))),
            "text_heads": (text.heads, openai_heads(self.text.token_embedding.embedding_dim)),
            "activation": (image.activation, ClipShape.activation),
        }

    def lockable(self) -> Lockable:
        """See `DualEncoder.lockable`."""
        image, text = self.visual, self.text
        return Lockable(
            image.conv1,
            (image.conv1, image.class_embedding, image.positional_embedding, image.ln_pre),
            image.transformer.resblocks,
            (text.token_embedding, text.positional_embedding),
            text.transformer.resblocks,
        )


def build_clip(
    pretrained: str | Path | None = None,
    image_size: tuple[int, int] = (224, 224),
    text_length: int = 77,
    dropout: float = 0.0,
    *,
    normalization: str = "imagenet",
    interpolation: str = "bicubic",
    logit_bias: bool = False,
    grad_checkpointing: bool = False,
    cleaning: str = "tbps-clip",
    **sizes: int | str | None,
) -> tuple[CLIP, CLIPTokenizer, ImageProcessor]:
    """The model, and the tokenizer and image processor that go with it.

    Args:
        pretrained: a file or folder that `load_clip_weights` reads; None starts at random, from torch's seed.
        image_size: (height, width) in pixels. Position embeddings of the weights are resized to it.
        text_length: tokens of a caption, start and end included. Positions are resized to it too.
        dropout: on the text tower's attention weights, in training mode only.
        normalization: statistics of the images, "imagenet" or "clip".
        interpolation: how the processor resizes images, "bicubic" or "bilinear".
        logit_bias: whether there is a learned bias, for the sigmoid loss.
        grad_checkpointing: keep only the input of each block, and recompute the block in the backward pass.
        cleaning: how the tokenizer cleans captions, a name of `CLEANINGS`.
        sizes: fields of `ClipShape`; None or missing: as in the weights, or ViT-B/16's where there are none.

    Raises:
        UserError: weights that cannot be loaded; a size that differs from theirs, an image size that is no
            multiple of the patch, a width that is no multiple of the heads.
    """
    for name, value, known in (
        ("normalization", normalization, NORMALIZATIONS),
        ("interpolation", interpolation, INTERPOLATIONS),
    ):
        if value not in known:
            raise UserError(f"data.{name}: expected one of {', '.join(known)}, found {value!r}.")
    given = {name: value for name, value in sizes.items() if value is not None}
    weights = None if pretrained is None else load_clip_weights(pretrained, image_size)
    shape = _resolve_shape(given, weights)
    height, width = image_size
    check_image_size(image_size, shape.patch_size)
    if weights is None:
        check_memory(shape)
    # On the meta device parameters take neither memory nor time; the weights replace them.
    with torch.device("meta") if weights else contextlib.nullcontext():
        model = CLIP(*shape.towers((height, width), text_length, dropout), logit_bias)
    if weights:
        grid = (height // shape.patch_size, width // shape.patch_size)
        tensors = weights.fitted_to(grid, text_length)
        model.load_state_dict(_with_or_without_bias(tensors, logit_bias), assign=True)
    for tower in (model.visual, model.text):
        tower.transformer.grad_checkpointing = grad_checkpointing
    processor = ImageProcessor((height, width), *NORMALIZATIONS[normalization], interpolation)
    return model, CLIPTokenizer(text_length, cleaning), processor


def _resolve_shape(given: dict[str, int | str], weights: ClipWeights | None) -> ClipShape:
    """The sizes of the weights, or ViT-B/16's, replaced by those that are given, with the number of heads."""
    shape = weights.shape if weights else ClipShape()
    for name, value in given.items():
        if weights and name not in weights.assumed:
            check_setting(name, value, getattr(shape, name), weights.path)
    if weights and not weights.is_release:
        _say_what_is_assumed(weights, given)
    shape = dataclasses.replace(shape, **given)
    needed, found = CLIPTokenizer.vocab_size, shape.vocab_size
    if found < needed:
        raise UserError(f"model.vocab_size: expected at least {needed} (the tokenizer's), found {found}.")
    image_heads = _num_heads("image", shape.image_width, shape.image_heads)
    text_heads = _num_heads("text", shape.text_width, shape.text_heads)
    return dataclasses.replace(shape, image_heads=image_heads, text_heads=text_heads)


def _say_what_is_assumed(weights: ClipWeights, given: Collection[str]) -> None:
    """Warn of what no tensor shows and nothing tells; heads that cannot be guessed are an error later."""
    names = sorted(weights.assumed - set(given))
    values = {name: getattr(weights.shape, name) for name in names}
    if said := ", ".join(f"model.{name}={value}" for name, value in values.items() if value is not None):
        logger.warning(
            "weights '%s': nothing in the file or beside it tells %s; assumed: %s. OpenAI's weights have "
            "quick_gelu, those of LAION and DataComp mostly gelu: set these options to what the weights have",
            *(weights.path, ", ".join(names), said),
        )


def _with_or_without_bias(tensors: dict[str, Tensor], logit_bias: bool) -> dict[str, Tensor]:
    """The weights with a bias if the model has one, else without."""
    if logit_bias and "logit_bias" not in tensors:
        logger.info("the weights have no logit_bias: it starts at %g", LOGIT_BIAS)
    if not logit_bias and "logit_bias" in tensors:
        logger.info("dropped logit_bias, which only the sigmoid loss uses")
    kept = {name: tensor for name, tensor in tensors.items() if name != "logit_bias"}
    return kept | {"logit_bias": tensors.get("logit_bias", torch.tensor(LOGIT_BIAS))} if logit_bias else kept


def _num_heads(tower: str, width: int, heads: int | None) -> int:
    if heads is None and width % 64:
        raise UserError(
            f"model.{tower}_heads: null means model.{tower}_width / 64, but {width} is no multiple of 64. "
            "Set a divisor of it."
        )
    heads = heads or width // 64
    if width % heads:
        expected = f"expected a divisor of model.{tower}_width, {width}, found {heads}"
        raise UserError(f"model.{tower}_heads: {expected}.")
    return heads


def _from_options(options: Options, weights: str | None) -> Built:
    settings = options.model
    sizes = {size.name: getattr(settings, size.name) for size in dataclasses.fields(ClipShape)}
    return build_clip(
        weights or settings.clip_pretrained,
        image_size=options.data.image_size,
        text_length=options.experiment.text_length,
        dropout=options.experiment.dropout,
        normalization=options.data.normalization,
        interpolation=options.data.interpolation,
        logit_bias=options.experiment.sigmoid,
        grad_checkpointing=settings.grad_checkpointing,
        cleaning=options.data.cleaning,
        **sizes,
    )


BACKBONE = Backbone(
    title="CLIP",
    build=_from_options,
    weights_option="clip_pretrained",
    to_transformers=to_transformers,
    to_openai=to_openai,
)
