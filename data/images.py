"""Decoding: every image of training, evaluation and `data.check` is read here. It does without torch."""

import struct
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from options import UserError

# What Pillow raises on damaged files of one format or another.
FAILURES = (OSError, SyntaxError, ValueError, EOFError, NotImplementedError, struct.error)
FAILURES += (Image.DecompressionBombError,)


def load_image(path: str | Path) -> Image.Image:
    """The image as 8-bit RGB, upright by its EXIF tag; what is transparent becomes white.

    Raises:
        UserError: a file that is missing, no image, or cut short.
    """
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            return image if image.mode == "RGB" else _to_rgb(image)
    except FAILURES as error:
        reason = "it is not there" if isinstance(error, FileNotFoundError) else " ".join(str(error).split())
        raise UserError(
            f"image '{path}' cannot be read ({reason}). Download it anew, or drop its record"
        ) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # PIL clips 16 bits at 255, which is white nearly everywhere
        return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:  # what lies under transparent pixels is arbitrary
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")
