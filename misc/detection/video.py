"""Frames of videos, decoded by PyAV (FFmpeg)."""

import logging
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
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

RATE = 25.0  # frames a second, of a video that does not tell
BEFORE = (1.0, 10.0)  # seconds by which a key frame is looked for before what is wanted
# Of ISO 8601: Python 3.10 reads only a part of it.
MOMENT = re.compile(r"(\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d)(?:[.,]\d+)?(Z|[+-]\d\d:?\d\d)?")
YEARS = range(1991, 2100)  # of recordings: no QuickTime before, and a clock that is not set says 1904
TOLERANCE = 1e-6
UNEVEN = 0.25  # of the time between two frames
LONG_PAUSE = 1.0  # seconds without a frame; a later time is believed if the frame after that is not earlier


class Frame(NamedTuple):
    """A frame of a video.

    Attributes:
        time: seconds since the first one.
        number: from 1, round(time x average rate) + 1, as MOT files have it.
        is_sure: whether the frames so far are where that rate has them, and none is missing.
        image: its pixels, upright.
    """

    time: float
    number: int
    is_sure: bool
    image: Image.Image


class Facts(NamedTuple):
    """What a video says of itself.

    Attributes:
        duration: in seconds; None: unknown.
        rate: frames a second, on average.
        taken: when it was recorded, in local time, as "2024-05-06 07:08:09"; None: unknown.
    """

    duration: float | None
    rate: float
    taken: str | None


class BadVideoError(UserError):
    """A file of which no frame, or not that frame, can be decoded; `reason` is without the file's name."""

    reason = ""

    @staticmethod
    def of(path: Path, reason: str) -> "BadVideoError":
        """The error of a file."""
        error = BadVideoError(f"'{path}' {reason}")
        error.reason = reason
        return error


def sampled_frames(path: Path, every: float, start: float = 0) -> Iterator[Frame]:
    """Frames of a video: the first one at or after each multiple of `every` seconds.

    By their times, whatever the frame rate is, and constant or not. A frame that is damaged is left out; what
    follows a damaged part is decoded from the next one that can be. Held are some frames at a time, however
    long the video is.

    Args:
        start: only those at or after so many seconds; what is before is not decoded where the file can be
            entered at a key frame.

    Raises:
        UserError: PyAV is not installed, or `every` is not positive.
        BadVideoError: the file cannot be opened, has no pictures, or none that can be decoded.
    """
    if not (math.isfinite(every) and every > 0):
        raise UserError(f"--every: expected seconds above 0, found {every}")
    latest, expected, is_sure = -1, None, True
    for time, place, frame in _frames_since(path, start):
        is_sure = is_sure and abs(place - (round(place) if expected is None else expected)) < UNEVEN
        expected = round(place) + 1
        multiple = math.floor(time / every + TOLERANCE)
        if multiple > latest and time >= start - TOLERANCE:
            yield Frame(time, round(place) + 1, is_sure, _upright(frame, path))
        latest = multiple


def frame_at(path: Path, time: float) -> Image.Image:
    """The frame of a video whose `Frame.time`, rounded to milliseconds, is `time`; upright.

    Raises:
        UserError: PyAV is not installed.
        BadVideoError: the file cannot be read, or there is no such frame.
    """
    for found, _, frame in _frames_since(path, max(0.0, time - 0.001)):
        if f"{found:.3f}" == f"{time:.3f}":
            return _upright(frame, path)
        if found > time + 0.001:
            break
    raise BadVideoError.of(path, f"has no frame at {time:.3f} seconds that can be decoded")


def lacking() -> str | None:
    """What has to be installed before a video can be read; None: nothing."""
    try:
        import av  # noqa: F401
        from av.stream import Disposition  # noqa: F401
    except ImportError:
        return "PyAV is not installed, or is older than 14.2; pip install -U av"
    return None


def facts_of(path: Path) -> Facts:
    """What a video says of itself; raises UserError, and BadVideoError, as `sampled_frames` does."""
    with _opened(path) as (container, stream):
        duration = stream.duration and float(stream.duration * stream.time_base)
        duration = duration or (container.duration and container.duration / 1e6)
        is_known = duration is not None and duration > 0
        metadata = container.metadata | stream.metadata
        taken = metadata.get("com.apple.quicktime.creationdate") or metadata.get("creation_time")
        return Facts(duration if is_known else None, _rate(stream), taken and local_time(taken))


def local_time(text: str) -> str | None:
    """A time of ISO 8601 as "2024-05-06 07:08:09", in local time: of this machine where it ends in "Z", which
    says nothing of the place, else as it stands; None: it is no time, or that of a clock that is not set.
    """
    match = MOMENT.fullmatch(text)
    try:
        time = datetime.fromisoformat(match[1]) if match else None
        if time is None or time.year not in YEARS:
            return None
        time = time.replace(tzinfo=timezone.utc).astimezone() if match[2] == "Z" else time
        return time.strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):  # of a time that the system cannot convert
        return None


Timed = tuple["VideoFrame", float]


@contextmanager
def _opened(path: Path) -> Iterator[tuple["InputContainer", "VideoStream"]]:
    if reason := lacking():
        raise UserError(f"'{path}' is a video: {reason}")
    import av
    from av.stream import Disposition

    try:
        container = av.open(os.path.abspath(path))  # no protocol, such as of "concat:a.mp4"
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or reason_of(error)  # without the file's name
        raise BadVideoError.of(path, f"cannot be read as a video ({reason:.150})") from error
    with container:
        streams = [
            each for each in container.streams.video if not each.disposition & Disposition.attached_pic
        ]
        if not streams:
            raise BadVideoError.of(path, "has no pictures, only sound or a cover")
        if streams[0].codec_context is None:
            raise BadVideoError.of(path, "is of a format for which there is no decoder")
        streams[0].thread_type = "NONE"  # else damaged frames look as the faster thread leaves them
        yield container, streams[0]


def _frames_since(path: Path, start: float) -> Iterator[tuple[float, float, "VideoFrame"]]:
    """(time since the first one, that x average rate, frame), from some frame before `start` on."""
    if start > 0:
        with _opened(path) as (container, stream):
            first = next(_timed(container, stream, path), None)
            if first and _stamp(stream, first[0]) is not None:
                for before in BEFORE:
                    frames = _timed(container, stream, path, first[1] + start - before)
                    found = next(frames, None)
                    if found and found[1] - first[1] < start - TOLERANCE:
                        yield _placed(found, first[1], stream)
                        yield from (_placed(each, first[1], stream) for each in frames)
                        return
    with _opened(path) as (container, stream):
        first = None
        for each in _timed(container, stream, path):
            first = each[1] if first is None else first
            yield _placed(each, first, stream)
        if first is None:
            raise BadVideoError.of(path, "has no frame that can be decoded")


def _placed(timed: Timed, first: float, stream: "VideoStream") -> tuple[float, float, "VideoFrame"]:
    frame, time = timed
    return time - first, (time - first) * _rate(stream), frame


def _timed(
    container: "InputContainer", stream: "VideoStream", path: Path, seek_to: float | None = None
) -> Iterator[Timed]:
    """The frames that can be decoded, with their times in seconds, which never fall; from a key frame before
    `seek_to` on, where there is one and the frames tell their times.
    """
    latest, doubtful, num_damaged = -math.inf, None, 0
    for timed in _decoded(container, stream, seek_to):
        if timed is None:
            num_damaged += 1
            continue
        if doubtful and timed[1] >= doubtful[1]:
            yield doubtful
            latest = doubtful[1]
        elif doubtful:  # its time was damaged
            num_damaged += 1
        doubtful = timed if timed[1] > latest + LONG_PAUSE else None
        if timed[1] < latest:
            num_damaged += 1
        elif not doubtful:
            yield timed
            latest = timed[1]
    if doubtful:
        yield doubtful
    if num_damaged:
        logger.warning(f"'{path}': {num_damaged} damaged parts were left out, the rest was used")


def _decoded(
    container: "InputContainer", stream: "VideoStream", seek_to: float | None
) -> Iterator[Timed | None]:
    """The frames with their times, in the order of the file; None: a damaged part."""
    import av

    errors = (av.FFmpegError, OSError, ValueError)
    if seek_to is not None:
        try:
            container.seek(math.floor(seek_to / stream.time_base), stream=stream)
        except errors:
            return
    step, is_waiting, latest = 1 / _rate(stream), seek_to is not None, None
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except errors:  # the file ends here, or cannot be followed further
            yield None
            return
        if packet is None:
            return
        is_waiting = is_waiting and not packet.is_keyframe
        if is_waiting:  # some decoders make up what is before
            continue
        try:
            decoded = packet.decode()
        except errors:
            yield None
            continue
        for frame in decoded:
            time = _stamp(stream, frame)
            if time is None and latest is None and seek_to is not None:
                return
            if time is None:
                time = 0.0 if latest is None else latest + step
            latest = time
            yield None if frame.is_corrupt else (frame, time)


def _stamp(stream: "VideoStream", frame: "VideoFrame") -> float | None:
    """The time of a frame in the file, in seconds, where it tells one.

    An AVI file has no times of presentation. FFmpeg takes for them those of decoding, which are in another
    order where there are B-frames.
    """
    is_in_order = stream.container.format.name != "avi" or not stream.codec_context.has_b_frames
    return frame.time if is_in_order else None


def _rate(stream: "VideoStream") -> float:
    return float(stream.average_rate or stream.guessed_rate or RATE)


def _upright(frame: "VideoFrame", path: Path) -> Image.Image:
    import av

    try:
        image = frame.to_image()
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = f"has frames that cannot be converted ({reason_of(error):.150})"
        raise BadVideoError.of(path, reason) from error
    return image.rotate(frame.rotation, expand=True) if frame.rotation else image
