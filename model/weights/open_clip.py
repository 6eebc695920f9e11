"""Folders that open_clip loads, read and written: settings in open_clip_config.json, OpenAI's names."""

from pathlib import Path
from typing import Any

from torch import Tensor

from model.protocol import DualEncoder, JsonObject
from model.weights.hub_folders import OPEN_CLIP_CONFIG, read_config
from model.weights.shapes import bad_weights, whole_number

# The settings that are read: our options, and open_clip's defaults.
SIZES = {
    "vision_cfg": {
        "patch_size": ("patch_size", 16),
        "width": ("image_width", 768),
        "layers": ("image_layers", 12),
    },
    "text_cfg": {
        "vocab_size": ("vocab_size", 49_408),
        "width": ("text_width", 512),
        "layers": ("text_layers", 12),
        "heads": ("text_heads", 8),
    },
}
# Read below, or without effect on a feature.
WITHOUT_EFFECT = {
    *("image_size", "head_width", "context_length", "output_tokens", "patch_dropout", "pad_id", "eos_id"),
    *("attn_pooler_queries", "attn_pooler_heads", "timm_pool", "timm_proj", "timm_drop", "hf_proj_type"),
    *("hf_pooler_type", "hf_model_pretrained", "tokenizer_mode", "custom_text", "embed_dim", "quick_gelu"),
    *("vision_cfg", "text_cfg", "init_logit_scale", "init_logit_bias"),
}
# What our towers have; they have nothing of what is not listed.
FIXED = {"mlp_ratio": (4.0,), "pos_embed_type": ("learnable",), "block_type": ("default",)}
FIXED |= {"pool_type": ("tok", "argmax"), "proj_type": ("linear",)}


def read_settings(folder: Path) -> dict[str, Any]:
    """What its configuration says, in the layout of our options: sizes, heads, activation, image size.

    Raises:
        UserError: it describes no CLIP with two transformers, or one with parts that our towers do not have.
    """
    file, config = folder / OPEN_CLIP_CONFIG, read_config(folder, OPEN_CLIP_CONFIG)
    model = config.get("model_cfg", config)  # the files that come with open_clip are a model_cfg alone
    towers = {name: model.get(name) if isinstance(model, dict) else None for name in SIZES}
    if not all(isinstance(tower, dict) for tower in towers.values()):
        raise bad_weights(
            file, f"is no configuration of open_clip: it has no model_cfg with {', '.join(SIZES)}"
        )
    for name, section in (("", model), *((f"{name}.", tower) for name, tower in towers.items())):
        for key, value in section.items():
            is_known = key in WITHOUT_EFFECT or key in SIZES.get(name[:-1], {})
            if value and not is_known and value not in FIXED.get(key, ()):
                raise bad_weights(file, f"has {name}{key} {value!r:.60}, which our towers do not have")
    found: dict[str, Any] = {
        option: whole_number(file, towers[name].get(key, default), f"{name}.{key}")
        for name, sizes in SIZES.items()
        for key, (option, default) in sizes.items()
    }
    found["embed_dim"] = whole_number(file, model.get("embed_dim"), "embed_dim")
    head_width = whole_number(file, towers["vision_cfg"].get("head_width", 64), "vision_cfg.head_width")
    found["image_heads"] = max(1, found["image_width"] // head_width)
    found["activation"] = "quick_gelu" if model.get("quick_gelu") else "gelu"
    size = towers["vision_cfg"].get("image_size", 224)
    return {"model": found, "data": {"image_size": size if isinstance(size, list) else [size] * 2}}


def to_openai(clip: DualEncoder) -> tuple[dict[str, Tensor], JsonObject]:
    """The tensors under OpenAI's names, which keep the text tower's at the top level, and the `model_cfg` by
    which open_clip builds the towers. The bias, which OpenAI has no name for, is left out.
    """
    tensors = clip.state_dict()
    state = {name.removeprefix("text."): tensors[name] for name in tensors if name != "logit_bias"}
    visual, text = clip.visual, clip.text
    vocab_size, text_width = text.token_embedding.weight.shape
    image_width, _, patch_size, _ = visual.conv1.weight.shape
    config = {
        "embed_dim": clip.embed_dim,
        "quick_gelu": visual.transformer.activation == "quick_gelu",
        "vision_cfg": {
            "image_size": visual.image_size,
            "patch_size": patch_size,
            "width": image_width,
            "layers": len(visual.transformer.resblocks),
            "head_width": image_width // visual.transformer.heads,
        },
        "text_cfg": {
            "context_length": len(text.positional_embedding),
            "vocab_size": vocab_size,
            "width": text_width,
            "layers": len(text.transformer.resblocks),
            "heads": text.transformer.heads,
        },
    }
    return state, config
