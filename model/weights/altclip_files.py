"""AltCLIP's files: its image processor, and the names and settings of its Hugging Face export."""

import json
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from model.protocol import DualEncoder, JsonObject
from model.weights.hub_models import BIAS, BUFFERS, HubModel
from options import Options

if TYPE_CHECKING:
    from transformers import AltCLIPConfig, CLIPImageProcessor

logger = logging.getLogger(__name__)
# Blocks are called `layer` or `layers` by version; files of the hub, which every version reads, say these.
IN_HUB_FILES = (
    (r"^visual\.(vision_model\.|visual_projection\.)", r"\1"),
    (r"^text\.(text_model\.|text_projection\.)", r"\1"),
    (r"^vision_model\.encoder\.layers?\.", "vision_model.encoder.layers."),
    (r"^text_model\.roberta\.encoder\.layers?\.", "text_model.roberta.encoder.layer."),
)


def altclip_model(pretrained: str | Path, cache_dir: str | Path | None = None) -> HubModel:
    """The model that `model.altclip_pretrained` names."""
    classes = {"altclip": "AltCLIPModel"}
    return HubModel("model.altclip_pretrained", pretrained, cache_dir, classes, "an AltCLIP", "BAAI/AltCLIP")


def load_image_processor(model: HubModel, config: "AltCLIPConfig") -> "CLIPImageProcessor":
    """AltCLIP's own image processor, from its files or, if there are none, with its default settings."""
    from transformers import CLIPImageProcessor

    try:
        return CLIPImageProcessor.from_pretrained(model.folder)
    except OSError:
        side = config.vision_config.image_size
        message = "%s has no processor files: using AltCLIP's default preprocessing at %d pixels"
        logger.warning(message, model.pretrained, side)
        return CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})


def to_transformers(clip: DualEncoder, options: Options) -> tuple[JsonObject, dict[str, Tensor]]:
    """The content of a config.json, and the tensors, that `AltCLIPModel.from_pretrained` loads."""
    folder = altclip_model(options.model.altclip_pretrained, options.model.tokenizer_cache_dir).folder
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for section in ("vision_config", "vision_config_dict"):  # old files have both, and the second is read
        if config.get(section):
            config[section]["image_size"] = clip.visual.image_size[0]
    tensors = {}
    for name, tensor in clip.state_dict().items():
        for ours, theirs in IN_HUB_FILES:
            name = re.sub(ours, theirs, name)
        if name != BIAS and not name.endswith(BUFFERS):
            tensors[name] = tensor
    return config | {"architectures": ["AltCLIPModel"], "torch_dtype": "float32"}, tensors
