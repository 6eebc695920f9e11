"""Any two-tower model of open_clip as a `DualEncoder`: SigLIP, EVA-02, PE-Core, MobileCLIP, ConvNeXt."""

import copy
import logging
import math
from pathlib import Path

import torch
from torch import Tensor, nn

from model.clip import LOGIT_BIAS
from model.processor import INTERPOLATIONS, NORMALIZATIONS, ImageProcessor
from model.protocol import Backbone, Built, DualEncoder, JsonObject, Lockable, Tokenizer
from model.towers.open_clip import HubText, PlainText, PlainVision
from model.towers.open_clip_model import build_library_model, check_supported, native_size
from model.towers.timm_vision import TimmVision
from model.weights.open_clip_files import (
    OURS,
    Source,
    bad_name,
    fill,
    find_source,
    native_cleaning,
    read_weights,
    tokenizer_folder,
)
from model.weights.shapes import check_image_size, check_text_length
from options import Options, UserError
from text_utils.captions import CLEANINGS
from text_utils.hub_tokenizer import HubTokenizer
from text_utils.tokenizer import CLIPTokenizer

logger = logging.getLogger(__name__)
# English vocabularies of open_clip have 50,265 words at most, those of many languages 250,000 and more.
MULTILINGUAL_VOCABULARY = 100_000
SENTINELS = 100  # ids that T5's tokenizers have, that no caption yields, and that towers may lack


class OpenClip(DualEncoder):
    """The towers of open_clip's `CustomTextCLIP`; features equal its `encode_image` and `encode_text`.

    Args:
        config: open_clip's `model_cfg`.
        logit_scale, logit_bias: their start; no bias: None.
    """

    def __init__(
        self,
        visual: TimmVision | PlainVision,
        text: PlainText | HubText,
        config: JsonObject,
        logit_scale: float,
        logit_bias: float | None,
    ) -> None:
        super().__init__()
        self.visual, self.text, self.config = visual, text, config
        self.selects_tokens = visual.selects_tokens and text.selects_tokens
        self.shows_blocks = visual.shows_blocks and text.shows_blocks
        self.pooling = visual.pooling
        self.logit_scale = nn.Parameter(torch.tensor(logit_scale))
        self.logit_bias = 0.0 if logit_bias is None else nn.Parameter(torch.tensor(logit_bias))
        self.max_logit_scale = max(math.log(100), logit_scale)
        self.embed_dim = config["embed_dim"]
        self.patch_grid = visual.grid
        self.vocab_size = text.tower.vocab_size
        self.is_multilingual = self.vocab_size > MULTILINGUAL_VOCABULARY

    def lockable(self) -> Lockable:
        """See `DualEncoder.lockable`; blocks of convolutions are their stages."""
        return Lockable(*self.visual.lockable(), *self.text.lockable())


def build_open_clip(
    name: str | None = None,
    pretrained: str | Path | None = None,
    cache_dir: str | Path | None = None,
    text_length: int | None = None,
    *,
    image_size: tuple[int, int] | None = None,
    normalization: str | None = None,
    interpolation: str | None = None,
    cleaning: str | None = None,
    dropout: float = 0.0,
    logit_bias: bool = False,
    checkpoint: str | Path | None = None,
    grad_checkpointing: bool = False,
) -> tuple[OpenClip, Tokenizer, ImageProcessor]:
    """A model of open_clip, and the tokenizer and image processor that go with it.

    Args:
        name: of `open_clip.list_models()`; None: the folder's `open_clip_config.json` tells.
        pretrained: a file, a folder, or one of open_clip's tags for that name; None starts at random, from
            torch's seed.
        cache_dir: the hub's cache, for a tag and for the tokenizer.
        text_length: tokens of a caption at most, start and end included.
        image_size: (height, width) that images are resized to, straight; positions are resized to it as the
            library resizes them.
        normalization, interpolation, cleaning: names in `NORMALIZATIONS`, `INTERPOLATIONS`, `CLEANINGS`.
            These and the two above: None means as the weights were trained.
        dropout: on the text tower's attention weights, in training mode only; there is no other.
        logit_bias: whether there is a learned bias, for the sigmoid loss.
        checkpoint: a checkpoint of this project, in place of the weights of `pretrained`.
        grad_checkpointing: keep only the input of each block, and recompute the block in the backward pass.

    Raises:
        UserError: a name, tag, file, folder or tokenizer that cannot be used; sizes that do not go with it.
    """
    source = find_source(name, pretrained, cache_dir, with_weights=checkpoint is None)
    check_supported(source)
    tokenizer = _tokenizer(source, text_length, cache_dir, cleaning)
    path = Path(checkpoint) if checkpoint else source.weights
    tensors, saved_size = read_weights(path) if path else ({}, None)
    model = build_library_model(source, saved_size, dropout, cache_dir)
    if path:
        fill(model, path, tensors, source.title)
    height, width = image_size or native_size(source.config)
    is_timm = "timm_model_name" in source.config["vision_cfg"]
    stride = model.visual.trunk.feature_info[-1]["reduction"] if is_timm else model.visual.patch_size[0]
    check_image_size((height, width), stride)
    visual = (TimmVision if is_timm else PlainVision)(model.visual, (height, width))
    text = _text_tower(model.text, tokenizer, source)
    for tower in (visual, text) if grad_checkpointing else ():
        tower.checkpoint_blocks()
    clip = OpenClip(visual, text, source.config, *_scalars(model, tensors, logit_bias))
    _report(source, clip)
    processor = _processor(source, (height, width), normalization, interpolation)
    return clip.train(), tokenizer, processor


def _tokenizer(
    source: Source, text_length: int | None, cache_dir: str | Path | None, cleaning: str | None
) -> Tokenizer:
    """The tokenizer of the weights; raises UserError where it is missing or cannot be used."""
    cleaning = cleaning or native_cleaning(source.config)
    if cleaning not in CLEANINGS:
        problem = f"cleans captions by '{cleaning}', which is not supported; set data.cleaning"
        raise bad_name(source.title, problem)
    longest = source.config["text_cfg"].get("context_length", 77)
    check_text_length(text_length, longest, source.title)
    folder = tokenizer_folder(source, cache_dir)
    if folder is None:
        return CLIPTokenizer(text_length or longest, cleaning)
    try:
        return HubTokenizer(str(folder), text_length or longest, cache_dir, cleaning)
    except ValueError as error:
        raise bad_name(source.title, f"needs the tokenizer of '{folder}', which {error}") from error


def _text_tower(tower: nn.Module, tokenizer: Tokenizer, source: Source) -> PlainText | HubText:
    is_of_hub = "hf_model_name" in source.config["text_cfg"]
    if tokenizer.vocab_size > tower.vocab_size + SENTINELS:
        found = f"{tower.vocab_size:,} token embeddings, and its tokenizer {tokenizer.vocab_size:,} tokens"
        raise bad_name(source.title, f"has {found}: they do not belong together")
    if is_of_hub:
        return HubText(tower, tokenizer.text_length)
    _check_end(tower, tokenizer, source)
    return PlainText(tower, tokenizer.text_length, tokenizer.pad_token_id)


def _check_end(tower: nn.Module, tokenizer: Tokenizer, source: Source) -> None:
    """Raise UserError unless open_clip reads captions at their end token: it looks for `eos_id`, or for the
    largest id.
    """
    end = tokenizer(["a"])["input_ids"][0, -1].item()
    words = {*range(tokenizer.vocab_size)} - {*tokenizer.special_ids}
    largest = max(end, tokenizer.pad_token_id, *words)
    expected = {"eos": tower.eos_id, "argmax": largest}.get(tower.pool_type, end)
    if end != expected:
        raise bad_name(
            source.title,
            f"reads a caption at the token {expected} (pool_type '{tower.pool_type}'), and its tokenizer "
            f"ends captions with {end}: they do not belong together",
        )


def _scalars(model: nn.Module, tensors: dict[str, Tensor], has_bias: bool) -> tuple[float, float | None]:
    """The starts of the scale and of the bias: those of the weights, else as of `CLIP`."""
    start = math.log(10) if has_bias and not tensors else model.logit_scale.item()
    scale = tensors["logit_scale"].item() if "logit_scale" in tensors else start
    if not has_bias:
        if "logit_bias" in tensors:
            logger.info("dropped logit_bias, which only the sigmoid loss uses")
        return scale, None
    bias = tensors["logit_bias"].item() if "logit_bias" in tensors else LOGIT_BIAS
    return scale, bias


def _report(source: Source, clip: OpenClip) -> None:
    """Log what no tensor shows and what training leaves as it is."""
    activation = "QuickGELU" if source.config.get("quick_gelu") else "GELU"
    logger.info("%s: %s, by its configuration", source.title, activation)
    if clip.visual.has_batch_norm:
        logger.info(
            "%s: its batch normalisation keeps the statistics of the weights in training; its weights and "
            "biases are trained",
            source.title,
        )


def _processor(
    source: Source, image_size: tuple[int, int], normalization: str | None, interpolation: str | None
) -> ImageProcessor:
    """Images are resized straight to the size, never cropped: persons would lose their heads and feet."""
    known = source.preparation
    mean, std = NORMALIZATIONS[normalization or "clip"]
    if not normalization:
        mean, std = _of_channels(source, "mean", mean), _of_channels(source, "std", std)
        logger.info("%s: images have mean %s, deviation %s, of %s", source.title, mean, std, source.told_by)
    native = known.get("interpolation")
    native = native if native in INTERPOLATIONS else "bicubic"
    return ImageProcessor(image_size, mean, std, interpolation or native)


def _of_channels(source: Source, name: str, default: tuple[float, ...]) -> tuple[float, ...]:
    """The "mean" or "std" that the preparation says, one number for all channels or one for each."""
    found = source.preparation.get(name)
    values = default if found is None else found if isinstance(found, list | tuple) else (found,) * 3
    if len(values) != 3 or not all(isinstance(value, int | float) for value in values):
        raise bad_name(source.title, f"has a preprocess_cfg with the {name} {found}: 3 numbers are expected")
    return tuple(values)


def to_openai(clip: DualEncoder) -> tuple[dict[str, Tensor], JsonObject]:
    """The tensors under open_clip's names for a model with a text tower by itself, and its `model_cfg`."""
    assert isinstance(clip, OpenClip)
    config = copy.deepcopy(clip.config) | {"custom_text": True}
    config["vision_cfg"]["image_size"] = list(clip.visual.image_size)
    for name in ("init_logit_bias", "nonscalar_logit_scale"):
        config.pop(name, None)
    if isinstance(clip.logit_bias, nn.Parameter):
        config["init_logit_bias"] = clip.logit_bias.item()
    return {OURS.sub(r"\1.", name): tensor for name, tensor in clip.state_dict().items()}, config


def _from_options(options: Options, weights: str | None) -> Built:
    settings, data = options.model, options.data
    built = build_open_clip(
        settings.open_clip_name,
        settings.open_clip_pretrained,
        settings.tokenizer_cache_dir,
        options.experiment.text_length,
        image_size=data.image_size,
        normalization=data.normalization,
        interpolation=data.interpolation,
        cleaning=data.cleaning,
        dropout=options.experiment.dropout,
        logit_bias=options.experiment.sigmoid,
        checkpoint=weights,
        grad_checkpointing=settings.grad_checkpointing,
    )
    if settings.embed_dim not in (None, built[0].embed_dim):
        title, width = settings.open_clip_name or settings.open_clip_pretrained, built[0].embed_dim
        raise UserError(
            f"model.embed_dim: {settings.embed_dim} is set, but '{title}' has {width}. Set it to null to "
            "take it from there."
        )
    return built


BACKBONE = Backbone(
    title="open_clip",
    build=_from_options,
    weights_option="open_clip_pretrained",
    to_openai=to_openai,
)
