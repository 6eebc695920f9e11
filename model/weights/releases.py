"""The input that the checkpoints of public releases were trained on, which their layout tells."""

from dataclasses import replace
from pathlib import Path

from config.data import DataOptions, prepared
from model.weights.files import read_file
from model.weights.pretrained import layout_of
from model.weights.shapes import saved_image_size
from model.weights.wrappers import plain_names
from options import UserError


def preparation_of_release(path: Path) -> DataOptions | None:
    """The preparation that a released checkpoint was trained with; None for other files, and for those that
    cannot be read, as loading will report.

    Its image size is null, not known, where the tensors have positions for another one.
    """
    try:
        content, options = read_file(path, again=True)
        layout = layout_of(content)
        if layout is None:
            return None
        data = prepared(DataOptions(preparation=layout, image_size=saved_image_size(path, options)))
        names = plain_names(path, content, again=True)
    except UserError:
        return None
    shapes = {plain: tuple(content[name].shape) for name, plain in names.items()}
    patch, positions = shapes.get("visual.conv1.weight"), shapes.get("visual.positional_embedding")
    rows, columns = (side // patch[-1] for side in data.image_size) if patch and all(patch) else (0, 0)
    fits = positions and positions[0] == 1 + rows * columns
    return data if fits else replace(data, image_size=None)
