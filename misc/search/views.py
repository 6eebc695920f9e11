"""Pictures of the entries of an index, whatever part of a photo or a video they are."""

import math
from pathlib import Path

from PIL import Image

from data.images.decode import SIZE_IN_FILE, BadImageError, load_image
from data.images.regions import Region, place_of, widened, within


def load_view(
    root: Path, path: str, truncated: str = "error", at_most: tuple[int, int] | None = None, margin: float = 0
) -> Image.Image:
    """What the encoder saw of an entry: the whole image, or a person with a margin around the box.

    Args:
        path: as `Entry.path`.
        truncated, at_most: as for `load_image`.
        margin: that of the index of people.

    Raises:
        UserError: it cannot be read.
    """
    place = place_of(path)
    if place.box is None:
        return load_scene(root, path, truncated, at_most)
    image = crop_of(load_scene(root, path, truncated), place.box, margin)
    if at_most:
        image.thumbnail(at_most, Image.Resampling.LANCZOS)
    return image


def load_scene(
    root: Path, path: str, truncated: str = "error", at_most: tuple[int, int] | None = None
) -> Image.Image:
    """The whole photo of an entry, or the whole frame of the video; as `load_view`."""
    place = place_of(path)
    if place.time is None:
        return load_image(root / place.file, truncated, at_most, large=True)
    from misc.detection.video import frame_at

    image = frame_at(root / place.file, place.time)
    if at_most:
        image.thumbnail(at_most, Image.Resampling.LANCZOS)
    return image


def crop_of(image: Image.Image, box: Region, margin: float) -> Image.Image:
    """The part of a region, with a margin, that is within the image: the pixels of which it has a part.

    Args:
        box: in pixels of the file; `load_image` may have decoded it at reduced size.

    Raises:
        BadImageError: no part of it is within the image.
    """
    left, top, width, height = widened(box, margin)
    across, down = scale_of(image)
    starts = math.floor(left * across), math.floor(top * down)
    ends = math.ceil((left + width) * across), math.ceil((top + height) * down)
    inside = within((*starts, *ends), image.size)
    if inside is None:
        width, height = full_size(image)
        error = BadImageError(f"the box {box} is outside of its image of {width} x {height} pixels")
        error.reason = str(error)
        raise error
    return image.crop(inside)


def scale_of(image: Image.Image) -> tuple[float, float]:
    """Width and height of an image as shares of those in its file."""
    width, height = full_size(image)
    return image.width / width, image.height / height


def full_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of an image in its file."""
    return image.info.get(SIZE_IN_FILE, image.size)
