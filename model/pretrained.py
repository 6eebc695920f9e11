"""Every format of CLIP weights -> our parameter names, strictly: each tensor is used, or named as dropped."""

import logging
import pickle
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from model.shapes import (
    ClipShape,
    bad_weights,
    check_tensors,
    read_grid,
    read_shape,
    resize_image_positions,
    resize_text_positions,
)
from model.torchscript import is_torchscript, read_torchscript

LOGGER = logging.getLogger(__name__)

OPENAI_URL = (
    "https://openaipublic.azureedge.net/clip/models/"
    "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f/ViT-B-16.pt"
)
# OpenAI keeps the text tower's tensors at the top level; ours lie under `text.`.
OPENAI_TEXT = ("transformer.", "token_embedding.", "positional_embedding", "ln_final.", "text_projection")
# What may lie beside CLIP's tensors and is dropped, by the first part of its name: the heads of training,
# OpenAI's three figures in the form of buffers, and the causal mask that traced models store.
DROPPED = (
    *("simclr_mlp", "simclr_mlp_text", "classifier", "mlm_head", "cross_attn", "cross_modal_transformer"),
    *("ln_pre_t", "ln_pre_i", "ln_post", "input_resolution", "context_length", "vocab_size", "attn_mask"),
)


@dataclass(frozen=True)
class ClipWeights:
    """The content of a weights file.

    Attributes:
        path: where it came from, for messages.
        tensors: every parameter of `CLIP` by name, fp32.
        shape: the sizes of the towers.
        grid: rows and columns of patches that the image positions are for.
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


def load_clip_weights(path: str | Path) -> ClipWeights:
    """Reads OpenAI's TorchScript archive, a state dict (bare, or under "model" or "state_dict"), safetensors
    or a checkpoint of ours. No code in the file is run. What is dropped is named in the log.

    Raises:
        UserError: no such file; damaged, no weights, or a pickle that asks for more than weights; a tensor
            that is missing, unexpected or of the wrong shape; patches that make no square, with no options to
            tell their grid.
    """
    path = Path(path)
    content, options = _unwrap(path, _parse(path))
    tensors = _rename(path, content)
    shape = read_shape(path, tensors, options)
    grid = read_grid(path, len(tensors["visual.positional_embedding"]) - 1, shape.patch_size, options)
    check_tensors(path, tensors, shape, grid)
    return ClipWeights(path, tensors, shape, grid)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by our names, fp32, without the heads; raises as `load_clip_weights`."""
    return _rename(path, _unwrap(path, _parse(path))[0])


def _parse(path: Path) -> Any:
    """What the file holds, in its own names and types."""
    if path.is_dir():
        raise bad_weights(path, "is a folder; a weights file is expected")
    if not path.exists():
        advice = f"Download OpenAI's from {OPENAI_URL}, or set null to start from random weights"
        raise bad_weights(path, f"does not exist. {advice}")
    try:
        if is_torchscript(path):
            return read_torchscript(path)
        if _is_safetensors(path):
            return safetensors.torch.load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (
        Exception
    ) as error:  # a damaged file fails anywhere in three parsers, with whatever they raise there
        expected = "OpenAI's archive, a state dict, safetensors or a checkpoint of this project is expected"
        refused = (
            re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        )
        if refused:
            problem = f"is refused: it asks for {refused[1]!r}, which no weights need"
        else:
            problem = f"is damaged or holds no weights ({type(error).__name__})"
        raise bad_weights(path, f"{problem}; {expected}") from error


def _is_safetensors(path: Path) -> bool:
    """Told by content: eight bytes of header length, then the header's JSON object."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def _unwrap(path: Path, content: Any) -> tuple[dict[Any, Any], dict[str, Any]]:
    """The state dict, and the options that a checkpoint of ours has beside it (others: none)."""
    if not isinstance(content, dict):
        raise bad_weights(path, f"holds a {type(content).__name__}; a state dict is expected")
    options = content.get("options")
    options = options if isinstance(options, dict) else {}
    for key in ("model", "state_dict"):
        if isinstance(content.get(key), dict):
            return content[key], options
    return content, {}


def _rename(path: Path, content: dict[Any, Any]) -> dict[str, Tensor]:
    """Our names and fp32 copies: a parameter must not be a view of a file that may change."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise bad_weights(path, f"is no state dict: its entry {name!r} is no tensor")
        if name.split(".")[0] in DROPPED:
            LOGGER.info("%s: dropped %s, which is no part of CLIP", path, name)
            continue
        ours = name.removeprefix("clip.")
        ours = f"text.{ours}" if ours.startswith(OPENAI_TEXT) else ours
        if ours in tensors:
            raise bad_weights(path, f"holds {ours!r} under two names")
        tensors[ours] = tensor.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
    return tensors
