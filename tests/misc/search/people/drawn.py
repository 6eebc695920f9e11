"""Small videos for tests, of colored rectangles that stand for people."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from misc.detection.boxes import Boxes, as_boxes

SIZE = (160, 120)
COLORS = ((220, 30, 30), (30, 200, 40), (40, 40, 220))
Walk = dict[float, tuple[int, int, int, int]]  # by time: left, top, width, height


def walk(start: float, end: float, left: float, speed: float, top: int = 40, height: int = 60) -> Walk:
    """A person who walks to the right, at 10 frames a second."""
    times = [n / 10 for n in range(round(10 * start), round(10 * end) + 1)]
    return {time: (round(left + speed * (time - start)), top, 20, height) for time in times}


def draw(people: Sequence[Walk], time: float) -> Image.Image:
    """The frame: of each person a rectangle of its color."""
    pixels = np.full((*SIZE[::-1], 3), 128, np.uint8)
    pixels[::8] = 90
    for person, color in zip(people, COLORS, strict=False):
        if time in person:
            left, top, width, height = person[time]
            pixels[max(top, 0) : top + height, max(left, 0) : max(left + width, 0)] = color
    return Image.fromarray(pixels)


def write_video(
    path: Path, people: Sequence[Walk], times: Sequence[float], codec: str = "libx264", gap: int = 20
) -> Path:
    """A video with frames at these times, and a key frame every `gap` frames."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10, options={"g": str(gap), "crf": "10"})
        (stream.width, stream.height), stream.pix_fmt = SIZE, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for time in times:
            frame = av.VideoFrame.from_image(draw(people, time))
            frame.pts, frame.time_base = round(1000 * time), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


class ByColor:
    """Finds the rectangles, by their colors."""

    identity, min_score = "by color", 0.4

    def __init__(self, takes_device: bool = False) -> None:
        self.takes_device = takes_device

    def detect(self, images: Sequence[Image.Image]) -> list[Boxes]:
        return [self._detect(np.asarray(image).astype(int)) for image in images]

    def _detect(self, pixels: np.ndarray) -> Boxes:
        boxes = []
        for color in COLORS:
            rows, columns = np.nonzero((np.abs(pixels - color) < 60).all(axis=2))
            if len(rows) > 300:
                left, top = columns.min(), rows.min()
                boxes.append([left, top, columns.max() + 1 - left, rows.max() + 1 - top, 0.9])
        return as_boxes(boxes)
