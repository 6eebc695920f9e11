"""Every format of CLIP weights -> the names of `CLIP`, strictly: each is used, or logged as dropped."""

import functools
import logging
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from config.data import PREPARATIONS
from model.objectives import head_names
from model.weights import hf_clip, open_clip
from model.weights.files import read_file, read_folder
from model.weights.heads import UNREAD, places
from model.weights.hub_folders import (
    CONFIG,
    OPEN_CLIP_CONFIG,
    OPEN_CLIP_WEIGHTS,
    find_model,
    is_of_open_clip,
    read_config,
)
from model.weights.shapes import (
    ClipShape,
    bad_weights,
    check_tensors,
    likely_shape,
    other_sizes,
    read_grid,
    read_shape,
    resize_image_positions,
    resize_text_positions,
)
from model.weights.wrappers import plain_names, without_wrappers

logger = logging.getLogger(__name__)

# OpenAI keeps the text tower's tensors at the top level; `CLIP` has them under `text.`.
OPENAI_TEXT = ("transformer.", "token_embedding.", "positional_embedding", "ln_final.", "text_projection")
# What files hold beside the towers and the heads, dropped: OpenAI's three sizes in the form of buffers; the
# causal mask of traced models; the counter of torch's AveragedModel.
DROPPED = ("input_resolution", "context_length", "vocab_size", "attn_mask", "n_averaged")
# No tensor shows these options. Only OpenAI's archives have these sizes in the form of buffers.
HIDDEN = frozenset({"image_heads", "text_heads", "activation"})
OPENAI_SIZES = {"input_resolution", "context_length", "vocab_size"}
SCALARS = ("logit_scale", "logit_bias")
# What identifies the layout of a release, by its preparation, in names without what wrappers add.
LAYOUTS = {
    "tbps-clip": re.compile(r"(.+\.)?encode_text\."),
    "irra": re.compile(r"(.+\.)?base_model\.visual\."),
}
TOWERS = ("visual.", *OPENAI_TEXT, *SCALARS, *DROPPED)
# Heads that a pretraining on persons may leave beside the encoders: it knows no person to classify.
OF_MLM = {"cross_attn", "cross_modal_transformer", "ln_pre_t", "ln_pre_i", "ln_post", "mlm_head"}
# What such encoders are of, by whether there is no head and every name begins with "module.".
PERSON_PRETRAINED = {
    True: "NAM, pretrained on persons (LUPerson-MLLM); best0.pth, best1.pth and best2.pth were each picked "
    "on the test set that it is for (CUHK-PEDES, ICFG-PEDES, RSTPReid), on which its figures are too high",
    False: "a pretraining on persons, such as HAM or GA-DMS",
}


@dataclass(frozen=True)
class ClipWeights:
    """The content of a weights file.

    Attributes:
        path: the file or folder, for messages.
        tensors: every parameter of `CLIP` by name, fp32.
        shape: the sizes of the towers.
        grid: rows and columns of patches of the image positions.
        assumed: fields of `shape` that nothing tells, and that may therefore be given another value.
        is_release: of TBPS-CLIP, IRRA, RDE or ITSELF, which start from OpenAI's weights.
    """

    path: Path
    tensors: dict[str, Tensor]
    shape: ClipShape
    grid: tuple[int, int]
    assumed: frozenset[str] = frozenset()
    is_release: bool = False

    def fitted_to(self, grid: tuple[int, int], text_length: int) -> dict[str, Tensor]:
        """The tensors, their position embeddings resized to a grid of patches and a text length."""
        image, text = "visual.positional_embedding", "text.positional_embedding"
        return self.tensors | {
            image: resize_image_positions(self.tensors[image], self.grid, grid),
            text: resize_text_positions(self.tensors[text], text_length),
        }


def layout_of(names: Iterable[str]) -> str | None:
    """The layout of a state dict, by the names in its file: "tbps-clip"; "irra", which RDE, NAM and HAM have
    too; None: none of a release.
    """
    plain = [without_wrappers(name) for name in names]
    return next((layout for layout, mark in LAYOUTS.items() if any(map(mark.match, plain))), None)


def load_clip_weights(path: str | Path, image_size: tuple[int, int] | None = None) -> ClipWeights:
    """Reads OpenAI's TorchScript archive, a state dict (bare or in a container), safetensors, a folder of
    Hugging Face's `CLIPModel` or of open_clip (or a hub cache with one) or a checkpoint: of this project,
    TBPS-CLIP, IRRA, RDE or ITSELF. No code in the file is executed. What is dropped or initialised is logged.

    Args:
        path: a file, or a folder.
        image_size: (height, width) in pixels that the weights will be used at. It gives the grid of
            positions that are not square, if the file does not.

    Raises:
        UserError: no such file; a damaged one, one without weights, or a pickle that needs more than weights;
            a tensor that is missing, unexpected or of the wrong shape; patches whose grid is unknown; a
            configuration that describes another model.
    """
    path = Path(os.path.expanduser(path))  # Path's own raises where there is no such user
    content, options = _read_folder(path) if os.path.isdir(path) else read_file(path)
    names = plain_names(path, content)
    beginnings = {name.split(".")[0] for name in names.values()}
    if "vision_model" in beginnings:
        content = _rename_transformers(path, {names[name]: content[name] for name in content})
        names = plain_names(path, content)
    layout = layout_of(content)
    if layout:
        logger.info("%s: a checkpoint of %s", path, _title(layout, names))
    tensors = _rename(path, content, names)
    if layout == "irra" and "logit_scale" not in tensors:
        logger.info("%s: no logit_scale, as in IRRA, RDE and ITSELF: it starts at ln(1/0.07)", path)
        tensors["logit_scale"] = torch.tensor(math.log(1 / 0.07))
    options, assumed = _settings(path, tensors, options, beginnings)
    shape = read_shape(path, tensors, options)
    if assumed:
        shape = likely_shape(shape)
    patches = len(tensors["visual.positional_embedding"]) - 1
    trained = PREPARATIONS[layout].image_size if layout else None
    grid = read_grid(path, patches, shape.patch_size, options, image_size, trained)
    check_tensors(path, tensors, shape, grid)
    return ClipWeights(path, tensors, shape, grid, assumed, is_release=layout is not None)


def _title(layout: str, names: Mapping[str, str]) -> str:
    """The releases that a layout is of, told apart by their heads; and what they were trained on.

    Args:
        names: in the file: without wrappers.
    """
    title = {"tbps-clip": "TBPS-CLIP", "irra": "IRRA, RDE or ITSELF"}[layout]
    heads = {name.split(".")[0] for name in names.values() if not name.startswith(TOWERS)}
    if layout == "irra" and heads <= OF_MLM:
        title = PERSON_PRETRAINED[not heads and all(name.startswith("module.") for name in names)]
    return f"{title}; trained with data.preparation={layout}"


def _settings(
    path: Path, tensors: dict[str, Tensor], options: dict[str, Any], beginnings: set[str]
) -> tuple[dict[str, Any], frozenset[str]]:
    """The options that describe the weights, and which of `HIDDEN` nothing tells.

    Told are those of a folder, by its configuration; of a run, ours or TBPS-CLIP's, where null is what OpenAI
    has; of OpenAI's archives, by the sizes that only these have; of any file beside a configuration.
    """
    if os.path.isdir(path):
        if wrong := other_sizes(read_shape(path, tensors, options), options):
            raise bad_weights(path, f"has a configuration and tensors that disagree: {', '.join(wrong)}")
        return options, frozenset()
    is_run = any(isinstance(options.get(section), dict) for section in ("model", "experiment"))
    if is_run or beginnings >= OPENAI_SIZES:
        return options, frozenset()
    beside = _settings_beside(path, read_shape(path, tensors, options))
    return (beside, frozenset()) if beside else (options, HIDDEN)


def _settings_beside(path: Path, shape: ClipShape) -> dict[str, Any]:
    """The settings of a configuration beside a file, in the layout of our options; {}: none describes it."""
    for name, read in ((OPEN_CLIP_CONFIG, open_clip.read_settings), (CONFIG, hf_clip.read_settings)):
        file = path.parent / name
        if not file.exists() or (name == CONFIG and read_config(path.parent).get("model_type") != "clip"):
            continue
        settings = read(path.parent)
        if wrong := other_sizes(shape, settings):
            logger.warning("%s: '%s' describes another model: %s", path, file, ", ".join(wrong))
            continue
        logger.info("%s: heads and activation are those of '%s'", path, file)
        return settings
    return {}


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file under the names of `CLIP`, fp32, without heads; raises as `load_clip_weights`."""
    return read_saved(path)[0]


def read_saved(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of `read_tensors`, and the options saved with them."""
    content, options = read_file(path)
    return under_our_names(path, content), options


def under_our_names(path: Path, content: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file or folder under the names of `CLIP`, fp32, without heads."""
    return _rename(path, content, plain_names(path, content))


def _read_folder(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a folder of transformers or open_clip, and its configuration as options."""
    folder = find_model(path, ("clip",), functools.partial(bad_weights, path))
    if is_of_open_clip(folder):
        return read_folder(folder, OPEN_CLIP_WEIGHTS), open_clip.read_settings(folder)
    options = hf_clip.read_settings(folder)
    return hf_clip.our_names(read_folder(folder)), options


def _rename_transformers(path: Path, content: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names of `CLIP` for those of transformers, in a file beside its config.json."""
    if read_config(path.parent).get("model_type") != "clip":
        problem = "has Hugging Face's names; give its folder, whose config.json has the number of heads"
        raise bad_weights(path, problem)
    return hf_clip.our_names(content)


def _rename(path: Path, content: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """The names of `CLIP`, from those that `plain_names` returns, and fp32 copies: a parameter must not be a
    view of a file that may change. A scalar may be saved as a vector of one number.
    """
    tensors: dict[str, Tensor] = {}
    not_of_clip, beside = {*head_names(), *UNREAD, *DROPPED}, Counter()
    placed = places({names[name]: tensor for name, tensor in content.items()})
    for name, tensor in content.items():
        group, _ = placed[names[name]]
        if group in not_of_clip:
            beside[group] += 1
            continue
        ours = names[name].removeprefix("encode_text.")
        ours = f"text.{ours}" if ours.startswith(OPENAI_TEXT) else ours
        if ours in tensors:
            raise bad_weights(path, f"holds {ours!r} under two names")
        tensor = tensor.detach().to(torch.float32, memory_format=torch.contiguous_format, copy=True)
        tensors[ours] = tensor.reshape(()) if ours in SCALARS and tensor.numel() == 1 else tensor
    if beside:
        listed = ", ".join(f"{group} ({count})" for group, count in beside.items())
        logger.info("%s: tensors that are not part of the towers: %s", path, listed)
    return tensors
