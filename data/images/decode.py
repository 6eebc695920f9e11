"""Decoding: every image of training, evaluation, search and `data.check` is read here, without torch."""

import os
import stat
import threading
from collections.abc import Iterator
from functools import cache, lru_cache
from importlib import import_module
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageFile, JpegImagePlugin, PngImagePlugin, UnidentifiedImageError

from data.images import raw
from data.images.contained import place_of, read_content, read_image
from data.images.regions import region_of, whole_image, within
from misc.process.failures import reason_of
from misc.process.libraries import quieten
from misc.process.sniff import NUM_BYTES, describe_bytes, describe_file
from options import UserError

MAX_PIXELS = 89_478_485  # where Pillow begins to warn of decompression bombs: 1/4 GB at 3 bytes a pixel
# The largest JPEGs that are decoded at reduced size, if that is wanted. Of a progressive one, libjpeg holds
# all coefficients, 2 bytes each.
MAX_JPEG, MAX_PROGRESSIVE = 4 * MAX_PIXELS, 3 * MAX_PIXELS // 2
REDUCED = 4  # they have a quarter of their width and height
SIZE_IN_FILE = "size in the file"  # the key in `info` of such a JPEG

STRIP = 1 << 20  # pixels converted at once where an image is reduced or has transparency

# Pillow knows these by name, but needs another program to decode them, or cannot.
NOT_DECODED = {"BUFR", "EPS", "FITS", "GRIB", "HDF5", "MPEG", "WMF"}

# Plugins of Pillow that are used where they are installed, and the function that registers each.
PLUGINS = {
    "pillow_heif": "register_heif_opener",
    "pi_heif": "register_heif_opener",
    "pillow_avif": "",
    "pillow_jxl": "",
}
# What `describe_file` says of files that need one: their suffixes, and what to install.
NEED_PLUGIN = {
    "a HEIC image": ({".heic", ".heif"}, "pillow-heif"),
    "an AVIF image": ({".avif"}, "pillow-avif-plugin"),
    "a JPEG XL image": ({".jxl"}, "pillow-jxl-plugin"),
}
# Folders where archives, network drives, recycle bins and programs keep files that look like images.
NO_IMAGES = {"__MACOSX", "@eaDir", "#recycle", "#snapshot", "$RECYCLE.BIN", "System Volume Information"}
NO_IMAGES |= {"lost+found", "node_modules"}

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
QUARTER_TURNS = (5, 6, 7, 8)

_lenient = threading.Lock()  # the switch of Pillow for truncated files is one for all threads


class BadImageError(UserError):
    """An image that cannot be read; what `data.on_bad_image` decides about, in training."""

    reason = ""  # without the file's name


def load_image(
    path: str | Path,
    truncated: str = "error",
    at_most: tuple[int, int] | None = None,
    large: bool = False,
    content: bytes | None = None,
) -> Image.Image:
    """The image as 8-bit RGB, upright by its EXIF tag; what is transparent becomes white.

    Of an animation it is the first image.

    Args:
        truncated: as `data.truncated`; with "accept" what a truncated file lacks is gray or black.
        at_most: reduce the image to fit this width and height. It is reduced as it is decoded, or else as it
            is converted, so that it takes at most some 4 bytes of memory for each pixel of the file.
        large: decode a JPEG of more than `MAX_PIXELS` pixels, too, at a quarter of its width and height, as
            with `at_most`; without that, `info[SIZE_IN_FILE]` is then its width and height, upright.
        content: that of the file, where the caller has read it.

    Raises:
        BadImageError: a file that is missing, no regular file, no image, cut short, of more than `MAX_PIXELS`
            pixels, or of 32 bits a pixel, of which nothing says what is white.
    """
    try:
        try:
            return _decode(path, at_most, large, content)
        except Exception as error:
            if truncated == "error" or not _is_truncated(error):
                raise
        with _lenient:
            ImageFile.LOAD_TRUNCATED_IMAGES = True
            try:
                return _decode(path, at_most, large, content)
            finally:
                ImageFile.LOAD_TRUNCATED_IMAGES = False
    except Exception as error:  # a decoder can raise anything on damaged bytes
        reason = _reason(path, error, truncated)
        bad = BadImageError(f"image '{path}' cannot be read ({reason}). Replace it, or drop its record")
        bad.reason = reason
        raise bad from error


def open_image(path: str | Path, large: bool = False, content: bytes | None = None) -> Image.Image:
    """The image, of which only the header is read; the arguments are those of `load_image`. Raises whatever
    Pillow raises, OSError for a pipe.

    It may be in a row of a file, see `data.images.contained`, or a region of another image, which is decoded.
    """
    _prepare_pillow()
    if content is None and (region := region_of(path)):
        return _cropped(*region)
    if content is None and (place := place_of(path)):
        content = read_image(*place)
    if content is None and not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError("it is no regular file")  # to open a pipe is to wait for whoever writes into it
    if raw.is_raw(path):
        return raw.RawPhoto(_source(path, content))
    try:
        return Image.open(_source(path, content))
    except Image.DecompressionBombError:
        if not large:
            raise
        return JpegImagePlugin.JpegImageFile(_source(path, content))


def _source(path: str | Path, content: bytes | None) -> str | Path | BytesIO:
    return path if content is None else BytesIO(content)


def image_content(path: str | Path) -> bytes:
    """The file of an image; of a region, a PNG file of it. Raises whatever Pillow raises, OSError."""
    if not region_of(path):
        return read_content(Path(path))
    stream = BytesIO()
    open_image(path).save(stream, "PNG")
    return stream.getvalue()


def image_suffixes() -> set[str]:
    """The lower-case suffixes of all formats that are decoded, if need be with a plugin."""
    _prepare_pillow()
    known = Image.registered_extensions()
    decoded = {suffix for suffix, name in known.items() if name in Image.OPEN and name not in NOT_DECODED}
    return decoded.union(raw.SUFFIXES, *(suffixes for suffixes, _ in NEED_PLUGIN.values()))


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is none that a user put there, such as `._a.jpg` of macOS."""
    return name.startswith(".") or name in NO_IMAGES


@cache
def _prepare_pillow() -> None:
    """Register the plugins that are installed; let PNG files hold texts as long as the largest image; silence
    Pillow, which warns of what is handled here, also in a program that is not ours.
    """
    quieten()
    for module, function in PLUGINS.items():
        try:
            plugin = import_module(module)
        except ImportError:
            continue
        if function:
            getattr(plugin, function)()
    PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 3 * MAX_PIXELS


def _decode(
    path: str | Path, at_most: tuple[int, int] | None, large: bool, content: bytes | None
) -> Image.Image:
    large = large or at_most is not None
    with open_image(path, large, content) as file:
        if file.width * file.height > MAX_PIXELS:
            _quarter(file, large)
        elif at_most:  # a JPEG is decoded at a half, a quarter or an eighth
            file.draft(None, (min(at_most), min(at_most)))
        if file.format in NOT_DECODED:
            raise ValueError(f"the format {file.format} is not decoded")
        file.load()
        turn = UPRIGHT.get(number := orientation(file))
        if at_most:
            image = _reduced(file, at_most[::-1] if number in QUARTER_TURNS else at_most)
        else:
            image = _to_rgb(file)
        return image if turn is None else image.transpose(turn)


def _reduced(file: Image.Image, at_most: tuple[int, int]) -> Image.Image:
    """The image as RGB, reduced to fit a width and height."""
    width, height = file.size
    factor = max(1, int(max(width / at_most[0], height / at_most[1])))
    image = Image.new("RGB", (-(-width // factor), -(-height // factor)))
    for top, strip in _strips(file, factor):
        image.paste(_to_rgb(strip).reduce(factor), (0, top // factor))
    image.thumbnail(at_most)
    return image


def _strips(image: Image.Image, factor: int = 1) -> Iterator[tuple[int, Image.Image]]:
    """Parts of a multiple of `factor` rows, and where they begin: to convert all pixels at once takes several
    times the memory.
    """
    rows = factor * max(1, STRIP // (factor * image.width))
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _quarter(file: Image.Image, wanted: bool) -> None:
    """Let a JPEG be decoded at a quarter of its size; ValueError: that is not wanted, or not possible."""
    (width, height), limit = file.size, MAX_PIXELS
    if wanted and isinstance(file, JpegImagePlugin.JpegImageFile):
        limit = MAX_PROGRESSIVE if "progressive" in file.info else MAX_JPEG
    if width * height > limit:
        raise ValueError(f"{width} x {height} pixels, but at most {limit:,} are decoded")
    file.draft(None, (width // REDUCED, height // REDUCED))
    is_turned = orientation(file) in QUARTER_TURNS
    file.info[SIZE_IN_FILE] = (height, width) if is_turned else (width, height)


def _cropped(path: str, box: tuple[int, int, int, int]) -> Image.Image:
    """The part of a box (left, top, width, height) that is within the image at `path`."""
    status = os.stat(place[0] if (place := place_of(path)) else path)
    whole = _last_decoded(path, (status.st_size, status.st_mtime_ns), ImageFile.LOAD_TRUNCATED_IMAGES)
    corners = within((box[0], box[1], box[0] + box[2], box[1] + box[3]), whole.size)
    if corners is None:
        raise ValueError(f"the region is outside of the image of {whole.width} x {whole.height} pixels")
    part = whole.crop(corners)
    part.info.clear()  # its EXIF tags are the whole image's, which was turned already
    return part


@lru_cache(maxsize=1)  # the regions of an image usually follow each other
def _last_decoded(path: str, stamp: tuple[int, int], is_lenient: bool) -> Image.Image:
    """The image at `path`; the other arguments tell its states apart."""
    return _decode(path, None, False, None)


def _is_truncated(error: Exception) -> bool:
    """Whether only pixels are missing: "Truncated File Read" is of a file that ends within its header."""
    return isinstance(error, OSError) and "file is truncated" in str(error)


def _reason(path: str | Path, error: Exception, truncated: str) -> str:
    """Why a file cannot be read; of one that is no image, what it is."""
    if isinstance(error, FileNotFoundError):
        return "it is not there"
    if isinstance(error, ImportError) and raw.is_raw(path):
        return "it is a raw photo, which needs rawpy: pip install rawpy"
    reason = reason_of(error)
    if truncated == "error" and _is_truncated(error):
        return f"{reason}; data.truncated=accept uses what is there"
    if not isinstance(error, UnidentifiedImageError):
        return reason
    path = whole_image(os.fspath(path))
    place = place_of(path)
    what = describe_bytes(read_image(*place)[:NUM_BYTES]) if place else describe_file(path)
    if what is None:
        return "its format is not known"
    suffixes, plugin = NEED_PLUGIN.get(what, (set(), ""))
    if suffixes - Image.registered_extensions().keys():
        return f"it is {what}, which needs a plugin of Pillow: pip install {plugin}"
    return f"it begins as {what} does, and is damaged" if what.endswith("image") else f"it is {what}"


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
        opaque = Image.new("RGB", image.size)
        for top, strip in _strips(image):
            white = Image.new("RGBA", strip.size, "white")
            opaque.paste(Image.alpha_composite(white, strip.convert("RGBA")).convert("RGB"), (0, top))
        return opaque
    return image if image.mode == "RGB" else image.convert("RGB")
