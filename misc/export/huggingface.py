"""Export to a folder that a model class of transformers loads."""

from collections.abc import Sequence
from pathlib import Path

import safetensors.torch
from torch import Tensor

from misc.export.source import Source, write_json
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
    if height != width:
        raise UserError(
            f"data.image_size: expected a square for --format huggingface, found {height}, {width}, which "
            "transformers does not support; use --format openai, safetensors or onnx"
        )
    config, tensors = source.backbone.to_transformers(source.model.clip, source.options)
    write_json(folder / "config.json", config)
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    safetensors.torch.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    source.save_processors(folder)
    _check(source, folder)


def _check(source: Source, folder: Path) -> None:
    import transformers

    model_class = getattr(transformers, source.model.clip.transformers_class)
    model, info = model_class.from_pretrained(folder, output_loading_info=True)
    assert not any(info[f"{kind}_keys"] for kind in ("missing", "unexpected", "mismatched")), info
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model.eval()

    def encode_image(pixels: Tensor) -> Tensor:
        features = model.get_image_features(pixel_values=pixels)
        return getattr(features, "pooler_output", features)  # a tensor before transformers 5

    def encode_text(captions: Sequence[str]) -> Tensor:
        tokens = tokenizer(list(captions), padding=True, truncation=True, return_tensors="pt")
        features = model.get_text_features(tokens["input_ids"], attention_mask=tokens["attention_mask"])
        return getattr(features, "pooler_output", features)

    source.check(f"transformers {transformers.__version__}", encode_image, encode_text)
