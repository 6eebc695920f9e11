"""Decoding: every image of training, evaluation and `data.check` is read here. It does without torch."""

import logging
import os
import stat
import warnings
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from options import UserError

MAX_PIXELS = 89_478_485  # where Pillow begins to warn of decompression bombs: 1/4 GB at 3 bytes a pixel

# Pillow knows these by name, but needs another program to decode them, or cannot.
NOT_DECODED = {"BUFR", "EPS", "FITS", "GRIB", "HDF5", "MPEG", "WMF"}

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Pillow warns of what is handled here, in messages that name no file.
warnings.filterwarnings("ignore", module="PIL")
logging.getLogger("PIL").setLevel(logging.CRITICAL)


class BadImageError(UserError):
    """An image that cannot be read; what `data.on_bad_image` decides about, in training."""


def load_image(path: str | Path) -> Image.Image:
    """The image as 8-bit RGB, upright by its EXIF tag; what is transparent becomes white.

    Of an animation it is the first image.

    Raises:
        BadImageError: a file that is missing, no regular file, no image, cut short, of more than `MAX_PIXELS`
            pixels, or of 32 bits a pixel, of which nothing says what is white.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # to open a pipe is to wait for whoever writes into it
            raise OSError("it is no regular file")
        with Image.open(path) as file:
            if file.width * file.height > MAX_PIXELS:
                raise ValueError(
                    f"{file.width} x {file.height} pixels, but at most {MAX_PIXELS:,} are decoded"
                )
            if file.format in NOT_DECODED:
                raise ValueError(f"the format {file.format} is not decoded")
            file.load()
            turn = UPRIGHT.get(orientation(file))
            return _to_rgb(file if turn is None else file.transpose(turn))
    except Exception as error:  # a decoder can raise anything on damaged bytes
        reason = " ".join(str(error).split()) or type(error).__name__
        reason = "it is not there" if isinstance(error, FileNotFoundError) else reason
        message = f"image '{path}' cannot be read ({reason}). Replace it, or drop its record"
        raise BadImageError(message) from error


def orientation(image: Image.Image) -> int:
    """How the image's EXIF tag says that it is turned, a key of `UPRIGHT`; 1: not, or it does not say."""
    try:
        number = image.getexif().get(ExifTags.Base.Orientation)
        return number if number in UPRIGHT else 1
    except Exception:  # a damaged EXIF block says nothing of the pixels
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("floating-point pixels, of which nothing says what is white")
    if image.mode.startswith("I"):  # PIL clips 16 bits at 255, which is white nearly everywhere
        pixels = np.asarray(image)
        if pixels.min() < 0 or pixels.max() > 0xFFFF:
            raise ValueError("pixels of 32 bits, of which nothing says what is white")
        return Image.fromarray((pixels >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:  # what lies under transparent pixels is arbitrary
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
