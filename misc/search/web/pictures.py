"""Pictures of entries, as JPEG: decoded within bounds of memory, reduced, cached on the disk."""

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
from typing import NamedTuple, TypeVar

from PIL import Image
from starlette.concurrency import run_in_threadpool

from data.images.decode import MAX_PIXELS, QUARTER_TURNS, BadImageError, open_image, orientation
from data.images.regions import Place
from misc.search.views import load_scene, load_view
from misc.search.web.cache import DiskCache
from misc.search.web.refusals import RefusedError

T = TypeVar("T")
Size = tuple[int, int]
Signature = tuple[int, int, int, int]
THUMBNAIL: Size = (400, 640)  # pixels: sharp on a phone's screen
VIEW: Size = (2000, 2000)
MAX_WAITING = 256  # images
FRAMES_HELD = 8  # by a decoder of videos, at least: those that others refer to, and those of its threads


class Source(NamedTuple):
    """What a picture is of.

    Attributes:
        root: the image root.
        place: a file below it, or a part of one.
        margin: around the box of a person, as the index has it.
    """

    root: Path
    place: Place
    margin: float = 0.0

    @property
    def file(self) -> Path:
        """The file of the photo or video."""
        return self.root / self.place.file

    @property
    def scene(self) -> "Source":
        """The whole photo or frame."""
        return self._replace(place=self.place._replace(box=None))


class Pictures:
    """Decodes images in threads, as many as there are cores.

    Args:
        truncated: as `data.truncated`.
    """

    def __init__(self, cache: DiskCache, truncated: str) -> None:
        self._cache, self._truncated = cache, truncated
        self._threads = ThreadPoolExecutor(os.cpu_count(), "decoding")
        self._budget, self._num_waiting = PixelBudget(MAX_PIXELS), 0

    async def jpeg(self, source: Source, at_most: Size) -> tuple[str, bytes]:
        """(name of its content, JPEG) of a picture, reduced to fit a size; raises UserError if it cannot be
        read, and RefusedError if too many images wait.
        """
        name, content = await run_in_threadpool(self._cached, source, at_most)
        if content is None:
            content = await self.run(self._make, source, at_most)
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

    def load(self, source: Source, at_most: Size) -> Image.Image:
        """As `load_view`, once there is memory for all pixels of the photo, or for frames of the video."""
        with self._budget.taken(_num_pixels(source)):
            return load_view(source.root, source.place.path, self._truncated, at_most, source.margin)

    def scene_size(self, source: Source) -> Size | None:
        """Width and height of the whole photo or frame, upright; None: it cannot be read."""
        try:
            if source.place.time is None:
                return _photo_size(source.file)
            with self._budget.taken(_num_pixels(source)):
                return _frame_size(source.root, source.place.file, _signature(source.file))
        except Exception:  # the picture says what is wrong
            return None

    def close(self) -> None:
        """Decode no more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _cached(self, source: Source, at_most: Size) -> tuple[str, bytes | None]:
        name = picture_name(source, at_most)
        return name, self._cache.get(name)

    def _make(self, source: Source, at_most: Size) -> bytes:
        name, content = self._cached(source, at_most)  # another request may have made it meanwhile
        if content is None:
            content = encode_jpeg(self.load(source, at_most))
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


def _num_pixels(source: Source) -> int:
    try:
        if source.place.time is None:
            with open_image(source.file, large=True) as image:
                return image.width * image.height
        import av

        with av.open(str(source.file)) as container:
            stream = container.streams.video[0]
            return FRAMES_HELD * stream.width * stream.height
    except Exception:  # `load_view` says what is wrong
        return 0


def _photo_size(path: Path) -> Size:
    with open_image(path, large=True) as image:
        return image.size[::-1] if orientation(image) in QUARTER_TURNS else image.size


@lru_cache(maxsize=1000)
def _frame_size(root: Path, file: str, signature: Signature) -> Size:
    """The size of the frames of a video, decoded again where the signature differs."""
    return load_scene(root, Place(file, 0.0).path).size


def picture_name(source: Source, at_most: Size) -> str:
    """A name for a reduced picture, which differs where its pixels may; raises BadImageError if the file
    cannot be read.

    Photos are named by their content, whatever they are called. The content of a video is not read: that
    may take minutes.
    """
    _, time, box = source.place
    content = content_name(source.file) if time is None else _name_of_video(source.file)
    name = f"{content}-{at_most[0]}x{at_most[1]}"
    if time is not None:
        name += f"-{time:.3f}s"
    return name if box is None else f"{name}-{','.join(map(str, box))}-{source.margin}"


def content_name(path: Path) -> str:
    """The BLAKE2b digest of a file, in hexadecimal; raises BadImageError if it cannot be read."""
    signature = _signature(path)
    try:
        return _digest(path, signature)
    except OSError as error:
        raise _unreadable(path, error) from error


def _name_of_video(path: Path) -> str:
    text = "\0".join(map(str, (path, *_signature(path))))
    return hashlib.blake2b(os.fsencode(text), digest_size=16).hexdigest()


def _signature(path: Path) -> Signature:
    """What changes with a file; raises BadImageError if there is none."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # to open a pipe is to wait for whoever writes into it
            raise OSError(None, "it is no regular file")
    except OSError as error:
        raise _unreadable(path, error) from error
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _unreadable(path: Path, error: OSError) -> BadImageError:
    return BadImageError(f"image '{path}' cannot be read ({error.strerror})")


@lru_cache(maxsize=10_000)
def _digest(path: Path, signature: Signature) -> str:
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
