"""What the layout of a public release's checkpoint tells: the input it was trained on, and its recipe."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import config
from config.data import PREPARATIONS, DataOptions, prepared
from model.weights.files import read_file
from model.weights.heads import BRANCHES, is_of_itself
from model.weights.pretrained import layout_of
from model.weights.shapes import read_grid
from model.weights.wrappers import plain_names
from options import UserError

RECIPES = {"tbps-clip": "config.yaml", "irra": "irra.yaml"}


class Release(NamedTuple):
    """Attributes:
    data: the preparation; its image size is null where the positions do not tell it.
    recipe: the file of options to use the weights with, where nothing else is given.
    """

    data: DataOptions
    recipe: Path


def read_release(path: Path) -> Release | None:
    """What the layout of a released checkpoint tells; None for other files, and for those that cannot be
    read, as loading will report.
    """
    try:
        content, options = read_file(path, again=True)
        layout = layout_of(content)
        if layout is None:
            return None
        names = plain_names(path, content, again=True)
    except UserError:
        return None
    tensors = {plain: content[name] for name, plain in names.items()}
    size = _image_size(path, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, options, layout)
    has_branch = any(name.split(".")[0] in BRANCHES for name in tensors)
    recipe = "itself.yaml" if is_of_itself(tensors) else "rde.yaml" if has_branch else RECIPES[layout]
    data = replace(prepared(DataOptions(preparation=layout)), image_size=size)
    return Release(data, config.FOLDER / recipe)


def _image_size(
    path: Path, shapes: dict[str, tuple[int, ...]], options: dict[str, Any], layout: str
) -> tuple[int, int] | None:
    """(height, width) of the images that the positions are of; None where they do not tell."""
    patch, positions = shapes.get("visual.conv1.weight"), shapes.get("visual.positional_embedding")
    if not positions or not patch or not all(patch):
        return None
    try:
        trained = PREPARATIONS[layout].image_size
        rows, columns = read_grid(path, positions[0] - 1, patch[-1], options, None, trained)
    except UserError:
        return None
    return rows * patch[-1], columns * patch[-1]
