"""Reduced copies of images, as JPEG: decoded within bounds of memory, cached on the disk."""

import asyncio
import hashlib
import io
import os
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from PIL import Image
from starlette.concurrency import run_in_threadpool

from data.images.decode import MAX_PIXELS, BadImageError, load_image, open_image
from misc.search.web.cache import DiskCache
from misc.search.web.refusals import RefusedError

T = TypeVar("T")
Size = tuple[int, int]
THUMBNAIL: Size = (400, 640)  # pixels: sharp on a phone's screen
VIEW: Size = (2000, 2000)
MAX_WAITING = 256  # images


class Pictures:
    """Decodes images in threads, as many as there are cores.

    Args:
        truncated: as `data.truncated`.
    """

    def __init__(self, cache: DiskCache, truncated: str) -> None:
        self._cache, self._truncated = cache, truncated
        self._threads = ThreadPoolExecutor(os.cpu_count(), "decoding")
        self._budget, self._num_waiting = PixelBudget(MAX_PIXELS), 0

    async def jpeg(self, path: Path, at_most: Size) -> tuple[str, bytes]:
        """(name of its content, JPEG) of an image, reduced to fit a size; raises BadImageError if it cannot
        be read, and RefusedError if too many images wait.
        """
        name, content = await run_in_threadpool(self._cached, path, at_most)
        if content is None:
            content = await self.run(self._make, path, at_most)
        return name, content

    async def run(self, work: Callable[..., T], *arguments: object) -> T:
        """What `work` returns in a thread that may decode images."""
        if self._num_waiting >= MAX_WAITING:
            raise RefusedError(503, "The server is busy: too many images are waiting; try again")
        self._num_waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)
        finally:
            self._num_waiting -= 1

    def load(self, path: Path, at_most: Size) -> Image.Image:
        """As `load_image`, once there is memory for all pixels of the file."""
        with self._budget.taken(_num_pixels(path)):
            return load_image(path, self._truncated, at_most)

    def close(self) -> None:
        """Decode no more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _cached(self, path: Path, at_most: Size) -> tuple[str, bytes | None]:
        name = f"{content_name(path)}-{at_most[0]}x{at_most[1]}"
        return name, self._cache.get(name)

    def _make(self, path: Path, at_most: Size) -> bytes:
        name, content = self._cached(path, at_most)  # another request may have made it meanwhile
        if content is None:
            content = encode_jpeg(self.load(path, at_most))
            self._cache.put(name, content)
        return content


class PixelBudget:
    """Limits the pixels of the images that are decoded at once; first come, first served."""

    def __init__(self, num_pixels: int) -> None:
        self._free, self._total = num_pixels, num_pixels
        self._turn, self._freed = threading.Lock(), threading.Condition()

    @contextmanager
    def taken(self, num_pixels: int) -> Iterator[None]:
        """Waits until this number of pixels is free; an image of more than all waits for all."""
        number = min(num_pixels, self._total)
        with self._turn, self._freed:  # those that come later wait for their turn
            self._freed.wait_for(lambda: self._free >= number)
            self._free -= number
        try:
            yield
        finally:
            with self._freed:
                self._free += number
                self._freed.notify_all()


def _num_pixels(path: Path) -> int:
    try:
        with open_image(path, large=True) as image:
            return image.width * image.height
    except Exception:  # `load_image` says what is wrong
        return 0


def content_name(path: Path) -> str:
    """The BLAKE2b digest of a file, in hexadecimal; raises BadImageError if it cannot be read."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # to open a pipe is to wait for whoever writes into it
            raise OSError(None, "it is no regular file")
        return _digest(path, (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino))
    except OSError as error:
        raise BadImageError(f"image '{path}' cannot be read ({error.strerror})") from error


@lru_cache(maxsize=10_000)
def _digest(path: Path, signature: tuple[int, ...]) -> str:
    """The digest of a file, computed again where the signature differs."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def encode_jpeg(image: Image.Image) -> bytes:
    """The image as JPEG, without metadata."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=88)
    return file.getvalue()
