"""Decoded images in a folder, shared by the processes of a machine: who needs an image first decodes it."""

import hashlib
import logging
import os
import shutil
import struct
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data.images.decode import BadImageError, load_image, open_image
from data.images.regions import whole_image
from options import UserError

logger = logging.getLogger(__name__)

Pixels = npt.NDArray[np.uint8]  # (H, W, 3)

HEADER = struct.Struct("<8sQqII")  # MAGIC, the image file's size and time of change, height and width
MAGIC = b"pixels 1"
RESERVE = 1 << 30  # bytes left free: workers hand over their batches through /dev/shm, runs write checkpoints
NUM_PROBED = 100


class ImageCache:
    """The pixels of image files, one entry for each, named by the file's path and stamped by size and time.

    An entry is renamed into place when it is whole, whoever else writes it or is killed. Entries are read,
    not mapped: that is as fast, from the page cache either way, and no other process can take the pages away.
    They are not flushed to disk: one that a power cut left too short is written again.

    Raises:
        UserError: a folder that cannot be made or written to.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder, self.is_full = Path(folder), False
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"data.cache: cannot make '{folder}' ({error.strerror}). Name another") from error
        if not os.access(self.folder, os.W_OK | os.X_OK):
            raise UserError(f"data.cache: '{folder}' cannot be written to. Name another folder")

    def load(self, path: Path, truncated: str = "error") -> Pixels:
        """What `data.images.decode.load_image` makes of a file, if need be; raises as it does.

        Truncated files are not kept: an entry is the whole image, whatever `truncated` is.
        """
        try:
            status = os.stat(whole_image(os.fspath(path)))
        except OSError:
            return np.array(load_image(path))  # which says what is wrong
        stamp = (MAGIC, status.st_size, status.st_mtime_ns)
        entry = self.folder / hashlib.blake2b(os.fsencode(os.path.abspath(path)), digest_size=16).hexdigest()
        pixels = _read(entry, stamp)
        if pixels is None:
            try:
                pixels = np.array(load_image(path))
            except BadImageError:
                if truncated == "error":
                    raise
                return np.array(load_image(path, truncated))
            self._write(entry, HEADER.pack(*stamp, *pixels.shape[:2]), pixels)
        return pixels

    def log_size(self, paths: Sequence[Path]) -> None:
        """Log the space that the images need, estimated from some of them, and the space available."""
        probed = [_decoded_size(path) for path in paths[:: 1 + len(paths) // NUM_PROBED]]
        needed = len(paths) * sum(probed) / len(probed)
        free = shutil.disk_usage(self.folder).free - RESERVE
        logger.info(
            f"data.cache: {len(paths):,} decoded images take about {needed / 1e9:.1f} GB in '{self.folder}', "
            f"where {max(0, free) / 1e9:.1f} GB are available; images that do not fit are decoded each time"
        )

    def _write(self, entry: Path, header: bytes, pixels: Pixels) -> None:
        """Store `pixels` if there is room. A full disk ends no run: this process only stops writing."""
        if self.is_full:
            return
        part = None
        try:
            if shutil.disk_usage(self.folder).free < RESERVE + pixels.nbytes:
                raise OSError(f"less than {RESERVE / 1e9:.1f} GB are free")
            with tempfile.NamedTemporaryFile(dir=self.folder, suffix=".part", delete=False) as file:
                part = file.name
                file.write(header)
                file.write(pixels.data)
            os.replace(part, entry)
        except OSError as error:
            self.is_full = True
            if part:
                Path(part).unlink(missing_ok=True)
            logger.warning(
                f"data.cache: cannot write to '{self.folder}' ({error.strerror or error}): images that are "
                "not in it are decoded each time"
            )


def _read(entry: Path, stamp: tuple[bytes, int, int]) -> Pixels | None:
    """The pixels of an entry; None where there is none, or one of another state of the file."""
    try:
        content = np.fromfile(entry, np.uint8)
        *found, height, width = HEADER.unpack_from(content)
    except (OSError, struct.error):  # struct: shorter than its header
        return None
    is_whole = tuple(found) == stamp and len(content) == HEADER.size + 3 * height * width
    return content[HEADER.size :].reshape(height, width, 3) if is_whole else None


def _decoded_size(path: Path) -> int:
    """In bytes, by the file's header; 0 where it cannot be read."""
    try:
        with open_image(path) as file:
            return 3 * file.width * file.height
    except Exception:  # whatever a decoder raises: the image is named when its turn comes
        return 0
