"""AltCLIP (Chen et al. 2022, arXiv 2211.06679) as a `DualEncoder`.

The towers are those of `transformers.AltCLIPModel`: CLIP's vision transformer, and XLM-RoBERTa with a
projection, whose first token is the feature. Only names that transformers 4.35 and 5 share are used.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image
from torch import Tensor, nn

from model.families.encoder import HubEncoder
from model.processor import NORMALIZATIONS, ImageProcessor
from model.protocol import Backbone, Built, JsonObject
from model.towers.hub import ClassTokenVision, TextTower
from model.weights.altclip_files import altclip_model, load_image_processor, to_transformers
from model.weights.hub_models import checkpoint_activations, drop_attention_only, fill_from_checkpoint
from model.weights.shapes import check_image_size, check_setting, check_text_length, resize_image_positions
from options import Options
from text_utils.tokenizer import AltCLIPTokenizer

if TYPE_CHECKING:
    from transformers import AltCLIPConfig, CLIPImageProcessor


class AltCLIP(HubEncoder):
    """The towers of an `AltCLIPModel`; its features equal `get_image_features` and `get_text_features`."""

    rolls_out = True
    transformers_class = "AltCLIPModel"
    is_multilingual = True

    @staticmethod
    def towers(
        model: nn.Module, image_size: tuple[int, int], text_length: int, pad_token_id: int
    ) -> tuple[nn.Module, nn.Module]:
        """See `HubEncoder.towers`: both features are those of the first token."""
        embeddings = model.vision_model.embeddings
        side, patch = embeddings.image_size // embeddings.patch_size, embeddings.patch_size
        positions = embeddings.position_embedding.weight.detach()
        grid = (image_size[0] // patch, image_size[1] // patch)
        resized = resize_image_positions(positions, (side, side), grid)
        visual = ClassTokenVision(model.vision_model, model.visual_projection, image_size, resized)
        return visual, TextTower(model.text_model, model.text_projection, text_length, pooled="first")


class AltImageProcessor:
    """AltCLIP's own preprocessing: shortest edge resized, centre cropped, normalised.

    Attributes:
        image_size: (height, width) of its output.
        view_size: None: training views keep the size of their image, for `finish` to crop.
    """

    def __init__(self, processor: "CLIPImageProcessor") -> None:
        self.processor = processor
        self.image_size = (processor.crop_size["height"], processor.crop_size["width"])
        self.view_size = None

    def __call__(self, images: Sequence[Image.Image], return_tensors: str = "pt") -> dict[str, Tensor]:
        images = [image.convert("RGB") for image in images]
        return {"pixel_values": self.processor(images=images, return_tensors=return_tensors)["pixel_values"]}

    def finish(self, views: Sequence[Tensor]) -> Tensor:
        """Augmented images, (3, h, w) uint8 each -> (B, 3, H, W), as `__call__` makes them of plain ones."""
        images = [Image.fromarray(view.permute(1, 2, 0).contiguous().numpy()) for view in views]
        return self(images)["pixel_values"]

    @staticmethod
    def normalise(pixels: Tensor) -> Tensor:
        """The output of `finish` unchanged: `transformers` has normalised it already."""
        return pixels

    def seen_box(self, image: Image.Image) -> tuple[int, int, int, int]:
        """The centre crop, in pixels of the image: (left, top, right, bottom)."""
        scale = min(image.size) / self.processor.size["shortest_edge"]
        height, width = (
            min(side, round(scale * seen))
            for side, seen in zip((image.height, image.width), self.image_size, strict=True)
        )
        left, top = (image.width - width) // 2, (image.height - height) // 2
        return (left, top, left + width, top + height)

    def settings(self) -> JsonObject:
        """The content of its `preprocessor_config.json`."""
        return json.loads(self.processor.to_json_string())


def build_altclip_clip(
    pretrained: str | Path,
    cache_dir: str | Path | None = None,
    text_length: int = 77,
    *,
    image_size: tuple[int, int] | None = None,
    normalization: str = "clip",
    interpolation: str = "bicubic",
    dropout: float = 0.0,
    embed_dim: int | None = None,
    projection_dim: int | None = None,
    logit_bias: bool = False,
    checkpoint: str | Path | None = None,
    grad_checkpointing: bool = False,
    cleaning: str = "tbps-clip",
) -> tuple[AltCLIP, AltCLIPTokenizer, ImageProcessor | AltImageProcessor]:
    """AltCLIP, and the tokenizer and image processor that go with it.

    Args:
        pretrained: a model folder, the root of a hub cache, or a hub id ("BAAI/AltCLIP").
        cache_dir: the hub's cache, for an id.
        text_length: tokens of a caption at most, start and end included.
        image_size: (height, width) that images are resized to, straight, by `interpolation`, with the
            statistics of `normalization`; the position grid is resized to it. None: AltCLIP's preprocessing.
        dropout: on the text tower's attention weights, in training mode only; there is no other.
        embed_dim, projection_dim: the width that the weights must have, under either name; None: any.
        logit_bias: whether there is a learned bias, for the sigmoid loss.
        checkpoint: a checkpoint of this project, in place of the weights of `pretrained`.
        grad_checkpointing: keep only the input of each block, and recompute the block in the backward pass.
        cleaning: how the tokenizer cleans captions, a name of `CLEANINGS`.

    Raises:
        UserError: files that are missing or hold another model; a size that differs from the weights'.
    """
    source = altclip_model(pretrained, cache_dir)
    config = source.config()
    _check_sizes(config, pretrained, text_length, embed_dim=embed_dim, projection_dim=projection_dim)
    drop_attention_only(config, dropout)
    processor: ImageProcessor | AltImageProcessor
    if image_size is None:
        processor = AltImageProcessor(load_image_processor(source, config))
    else:
        processor = ImageProcessor(image_size, *NORMALIZATIONS[normalization], interpolation)
    check_image_size(processor.image_size, config.vision_config.patch_size)
    model = source.random(config) if checkpoint else source.load(config)
    if grad_checkpointing:
        checkpoint_activations(model)
    clip = AltCLIP(model, processor.image_size, text_length, logit_bias=logit_bias)
    if checkpoint:
        fill_from_checkpoint(clip, checkpoint, "AltCLIP")
    try:
        tokenizer = AltCLIPTokenizer(str(source.folder), text_length, cleaning=cleaning)
    except ValueError as error:
        raise source.bad(str(error)) from error
    return clip.train(), tokenizer, processor


def _check_sizes(
    config: "AltCLIPConfig", pretrained: str | Path, text_length: int, **widths: int | None
) -> None:
    """Raise UserError for widths that the weights do not have, or more tokens than they have positions."""
    for option, width in widths.items():
        check_setting(option, width, config.projection_dim, pretrained)
    check_text_length(text_length, config.text_config.max_position_embeddings - 2, pretrained)


def _from_options(options: Options, weights: str | None) -> Built:
    settings, own = options.model, options.experiment.use_altclip_processor
    return build_altclip_clip(
        settings.altclip_pretrained,
        settings.tokenizer_cache_dir,
        options.experiment.text_length,
        image_size=None if own else options.data.image_size,
        normalization=options.data.normalization,
        interpolation=options.data.interpolation,
        dropout=options.experiment.dropout,
        embed_dim=settings.embed_dim,
        projection_dim=settings.projection_dim,
        logit_bias=options.experiment.sigmoid,
        checkpoint=weights,
        grad_checkpointing=settings.grad_checkpointing,
        cleaning=options.data.cleaning,
    )


BACKBONE = Backbone(
    title="AltCLIP",
    build=_from_options,
    weights_option="altclip_pretrained",
    to_transformers=to_transformers,
)
