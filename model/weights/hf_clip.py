"""Folders that `transformers.CLIPModel.from_pretrained` loads, read and written: settings and names."""

import logging
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from model.protocol import DualEncoder, JsonObject
from model.weights.hub_folders import read_config
from model.weights.shapes import bad_weights
from options import Options
from text_utils.tokenizer import CLIPTokenizer

logger = logging.getLogger(__name__)
# The defaults of transformers for missing settings of a config.json.
BOTH = {"num_hidden_layers": 12, "hidden_act": "quick_gelu"}
DEFAULTS: dict[str, dict[str, Any]] = {
    "text": {"hidden_size": 512, "num_attention_heads": 8, **BOTH},
    "vision": {"hidden_size": 768, "num_attention_heads": 12, "patch_size": 32, "image_size": 224, **BOTH},
}
EPSILON = 1e-5
PARTS = ("width", "layers", "heads")  # of our options, image_PART and text_PART
# transformers reads the feature at the largest id where this setting is 2 (as OpenAI does), else at the first
# token of this id: with CLIP's tokenizer, whose end token has the largest id, both are the same.
END_TOKENS = (2, 49_407)
RENAMED = (
    (r"^vision_model\.", "visual."),
    (r"^text_model\.", "text."),
    (r"\.embeddings\.(class|token)_embedding", r".\1_embedding"),
    (r"\.embeddings\.patch_embedding\.", ".conv1."),
    (r"\.embeddings\.position_embedding\.weight$", ".positional_embedding"),
    (r"\.encoder\.layers\.", ".transformer.resblocks."),
    (r"\.layer_norm([12])\.", r".ln_\1."),
    (r"\.self_attn\.", ".attn."),
    (r"\.fc1\.", ".c_fc."),
    (r"\.fc2\.", ".c_proj."),
    (r"\.pre_layrnorm\.", ".ln_pre."),  # sic
    (r"\.post_layernorm\.", ".ln_post."),
    (r"\.final_layer_norm\.", ".ln_final."),
)
PROJECTIONS = {"visual_projection.weight": "visual.proj", "text_projection.weight": "text.text_projection"}


def read_settings(folder: Path) -> dict[str, Any]:
    """What its configuration says, in the layout of our options: sizes, heads, activation, image size.

    Raises:
        UserError: a model other than CLIP, or one with another epsilon of its norms or another end token than
            OpenAI's, or an activation that our towers do not have, or one in each tower.
    """
    config = read_config(folder)
    if (found := config.get("model_type")) != "clip":
        advice = "; load it with model.backbone=altclip" if found == "altclip" else ""
        raise bad_weights(folder, f"holds a model of type '{found}'; a CLIP is expected{advice}")
    # Old files have what differs from NAME_config in NAME_config_dict.
    towers = {name: _section(config, name) for name in ("text", "vision")}
    for name, tower in towers.items():
        if (value := tower.get("layer_norm_eps", EPSILON)) != EPSILON:
            raise bad_weights(folder, f"has {name}_config.layer_norm_eps {value!r}; {EPSILON!r} is expected")
    text, vision = ({**DEFAULTS[name], **tower} for name, tower in towers.items())
    if (end := text.get("eos_token_id", END_TOKENS[1])) not in END_TOKENS:
        problem = f"has text_config.eos_token_id {end!r}; CLIP's tokenizer has {END_TOKENS[1]}"
        raise bad_weights(folder, problem)
    if text["hidden_act"] != vision["hidden_act"]:
        found = f"{text['hidden_act']!r} in text_config and {vision['hidden_act']!r} in vision_config"
        raise bad_weights(folder, f"has hidden_act {found}; one for both is expected")
    found = {
        "patch_size": vision["patch_size"],
        "embed_dim": config.get("projection_dim", 512),
        "activation": vision["hidden_act"],
    }
    for name, tower in (("image", vision), ("text", text)):
        sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads")
        found |= {f"{name}_{part}": tower[key] for part, key in zip(PARTS, sizes, strict=True)}
    return {"model": found, "data": {"image_size": [vision["image_size"]] * 2}}


def _section(config: dict[str, Any], tower: str) -> dict[str, Any]:
    sections = (config.get(f"{tower}_config"), config.get(f"{tower}_config_dict"))
    return {key: value for section in sections if isinstance(section, dict) for key, value in section.items()}


def our_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Their tensors under our names: queries, keys and values in one, projections transposed. Unknown names
    are kept, for the caller to check.
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith(".embeddings.position_ids"):
            logger.info("dropped %s, which is recomputed", name)
        elif name in PROJECTIONS:
            renamed[PROJECTIONS[name]] = tensor.T
        else:
            for theirs, ours in RENAMED:
                name = re.sub(theirs, ours, name)
            renamed[name] = tensor
    for name in [name for name in renamed if ".attn.q_proj." in name]:
        parts = [name.replace(".q_proj.", f".{part}_proj.") for part in "qkv"]
        if len({renamed[part].shape if part in renamed else None for part in parts}) == 1:
            renamed[name.replace(".q_proj.", ".in_proj_")] = torch.cat([renamed.pop(part) for part in parts])
    return renamed


def to_transformers(clip: DualEncoder, options: Options) -> tuple[JsonObject, dict[str, Tensor]]:
    """The content of a config.json, and the tensors, that `CLIPModel.from_pretrained` loads.

    The image tower must take square images: transformers has no other.
    """
    from transformers import CLIPConfig, CLIPModel

    config = _config(clip)
    with torch.device("meta"):
        names = list(CLIPModel(CLIPConfig.from_dict(config)).state_dict())
    ours = clip.state_dict()
    return config, {name: _their_tensor(name, ours) for name in names}


def _config(clip: DualEncoder) -> JsonObject:
    visual, text = clip.visual, clip.text
    shared = {"layer_norm_eps": EPSILON, "projection_dim": clip.embed_dim}
    vocab_size, text_width = text.token_embedding.weight.shape
    image_width, _, patch_size, _ = visual.conv1.weight.shape
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": clip.embed_dim,
        "text_config": {
            "model_type": "clip_text_model",
            **_sizes(text.transformer, text_width),
            "vocab_size": vocab_size,
            "max_position_embeddings": len(text.positional_embedding),
            "bos_token_id": CLIPTokenizer.sot_token_id,
            "eos_token_id": CLIPTokenizer.eot_token_id,
            "pad_token_id": CLIPTokenizer.eot_token_id,
            **shared,
        },
        "vision_config": {
            "model_type": "clip_vision_model",
            **_sizes(visual.transformer, image_width),
            "image_size": visual.image_size[0],
            "patch_size": patch_size,
            **shared,
        },
    }


def _sizes(transformer: nn.Module, width: int) -> dict[str, int | str]:
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": len(transformer.resblocks),
        "num_attention_heads": transformer.heads,
        "hidden_act": transformer.activation,
    }


def _their_tensor(name: str, ours: dict[str, Tensor]) -> Tensor:
    """The tensor of this name in transformers: a third of our fused projection, or one of our tensors."""
    if name in PROJECTIONS:
        return ours[PROJECTIONS[name]].T
    for theirs, mine in RENAMED:
        name = re.sub(theirs, mine, name)
    if part := re.search(r"\.attn\.([qkv])_proj\.", name):
        return ours[name.replace(f".{part[1]}_proj.", ".in_proj_")].chunk(3)["qkv".index(part[1])]
    return ours[name]
