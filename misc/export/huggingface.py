"""Export to a folder that a model class of transformers loads."""

import math
from collections.abc import Sequence
from pathlib import Path

import safetensors.torch
from torch import Tensor

from misc.export.source import Source, write_json
from model.protocol import DualEncoder, JsonObject
from options import UserError


def export_huggingface(source: Source, folder: Path) -> None:
    """Write config.json, model.safetensors, the tokenizer and the image processor; load and compare them.

    Raises:
        UserError: no class for the backbone; images not square; difference over 1e-4.
    """
    if source.backbone.to_transformers is None:
        raise UserError(
            f"--format huggingface: transformers has no class for {source.backbone.title}; use another format"
        )
    height, width = source.processor.image_size
    if height != width and not source.model.clip.takes_patches:
        raise UserError(
            f"data.image_size: expected a square for --format huggingface, found {height}, {width}, which "
            "transformers does not support; use --format openai, safetensors or onnx"
        )
    config, tensors = source.backbone.to_transformers(source.model.clip, source.options)
    write_json(folder / "config.json", config)
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    safetensors.torch.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    source.save_processors(folder)
    if source.model.clip.takes_patches:
        settings = {**source.processor.settings(), **_of_patches(source.model.clip)}
        write_json(folder / "preprocessor_config.json", settings)
    _check(source, folder)


def _of_patches(clip: DualEncoder) -> JsonObject:
    """What the processor of SigLIP 2 NaFlex is told: to cut images that have their size already."""
    patch = clip.visual.patch_size
    kind = {"image_processor_type": "Siglip2ImageProcessor", "do_resize": False}
    return {**kind, "patch_size": patch, "max_num_patches": math.prod(clip.patch_grid)}


def _check(source: Source, folder: Path) -> None:
    import transformers

    model_class = getattr(transformers, source.model.clip.transformers_class)
    model, info = model_class.from_pretrained(folder, output_loading_info=True)
    assert not any(info[f"{kind}_keys"] for kind in ("missing", "unexpected", "mismatched")), info
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    clip = source.model.clip
    model.eval()

    def encode_image(pixels: Tensor) -> Tensor:
        features = model.get_image_features(**clip.transformers_images(pixels))
        return getattr(features, "pooler_output", features)  # a tensor before transformers 5

    def encode_text(captions: Sequence[str]) -> Tensor:
        padding = "max_length" if clip.pads_captions else True
        tokens = tokenizer(list(captions), padding=padding, truncation=True, return_tensors="pt")
        mask = None if clip.pads_captions else tokens["attention_mask"]
        features = model.get_text_features(tokens["input_ids"], attention_mask=mask)
        return getattr(features, "pooler_output", features)

    source.check(f"transformers {transformers.__version__}", encode_image, encode_text)
