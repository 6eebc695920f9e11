"""A checkpoint as a folder that `CLIPModel` or `AltCLIPModel` of transformers loads."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from misc.export.processors import altclip_folder, write_json, write_processors
from misc.export.source import Source
from model.weights.altclip_files import BIAS, BUFFERS
from model.weights.hf_clip import PROJECTIONS, RENAMED

TOLERANCE = 1e-4
# Blocks are called `layer` or `layers` by version; files of the hub, which every version reads, say these.
IN_HUB_FILES = (
    (r"^visual\.(vision_model\.|visual_projection\.)", r"\1"),
    (r"^text\.(text_model\.|text_projection\.)", r"\1"),
    (r"^vision_model\.encoder\.layers?\.", "vision_model.encoder.layers."),
    (r"^text_model\.roberta\.encoder\.layers?\.", "text_model.roberta.encoder.layer."),
)


def export_huggingface(source: Source, folder: Path) -> None:
    """Write config.json, model.safetensors, the tokenizer and the image processor; check them by loading.

    Raises:
        UserError: an image that is no square, which transformers does not take; features beyond 1e-4.
    """
    side = source.square_side("transformers has no other; use --format openai, safetensors or onnx")
    write = _write_altclip if source.is_altclip else _write_clip
    write(source, side, folder)
    write_processors(source, folder)
    _check(source, folder)


def _write_clip(source: Source, side: int, folder: Path) -> None:
    from transformers import CLIPConfig, CLIPModel

    write_json(folder / "config.json", _clip_config(source, side))
    with torch.device("meta"):
        names = list(CLIPModel(CLIPConfig.from_pretrained(folder)).state_dict())
    ours = source.clip.state_dict()
    _save({name: _their_tensor(name, ours) for name in names}, folder)


def _clip_config(source: Source, side: int) -> dict[str, Any]:
    visual, text, tokenizer = source.clip.visual, source.clip.text, source.tokenizer
    shared = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "projection_dim": source.clip.embed_dim}
    vocab_size, text_width = text.token_embedding.weight.shape
    image_width, _, patch_size, _ = visual.conv1.weight.shape
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": source.clip.embed_dim,
        "text_config": {
            "model_type": "clip_text_model",
            **_sizes(text.transformer, text_width),
            "vocab_size": vocab_size,
            "max_position_embeddings": len(text.positional_embedding),
            "bos_token_id": tokenizer.sot_token_id,
            "eos_token_id": tokenizer.eot_token_id,
            "pad_token_id": tokenizer.eot_token_id,
            **shared,
        },
        "vision_config": {
            "model_type": "clip_vision_model",
            **_sizes(visual.transformer, image_width),
            "image_size": side,
            "patch_size": patch_size,
            **shared,
        },
    }


def _sizes(transformer: Any, width: int) -> dict[str, int]:
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": len(transformer.resblocks),
        "num_attention_heads": transformer.resblocks[0].attn.heads,
    }


def _their_tensor(name: str, ours: dict[str, Tensor]) -> Tensor:
    """The tensor of this name of theirs: a third of our fused projection, or one of ours as it is."""
    if name in PROJECTIONS:
        return ours[PROJECTIONS[name]].T
    for theirs, mine in RENAMED:
        name = re.sub(theirs, mine, name)
    part = re.search(r"\.attn\.([qkv])_proj\.", name)
    if part:
        return ours[name.replace(f".{part[1]}_proj.", ".in_proj_")].chunk(3)["qkv".index(part[1])]
    return ours[name]


def _write_altclip(source: Source, side: int, folder: Path) -> None:
    origin = altclip_folder(source.options)
    config = json.loads((origin / "config.json").read_text(encoding="utf-8"))
    for section in ("vision_config", "vision_config_dict"):  # old files have both, and read the second
        if config.get(section):
            config[section]["image_size"] = side
    write_json(folder / "config.json", config | {"architectures": ["AltCLIPModel"], "torch_dtype": "float32"})
    tensors = {}
    for name, tensor in source.clip.state_dict().items():
        for ours, theirs in IN_HUB_FILES:
            name = re.sub(ours, theirs, name)
        if name != BIAS and not name.endswith(BUFFERS):
            tensors[name] = tensor
    _save(tensors, folder)


def _save(tensors: dict[str, Tensor], folder: Path) -> None:
    copies = {name: tensor.contiguous() for name, tensor in tensors.items()}
    safetensors.torch.save_file(copies, folder / "model.safetensors", metadata={"format": "pt"})


def _check(source: Source, folder: Path) -> None:
    import transformers

    kind = transformers.AltCLIPModel if source.is_altclip else transformers.CLIPModel
    model, info = kind.from_pretrained(folder, output_loading_info=True)
    assert not any(info[f"{part}_keys"] for part in ("missing", "unexpected", "mismatched")), info
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model.eval()

    def encode_image(pixels: Tensor) -> Tensor:
        features = model.get_image_features(pixel_values=pixels)
        return getattr(features, "pooler_output", features)  # a tensor before transformers 5

    def encode_text(captions: Sequence[str]) -> Tensor:
        tokens = tokenizer(list(captions), padding=True, truncation=True, return_tensors="pt")
        features = model.get_text_features(tokens["input_ids"], attention_mask=tokens["attention_mask"])
        return getattr(features, "pooler_output", features)

    by = f"transformers {transformers.__version__}"
    source.check(by, encode_image, encode_text, TOLERANCE)
