"""Small models of open_clip in folders that open_clip's own loader reads."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from misc.tiny_altclip import synthetic_captions, write_tokenizer

TIMM = {"timm_pool": "", "timm_proj": "linear", "image_size": 64}
TEXT = {"context_length": 16, "vocab_size": 49_408, "width": 32, "heads": 2, "layers": 2}
# A tower of each way of pooling, and of each way of reading a caption.
SIGLIP_TEXT = {"no_causal_mask": True, "pool_type": "last", "proj_bias": True, "norm_kwargs": {"eps": 1e-6}}
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({"image_size": 64, "patch_size": 16, "width": 64, "layers": 2, "head_width": 32}, {}),
    "class token": ({"timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": None}, {}),
    "attention pooling": ({"timm_model_name": "test_vit3", "timm_pool": "map"}, {**SIGLIP_TEXT}),
    "average": ({"timm_model_name": "test_vit4"}, {"no_causal_mask": True}),
    "rotary": ({"timm_model_name": "eva02_tiny_patch14_224", "timm_pool": "token", "image_size": 56}, {}),
    "convolutions": ({"timm_model_name": "test_convnext"}, {"proj_type": "none", "width": 24}),
    "batch norm": ({"timm_model_name": "test_byobnet", "timm_pool": "avg", "timm_proj": None}, {}),
    "hub": ({"timm_model_name": "test_convnext"}, {"hf_proj_type": "mlp", "hf_pooler_type": "mean_pooler"}),
}


def model_config(kind: str, folder: Path, **others: Any) -> dict[str, Any]:
    """The `model_cfg` of a small model; the files of a text tower of transformers are written to `folder`."""
    vision, text = KINDS[kind]
    if "timm_model_name" in vision:
        vision = TIMM | vision
    text = TEXT | text
    if kind in ("hub", "attention pooling"):
        text["vocab_size"] = write_tokenizer(folder, synthetic_captions(20), 300, 16)
        text["hf_tokenizer_name"] = str(folder)
    if kind == "hub":
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        encoder = {**sizes, "model_type": "xlm-roberta", "vocab_size": text["vocab_size"], "pad_token_id": 1}
        (folder / "encoder").mkdir()
        (folder / "encoder" / "config.json").write_text(json.dumps(encoder | {"max_position_embeddings": 18}))
        text = {name: text[name] for name in text if name.startswith("hf_")} | {"context_length": 16}
        text["hf_model_name"] = str(folder / "encoder")
    return {"embed_dim": 24, "custom_text": True, "vision_cfg": vision, "text_cfg": text, **others}


def write_open_clip(
    folder: Path, kind: str, preparation: dict[str, Any] | None = None, **others: Any
) -> Path:
    """A folder of a small model with random weights."""
    import open_clip

    folder.mkdir(parents=True, exist_ok=True)
    config = {"model_cfg": model_config(kind, folder, **others), "preprocess_cfg": preparation or {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = open_clip.create_model(f"local-dir:{folder}", pretrained_text=False)
        for name, parameter in model.named_parameters():  # some start at zero, and would hide what they do
            if parameter.ndim > 1 and not name.startswith("text."):
                nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
        for part in model.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                nn.init.normal_(part.running_mean, std=0.3)
                nn.init.uniform_(part.running_var, 0.5, 2)
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    return folder
