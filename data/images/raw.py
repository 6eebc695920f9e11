"""Raw photos of cameras, developed by `rawpy` (LibRaw) where it is installed."""

import os

from PIL import Image, ImageFile

# Of these, Pillow would show the small preview that most have inside, or nothing.
NAMES = "3fr arw cr2 cr3 crw dcr dng erf fff iiq kdc mef mos mrw nef nrw orf pef raf rw2 rwl sr2 srf srw x3f"
SUFFIXES = {f".{name}" for name in NAMES.split()}


def is_raw(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a raw photo, by its name."""
    return os.path.splitext(path)[1].lower() in SUFFIXES


class RawPhoto(ImageFile.ImageFile):
    """A raw photo as 8-bit sRGB, upright, with the camera's white balance and LibRaw's other defaults.

    Raises ImportError where `rawpy` is not installed, OSError where LibRaw cannot read the photo.
    """

    format = "RAW"
    format_description = "raw photo"

    def _open(self) -> None:
        import rawpy

        try:
            self._raw = rawpy.imread(self.fp)
        except rawpy.LibRawError as error:
            raise OSError(f"LibRaw cannot read it: {error.args[0].decode()}") from error
        sizes = self._raw.sizes
        width, height = sizes.iwidth, sizes.iheight
        self._mode, self._size = "RGB", (height, width) if sizes.flip in (5, 6) else (width, height)

    def load(self) -> None:
        """Develop it, at the first call."""
        if self._raw is not None:
            photo = Image.fromarray(self._raw.postprocess(use_camera_wb=True))
            self._raw.close()
            self._raw, self.im, self._size = None, photo.im, photo.size
