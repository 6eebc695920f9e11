"""Every format of CLIP weights -> the names of `CLIP`, strictly: each is used, or logged as dropped."""

import functools
import json
import logging
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from misc.process.sniff import describe_file
from model.objectives import head_names
from model.weights import hf_clip
from model.weights.hub_folders import find_model, weight_files
from model.weights.pickles import read_pickled
from model.weights.shapes import (
    ClipShape,
    bad_weights,
    check_tensors,
    read_grid,
    read_shape,
    resize_image_positions,
    resize_text_positions,
)
from model.weights.stand_ins import RefusedError
from model.weights.wrappers import find_state_dict, plain_names

logger = logging.getLogger(__name__)

SHARD = re.compile(r".*-\d{5}-of-(?!00001)\d{5}\.\w+")
OPENAI_URL = (
    "https://openaipublic.azureedge.net/clip/models/"
    "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f/ViT-B-16.pt"
)
# OpenAI keeps the text tower's tensors at the top level; `CLIP` has them under `text.`.
OPENAI_TEXT = ("transformer.", "token_embedding.", "positional_embedding", "ln_final.", "text_projection")
# What other projects keep beside CLIP's tensors, by the first part of its name, dropped as our own heads are:
# the heads of TBPS-CLIP and IRRA, then RDE's; OpenAI's three sizes in the form of buffers; the causal mask of
# traced models; the counter of torch's AveragedModel.
DROPPED = (
    *("cross_attn", "cross_modal_transformer", "ln_pre_t", "ln_pre_i", "ln_post"),
    *("visul_emb_layer", "texual_emb_layer"),
    *("input_resolution", "context_length", "vocab_size", "attn_mask", "n_averaged"),
)
SCALARS = ("logit_scale", "logit_bias")
# The first part of a name identifies some projects, and so the input that their weights were trained on.
TRAINED_ON = {
    "encode_text": "TBPS-CLIP, trained with data.image_size=[224,224] data.normalization=imagenet",
    "base_model": "IRRA or RDE, trained with data.image_size=[384,128] data.normalization=clip",
}
EXPECTED = (
    "OpenAI's archive, a state dict, safetensors, a folder of Hugging Face's CLIPModel or a checkpoint (of "
    "this project, TBPS-CLIP, IRRA, RDE) is expected"
)


@dataclass(frozen=True)
class ClipWeights:
    """The content of a weights file.

    Attributes:
        path: the file or folder, for messages.
        tensors: every parameter of `CLIP` by name, fp32.
        shape: the sizes of the towers.
        grid: rows and columns of patches of the image positions.
    """

    path: Path
    tensors: dict[str, Tensor]
    shape: ClipShape
    grid: tuple[int, int]

    def fitted_to(self, grid: tuple[int, int], text_length: int) -> dict[str, Tensor]:
        """The tensors, their position embeddings resized to a grid of patches and a text length."""
        image, text = "visual.positional_embedding", "text.positional_embedding"
        return self.tensors | {
            image: resize_image_positions(self.tensors[image], self.grid, grid),
            text: resize_text_positions(self.tensors[text], text_length),
        }


def load_clip_weights(path: str | Path, image_size: tuple[int, int] | None = None) -> ClipWeights:
    """Reads OpenAI's TorchScript archive, a state dict (bare, or under "model" or "state_dict"), safetensors,
    a folder of Hugging Face's `CLIPModel` (or a hub cache with one) or a checkpoint: of this project,
    TBPS-CLIP, IRRA or RDE. No code in the file is executed. What is dropped or initialised is logged.

    Args:
        path: a file, or a folder.
        image_size: (height, width) in pixels that the weights will be used at. It gives the grid of
            positions that are not square, if the file does not.

    Raises:
        UserError: no such file; a damaged one, one without weights, or a pickle that needs more than weights;
            a tensor that is missing, unexpected or of the wrong shape; patches whose grid is unknown.
    """
    path = Path(os.path.expanduser(path))  # Path's own raises where there is no such user
    content, options = _read_folder(path) if os.path.isdir(path) else _read_file(path)
    names = plain_names(path, content)
    beginnings = {name.split(".")[0] for name in names.plain.values()} | {*names.prefix.split(".")[-2:-1]}
    if "vision_model" in beginnings:
        raise bad_weights(
            path, "has Hugging Face's names; give its folder, whose config.json has the number of heads"
        )
    for name in TRAINED_ON.keys() & beginnings:
        logger.info("%s: a checkpoint of %s", path, TRAINED_ON[name])
    tensors = _rename(path, content, names.plain)
    if "base_model" in beginnings and "logit_scale" not in tensors:
        logger.info("%s: no logit_scale, as in IRRA and RDE: it starts at ln(1/0.07)", path)
        tensors["logit_scale"] = torch.tensor(math.log(1 / 0.07))
    shape = read_shape(path, tensors, options)
    patches = len(tensors["visual.positional_embedding"]) - 1
    grid = read_grid(path, patches, shape.patch_size, options, image_size)
    check_tensors(path, tensors, shape, grid)
    return ClipWeights(path, tensors, shape, grid)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file under the names of `CLIP`, fp32, without heads; raises as `load_clip_weights`."""
    content, _ = _read_file(path)
    return _rename(path, content, plain_names(path, content).plain)


def fill_heads(path: Path, heads: Mapping[str, nn.Module]) -> None:
    """Fill heads that act at test time from a checkpoint.

    Args:
        heads: by their names in it.

    Raises:
        UserError: a tensor of theirs is missing, unexpected or of another shape.
    """
    content, _ = _read_file(path)
    names = plain_names(path, content).plain
    for head_name, head in heads.items():
        own, prefix = head.state_dict(), f"{head_name}."
        saved = {n.removeprefix(prefix): content[name] for name, n in names.items() if n.startswith(prefix)}
        for name in sorted(own.keys() | saved.keys()):
            found, expected = (tuple(side[name].shape) if name in side else None for side in (saved, own))
            if found != expected:
                raise bad_weights(path, f"has '{prefix}{name}' of shape {found}; {expected} is expected")
        head.load_state_dict(saved)
        logger.info("%s: %s loaded, %d tensors", path, head_name, len(saved))


def _read_folder(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a Hugging Face folder under the names of `CLIP`, and its config.json as options."""
    folder = find_model(path, "clip", functools.partial(bad_weights, path))
    options = hf_clip.read_settings(folder)
    return hf_clip.our_names(read_folder(folder)), options


def read_folder(folder: Path) -> dict[str, Tensor]:
    """The tensors of a Hugging Face folder under its names, possibly views of its files.

    Raises:
        UserError: files that are missing, damaged or hold no tensors.
    """
    tensors: dict[str, Tensor] = {}
    for file in weight_files(folder):
        tensors |= _unwrap(file, _parse(file))[0]
    return tensors


def _read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state dict of a file that a user named, and the options saved with it."""
    if path.name.endswith(".index.json") or (SHARD.fullmatch(path.name) and path.is_file()):
        raise bad_weights(path, "is one of the files of a model in several; give their folder")
    return _unwrap(path, _parse(path))


def _parse(path: Path) -> Any:
    """The content of the file, under its own names and types."""
    if os.path.isdir(path):
        raise bad_weights(path, "is a folder; a weights file is expected")
    if os.path.islink(path) and not os.path.exists(path):
        raise bad_weights(path, f"is {describe_file(path)}")
    if not os.path.exists(path):
        advice = f"OpenAI's are at {OPENAI_URL}; model.clip_pretrained=null starts from random weights"
        raise bad_weights(path, f"does not exist. {advice}")
    if not path.is_file():  # reading a device or a pipe may never end
        raise bad_weights(path, f"is not a regular file; {EXPECTED}")
    try:
        return _read_safetensors(path) if _is_safetensors(path) else read_pickled(path)
    except RefusedError as error:
        raise bad_weights(path, f"is refused: {error}; {EXPECTED}") from error
    except Exception as error:  # a damaged file can raise anything in either parser
        what = describe_file(path)
        what = f"it is {what}" if what else f"it cannot be read ({type(error).__name__})"
        raise bad_weights(path, f"is damaged or holds no weights: {what}; {EXPECTED}") from error


def _is_safetensors(path: Path) -> bool:
    """Detected from the content: eight bytes of header length, then the header, a JSON object."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def _read_safetensors(path: Path) -> dict[str, Any]:
    """In the layout of our checkpoints: an exported one has its options in the metadata, as JSON."""
    with safetensors.safe_open(path, "pt") as file:
        options = json.loads((file.metadata() or {}).get("options", "null"))
    return {"model": safetensors.torch.load_file(path), "options": options}


def _unwrap(path: Path, content: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state dict, and the options saved with it: ours, or TBPS-CLIP's under "config"; else {}."""
    if not isinstance(content, dict):
        raise bad_weights(path, f"holds a {type(content).__name__}; a state dict is expected")
    nested = find_state_dict(path, content)
    options = content.get("options", content.get("config")) if nested is not None else None
    tensors = content if nested is None else nested
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise bad_weights(path, f"is not a state dict: its entry {name!r} is no tensor")
    return tensors, options if isinstance(options, dict) else {}


def _rename(path: Path, content: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """The names of `CLIP`, from those that `plain_names` returns, and fp32 copies: a parameter must not be a
    view of a file that may change. A scalar may be saved as a vector of one number.
    """
    tensors: dict[str, Tensor] = {}
    beside, at_test = {*head_names(), *DROPPED}, head_names(at_test=True)
    for name, tensor in content.items():
        name = names[name]
        if (first := name.split(".")[0]) in beside:
            action = "left to its head, if that is enabled:" if first in at_test else "dropped"
            logger.info("%s: %s %s, which is not part of CLIP", path, action, name)
            continue
        ours = name.removeprefix("encode_text.")
        ours = f"text.{ours}" if ours.startswith(OPENAI_TEXT) else ours
        if ours in tensors:
            raise bad_weights(path, f"holds {ours!r} under two names")
        tensor = tensor.detach().to(torch.float32, memory_format=torch.contiguous_format, copy=True)
        tensors[ours] = tensor.reshape(()) if ours in SCALARS and tensor.numel() == 1 else tensor
    return tensors
