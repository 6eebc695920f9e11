"""Models of `transformers` as a `DualEncoder`, by the `model_type` of their config.json (`FAMILIES`).

The towers are built from the library's `vision_model` and `text_model`, since what its `get_image_features`
returns differs between versions. No code of the hub is run.
"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from model.families import FAMILIES
from model.families.encoder import HubEncoder
from model.processor import INTERPOLATIONS, NORMALIZATIONS, ImageProcessor
from model.protocol import Backbone, Built, DualEncoder, JsonObject
from model.weights.hub_folders import read_config
from model.weights.hub_models import (
    HubModel,
    checkpoint_activations,
    drop_attention_only,
    fill_from_checkpoint,
    to_transformers,
)
from model.weights.shapes import check_image_size, check_setting, check_text_length
from options import Options, UserError
from text_utils.hub_tokenizer import HubTokenizer

if TYPE_CHECKING:
    from transformers import PretrainedConfig

logger = logging.getLogger(__name__)


def build_transformers_clip(
    pretrained: str | Path,
    cache_dir: str | Path | None = None,
    text_length: int | None = None,
    *,
    image_size: tuple[int, int] | None = None,
    cleaning: str | None = None,
    interpolation: str | None = None,
    normalization: str | None = None,
    dropout: float = 0.0,
    embed_dim: int | None = None,
    logit_bias: bool = False,
    checkpoint: str | Path | None = None,
    grad_checkpointing: bool = False,
) -> tuple[HubEncoder, HubTokenizer, ImageProcessor]:
    """The model of a folder, and the tokenizer and image processor that go with it.

    Args:
        pretrained: a model folder, the root of a hub cache, or a hub id; of one of the `FAMILIES`.
        cache_dir: the hub's cache, for an id.
        text_length: tokens of a caption at most, start and end included; None: as in the weights' training.
        image_size: (height, width) that images are resized to, straight; None: the weights' own. Positions
            are resized to it as the library does.
        cleaning, interpolation, normalization: as in the options of section `data`; None: the weights' own.
        dropout: on the text tower's attention weights, in training mode only; there is no other.
        embed_dim: the width that the weights must have; None: any.
        logit_bias: whether there is a learned bias, for the sigmoid loss.
        checkpoint: a checkpoint of this project, in place of the weights of `pretrained`.
        grad_checkpointing: keep only the input of each block, and recompute the block in the backward pass.

    Raises:
        UserError: files that are missing or hold another model; a size that does not fit the weights.
    """
    source = hub_model(pretrained, cache_dir)
    config = source.config()
    family = FAMILIES[config.model_type]
    length = _text_length(family, config, pretrained, text_length)
    processor = _image_processor(source, family, config, image_size, interpolation, normalization)
    check_image_size(processor.image_size, config.vision_config.patch_size)
    tokenizer = _tokenizer(source, length, cleaning or family.cleaning)
    drop_attention_only(config, dropout)
    model = source.random(config) if checkpoint else source.load(config)
    if grad_checkpointing:
        checkpoint_activations(model)
    if hasattr(model, "logit_bias") and not logit_bias:
        logger.info("dropped logit_bias, which only the sigmoid loss uses")
    pad = tokenizer.pad_token_id
    clip = family(model, processor.image_size, length, pad_token_id=pad, logit_bias=logit_bias)
    if clip.text.pooled == "end":
        _check_end(source, config, tokenizer)
    if checkpoint:
        fill_from_checkpoint(clip, checkpoint, family.transformers_class)
    check_setting("embed_dim", embed_dim, clip.embed_dim, pretrained)
    if tokenizer.vocab_size > clip.vocab_size:
        problem = f"has a tokenizer of {tokenizer.vocab_size:,} tokens, but embeddings of {clip.vocab_size:,}"
        raise source.bad(f"{problem}: they belong to different models")
    return clip.train(), tokenizer, processor


def _check_end(source: HubModel, config: "PretrainedConfig", tokenizer: HubTokenizer) -> None:
    """Raise UserError unless a causal tower reads captions at the token that they end with."""
    end, expected = tokenizer(["a"])["input_ids"][0, -1].item(), config.text_config.eos_token_id
    if end != expected:
        raise source.bad(
            f"reads a caption at the token {expected} (eos_token_id), and its tokenizer ends captions with "
            f"{end}: they do not belong together"
        )


def hub_model(pretrained: str | Path, cache_dir: str | Path | None) -> HubModel:
    """The model that `model.transformers_pretrained` names."""
    classes = {model_type: family.transformers_class for model_type, family in FAMILIES.items()}
    expected = f"one of {', '.join(classes)}"
    example = "google/siglip2-base-patch16-naflex"
    return HubModel("model.transformers_pretrained", pretrained, cache_dir, classes, expected, example)


def _text_length(
    family: type[HubEncoder], config: "PretrainedConfig", pretrained: str | Path, asked: int | None
) -> int:
    """Raises UserError for more tokens than there are positions."""
    positions = config.text_config.max_position_embeddings
    check_text_length(asked, positions, pretrained)
    return asked or min(positions, family.native_text_length or positions)


def _tokenizer(source: HubModel, text_length: int, cleaning: str) -> HubTokenizer:
    try:
        return HubTokenizer(str(source.folder), text_length, cleaning=cleaning)
    except ValueError as error:
        advice = "its files (tokenizer.json, tokenizer_config.json) come with the weights"
        raise source.bad(
            f"{error}; {advice}: huggingface-cli download ORG/NAME --local-dir FOLDER"
        ) from error


def _image_processor(
    source: HubModel,
    family: type[HubEncoder],
    config: "PretrainedConfig",
    image_size: tuple[int, int] | None,
    interpolation: str | None,
    normalization: str | None,
) -> ImageProcessor:
    """What is given, else what preprocessor_config.json says, else the family's own; told in the log."""
    name = "preprocessor_config.json"
    saved = read_config(source.folder, name)
    told_by = name if saved else f"{family.transformers_class}'s default: there is no {name}"
    statistics = NORMALIZATIONS[normalization or family.normalization]
    if normalization is None and saved.get("do_normalize") is False:
        statistics = NORMALIZATIONS["none"]
    elif normalization is None and saved:
        mean, deviation = statistics
        own = (saved.get("image_mean", mean), saved.get("image_std", deviation))
        own = tuple([values] * 3 if isinstance(values, int | float) else values for values in own)
        if not all(isinstance(values, list | tuple) and len(values) == 3 for values in own):
            raise source.bad(f"has a {name} with other statistics than of 3 channels: {own}")
        statistics = own
    names = {kind.value: kind_name for kind_name, kind in INTERPOLATIONS.items()}
    interpolation = interpolation or names.get(saved.get("resample"), family.interpolation)
    size = image_size or family.native_image_size(config)
    message = "images: %d x %d pixels, %s, mean %s, deviation %s (where no option says it: %s)"
    logger.info(message, *size, interpolation, *statistics, told_by)
    return ImageProcessor(size, *statistics, interpolation)


def _from_options(options: Options, weights: str | None) -> Built:
    settings, data = options.model, options.data
    if settings.transformers_pretrained is None:
        raise UserError(
            "model.transformers_pretrained: expected a model folder, the root of a Hugging Face cache, or a "
            "model id such as google/siglip2-base-patch16-naflex, found null"
        )
    return build_transformers_clip(
        settings.transformers_pretrained,
        settings.tokenizer_cache_dir,
        options.experiment.text_length,
        image_size=data.image_size,
        cleaning=data.cleaning,
        interpolation=data.interpolation,
        normalization=data.normalization,
        dropout=options.experiment.dropout,
        embed_dim=settings.embed_dim,
        logit_bias=options.experiment.sigmoid,
        checkpoint=weights,
        grad_checkpointing=settings.grad_checkpointing,
    )


def _to_transformers(clip: DualEncoder, options: Options) -> tuple[JsonObject, dict[str, Tensor]]:
    source = hub_model(options.model.transformers_pretrained, options.model.tokenizer_cache_dir)
    return to_transformers(clip, source.folder)


BACKBONE = Backbone(
    title="transformers",
    build=_from_options,
    weights_option="transformers_pretrained",
    to_transformers=_to_transformers,
)
