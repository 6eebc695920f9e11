"""Frames of videos, decoded by PyAV (FFmpeg)."""

import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from misc.process.failures import reason_of
from options import UserError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

logger = logging.getLogger(__name__)

SUFFIXES = {".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ts"}
SUFFIXES |= {".webm", ".wmv"}


class Frame(NamedTuple):
    """A frame: seconds since the first one of its video, and its pixels, upright."""

    time: float
    image: Image.Image


class BadVideoError(UserError):
    """A file of which no frame can be decoded."""


def sampled_frames(path: Path, every: float) -> Iterator[Frame]:
    """Frames of a video: the first one at or after each multiple of `every` seconds.

    By their times, whatever the frame rate is, and constant or not. A frame that is damaged is left out; what
    follows a damaged part is decoded from the next one that can be. Held are some frames at a time, however
    long the video is.

    Raises:
        UserError: PyAV is not installed, or `every` is not positive.
        BadVideoError: the file cannot be opened, has no pictures, or none that can be decoded.
    """
    try:
        import av
    except ImportError as error:
        raise UserError(f"'{path}' is a video: PyAV is not installed; pip install av") from error
    if not (math.isfinite(every) and every > 0):
        raise UserError(f"--every: expected seconds above 0, found {every}")
    try:
        container = av.open(str(path))
    except (OSError, ValueError) as error:  # FFmpeg's errors are both of these, or one
        raise BadVideoError(f"'{path}' cannot be read as a video ({reason_of(error):.150})") from error
    with container:
        streams = [
            each for each in container.streams.video if not each.disposition & each.disposition.attached_pic
        ]
        if not streams:
            raise BadVideoError(f"'{path}' has no pictures, only sound or a cover")
        streams[0].thread_type = "AUTO"
        start, following, num_taken = None, 0, 0
        for frame, time in _timed(container, streams[0], path):
            start = time if start is None else start
            if time - start < following * every - 1e-6:
                continue
            following = math.floor((time - start) / every + 1e-6) + 1
            num_taken += 1
            image = frame.to_image()
            yield Frame(time - start, image.rotate(frame.rotation, expand=True) if frame.rotation else image)
        if not num_taken:
            raise BadVideoError(f"'{path}' has no frame that can be decoded")


def _timed(
    container: "InputContainer", stream: "VideoStream", path: Path
) -> Iterator[tuple["VideoFrame", float]]:
    """The frames that can be decoded, with their times in seconds, which never fall."""
    step = float(1 / stream.average_rate) if stream.average_rate else 0.04
    latest, num_damaged = -step, 0
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                break
        except (OSError, ValueError):  # the file ends here, or cannot be followed further
            num_damaged += 1
            break
        try:
            decoded = packet.decode()
        except (OSError, ValueError):
            num_damaged += 1
            continue
        for frame in decoded:
            time = latest + step if frame.time is None else frame.time
            if frame.is_corrupt or (time < latest and frame.time is not None):
                num_damaged += 1
                continue
            latest = time
            yield frame, time
    if num_damaged:
        logger.warning(f"'{path}': {num_damaged} damaged parts were left out, the rest was used")
