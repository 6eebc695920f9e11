"""Reads a file or a folder of weights: its tensors under the names in it, and the options saved with them."""

import json
import logging
import os
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from misc.process.sniff import describe_file
from model.weights.hub_folders import WEIGHTS, weight_files
from model.weights.pickles import damaged_entry, read_pickled
from model.weights.shapes import bad_weights
from model.weights.stand_ins import RefusedError
from model.weights.wrappers import find_state_dict

logger = logging.getLogger(__name__)
SHARD = re.compile(r".*-\d{5}-of-(?!00001)\d{5}\.\w+")
OPENAI_URL = (
    "https://openaipublic.azureedge.net/clip/models/"
    "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f/ViT-B-16.pt"
)
EXPECTED = (
    "OpenAI's archive, a state dict, safetensors, a folder of Hugging Face's CLIPModel or a checkpoint (of "
    "this project, TBPS-CLIP, IRRA, RDE) is expected"
)


def read_folder(folder: Path, names: Sequence[str] = WEIGHTS) -> dict[str, Tensor]:
    """The tensors of a model folder under its names, possibly views of its files.

    Args:
        names: of the weights, each in one file or, with an index, in several.

    Raises:
        UserError: files that are missing, damaged or hold no tensors.
    """
    tensors: dict[str, Tensor] = {}
    for file in weight_files(folder, names):
        tensors |= _unwrap(file, _parse(file))[0]
    return tensors


def read_file(path: Path, again: bool = False) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state dict of a file that a user named, and the options saved with it.

    Args:
        again: the file has been read before: nothing is logged, and no checksum compared.
    """
    if path.name.endswith(".index.json") or (SHARD.fullmatch(path.name) and path.is_file()):
        raise bad_weights(path, "is one of the files of a model in several; give their folder")
    return _unwrap(path, _parse(path, again), again)


def _parse(path: Path, again: bool = False) -> Any:
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
        content = _read_safetensors(path) if _is_safetensors(path) else read_pickled(path)
        damaged = damaged_entry(path) if zipfile.is_zipfile(path) and not again else None
    except RefusedError as error:
        raise bad_weights(path, f"is refused: {error}; {EXPECTED}") from error
    except Exception as error:  # a damaged file can raise anything in either parser
        what = describe_file(path)
        what = f"it is {what}" if what else f"it cannot be read ({type(error).__name__})"
        raise bad_weights(path, f"is damaged or holds no weights: {what}; {EXPECTED}") from error
    if damaged:
        raise bad_weights(
            path, f"is damaged: the checksum of '{damaged}' in it does not match; copy it again"
        )
    return content


def _is_safetensors(path: Path) -> bool:
    """Detected from the content: eight bytes of header length, then the header, a JSON object."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def _read_safetensors(path: Path) -> dict[str, Any]:
    """In the layout of our checkpoints: an exported one has its options in the metadata, as JSON."""
    with safetensors.safe_open(path, "pt") as file:
        options = json.loads((file.metadata() or {}).get("options", "null"))
    return {"model": safetensors.torch.load_file(path), "options": options}


def _unwrap(path: Path, content: Any, again: bool = False) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state dict, and the options saved with it: ours, or TBPS-CLIP's under "config"; else {}."""
    if not isinstance(content, dict):
        raise bad_weights(path, f"holds a {type(content).__name__}; a state dict is expected")
    nested = find_state_dict(path, content, again)
    options = content.get("options", content.get("config")) if nested is not None else None
    tensors = content if nested is None else nested
    others = [name for name in tensors if not (isinstance(name, str) and isinstance(tensors[name], Tensor))]
    damaged = others if len(others) == len(tensors) else [name for name in others if "." in str(name)]
    if damaged:
        raise bad_weights(path, f"is not a state dict: its entry {damaged[0]!r:.100} is no tensor")
    if others and not again:
        listed = ", ".join(f"{name!r:.60}" for name in others[:4])
        logger.warning("weights '%s': entries that are no tensors are not used: %s", path, listed)
    weights = {name: tensor for name, tensor in tensors.items() if name not in others}
    return weights, options if isinstance(options, dict) else {}
