"""The model that open_clip builds from a configuration, from random weights: its towers are taken over."""

import contextlib
import copy
import json
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

from torch import nn

from model.protocol import JsonObject
from model.weights.hub_folders import CONFIG, download_file, read_config
from model.weights.open_clip_files import Source, bad_name

logger = logging.getLogger(__name__)


def check_supported(source: Source) -> None:
    """Raise UserError for models with parts that no feature of two towers reads, or for one size alone."""
    vision, text = source.config["vision_cfg"], source.config["text_cfg"]
    reasons = {
        "is a CoCa, whose text tower has a class token of its own": source.config.get("multimodal_cfg")
        or text.get("embed_cls"),
        "has a ResNet of OpenAI, which takes square images alone": isinstance(vision.get("layers"), list),
        "has an attention pooling with several queries": vision.get("attentional_pool"),
        "pools with positions of one size": vision.get("timm_pool") in ("abs_attn", "rot_attn"),
        "has an image tower on the hub": str(vision.get("timm_model_name")).startswith(
            ("hf-hub:", "hf_hub:")
        ),
        "pools nothing": "none" in (vision.get("pool_type"), text.get("pool_type")),
    }
    for reason, applies in reasons.items():
        if applies:
            raise bad_name(source.title, f"{reason}: it cannot be used; set another name")


def native_size(config: JsonObject) -> tuple[int, int]:
    size = config["vision_cfg"].get("image_size", 224)
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return height, width


def build_library_model(
    source: Source, image_size: tuple[int, int] | None, dropout: float, cache_dir: str | Path | None
) -> nn.Module:
    """Open_clip's model from random weights; no file of weights is read.

    Args:
        image_size: (height, width) that its positions are for; None: as the library builds it.
        dropout: on the text tower's attention weights; there is no other.

    Raises:
        UserError: the library cannot build it; a text tower whose configuration is missing.
    """
    config = copy.deepcopy(source.config)
    config.pop("custom_text", None)
    vision, text = config["vision_cfg"], config["text_cfg"]
    vision |= {"timm_model_pretrained": False, "patch_dropout": 0.0}
    vision |= {name: 0.0 for name in ("timm_drop", "timm_drop_path") if name in vision}
    vision["image_size"] = image_size or native_size(source.config)
    text["hf_model_pretrained"] = False
    with _hub_config(source, dropout, cache_dir) as folder:
        if folder:
            text["hf_model_name"] = folder
        model = _construct(source, config)
    trunk = getattr(model.visual, "trunk", None)
    if image_size and hasattr(trunk, "set_input_size"):
        trunk.set_input_size(image_size)
    for block in () if folder else model.text.transformer.resblocks:
        if isinstance(block.attn, nn.MultiheadAttention):
            block.attn.dropout = dropout
        else:
            block.attn.attn_drop.p = dropout
    return model


def _construct(source: Source, config: JsonObject) -> nn.Module:
    from open_clip import CustomTextCLIP

    try:
        return CustomTextCLIP(**config)
    except Exception as error:  # a configuration that is not understood can raise anything in three libraries
        raise bad_name(source.title, f"cannot be built: {' '.join(str(error).split())[:160]}") from error


@contextlib.contextmanager
def _hub_config(source: Source, dropout: float, cache_dir: str | Path | None) -> Iterator[str | None]:
    """A folder with the configuration of a text tower of transformers, its dropouts replaced; None: it is
    none of transformers.
    """
    if not (hub_id := source.config["text_cfg"].get("hf_model_name")):
        yield None
        return
    from open_clip.hf_configs import arch_dict

    is_here = Path(hub_id).is_dir()
    folder = Path(hub_id) if is_here else download_file(hub_id, [CONFIG], cache_dir).parent
    config = read_config(folder)
    config.pop("auto_map", None)  # of remote code
    if (kind := config.get("model_type")) not in arch_dict:
        known = ", ".join(arch_dict)
        raise bad_name(source.title, f"has a text tower of type '{kind}'; open_clip knows {known}")
    config |= dict.fromkeys(("hidden_dropout_prob", "dropout", "dropout_rate", "activation_dropout"), 0.0)
    config |= dict.fromkeys(("attention_probs_dropout_prob", "attention_dropout"), dropout)
    if dropout and kind == "mt5":
        logger.warning("experiment.dropout has no effect: mT5 has no dropout for its attention weights alone")
    with tempfile.TemporaryDirectory() as copied:
        Path(copied, CONFIG).write_text(json.dumps(config | {"encoder_layerdrop": 0.0}), encoding="utf-8")
        yield copied
