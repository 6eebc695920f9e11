"""Drawing in body units: a pen that fills shapes with plain or patterned cloth."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from data.synthetic.attributes import RGB, Item
from data.synthetic.domains import Ink

Point = tuple[float, float]
Color = tuple[int, int, int]

INK = Ink()
CIRCLE = np.array([(math.cos(t), math.sin(t)) for t in np.linspace(0, 2 * math.pi, 16, endpoint=False)])


def shade(color: Color, factor: float) -> Color:
    """`color` made darker (factor below 1) or lighter (above 1)."""
    return tuple(min(255, int(channel * factor)) for channel in color)


def outline(x: float, *rows: Point) -> list[Point]:
    """An outline that is symmetric about the vertical at `x`, clockwise from its upper left corner.

    Args:
        rows: (y, half the width there), from the top to the bottom.
    """
    right, left = [(x + half, y) for y, half in rows], [(x - half, y) for y, half in rows]
    return [left[0], *right, *left[:0:-1]]


@dataclass(frozen=True)
class Fabric:
    """What a shape is filled with: a colour, and over it a picture of the pattern where there is one."""

    color: Color
    picture: Image.Image | None = None


class Pen:
    """Draws on a canvas in body units: x right of the body's axis, y down from the crown, 1 = body height.

    Args:
        canvas: RGB image drawn on in place.
        origin: the crown's place on the canvas, in pixels.
        scale: pixels of a body height.
        facing: 1, or -1 to mirror left and right.
        ink: how rims and shades are drawn.
    """

    def __init__(
        self, canvas: Image.Image, origin: Point, scale: float, facing: int = 1, ink: Ink = INK
    ) -> None:
        self.canvas, self.scale, self.ink = canvas, scale, ink
        self.draw, self.glaze = ImageDraw.Draw(canvas), ImageDraw.Draw(canvas, "RGBA")
        self.origin, self.axes = np.array(origin), np.array((facing * scale * ink.stretch, scale))

    def pixels(self, points: Sequence[Point] | np.ndarray) -> np.ndarray:
        """Body units (N, 2) to pixels (N, 2)."""
        return np.asarray(points) * self.axes + self.origin

    def width(self, units: float) -> int:
        """A line's width in pixels, at least 1."""
        return max(1, round(units * self.scale))

    def fabric(self, item: Item) -> Fabric:
        """The cloth of a garment; its pattern is laid out in body units, so that it moves with the body."""
        color = RGB[item.color]
        if item.pattern in ("", "logo", "side stripes"):
            return Fabric(color)
        picture = Image.new("RGB", self.canvas.size, color)
        paint = PATTERN_PAINTERS[item.pattern]
        paint(Pen(picture, tuple(self.origin), self.scale, ink=self.ink), color, RGB[item.color2])
        return Fabric(color, picture)

    def shape(self, points: Sequence[Point], fabric: Fabric | Color, outline: bool = True) -> None:
        """A closed polygon with a thin dark rim."""
        fabric = fabric if isinstance(fabric, Fabric) else Fabric(fabric)
        corners = self.pixels(points)
        self._fill([corners], fabric)
        if outline:
            flat = corners.ravel().tolist()
            self.draw.line(
                flat + flat[:2], fill=shade(fabric.color, self.ink.shade), width=self.width(self.ink.width)
            )

    def blob(self, x: float, y: float, rx: float, ry: float, color: Color, outline: bool = False) -> None:
        """An ellipse about (x, y)."""
        box = np.sort(self.pixels([(x - rx, y - ry), (x + rx, y + ry)]), axis=0)
        rim = shade(color, self.ink.shade) if outline else None
        self.draw.ellipse(box.ravel().tolist(), fill=color, outline=rim, width=self.width(self.ink.width))

    def limb(self, joints: Sequence[Point], widths: Sequence[float], fabric: Fabric | Color) -> None:
        """A bent tube through `joints`, as wide as `widths` there, with a dark rim and a shaded side."""
        fabric = fabric if isinstance(fabric, Fabric) else Fabric(fabric)
        centres, radii = self.pixels(joints), np.asarray(widths) * self.scale * self.ink.stretch / 2
        rim = shade(fabric.color, self.ink.shade)
        for part in tube(centres, radii + self.width(self.ink.width) * 0.7):
            self.draw.polygon(part.ravel().tolist(), fill=rim)
        self._fill(tube(centres, radii), fabric)
        edges = [centres + np.outer(radii * share, (1, 0)) for share in (0.28, 0.94)]
        side = np.concatenate((edges[0], edges[1][::-1]))
        self.glaze.polygon(side.ravel().tolist(), fill=(0, 0, 0, self.ink.side))

    def line(self, points: Sequence[Point], color: Color, width: float) -> None:
        """An open line, `width` in body units."""
        self.draw.line(self.pixels(points).ravel().tolist(), fill=color, width=self.width(width))

    def shadow(self, points: Sequence[Point], strength: int = 40) -> None:
        """Darkens what lies under a polygon; strength 0 to 255."""
        self.glaze.polygon(self.pixels(points).ravel().tolist(), fill=(0, 0, 0, strength))

    def _fill(self, parts: list[np.ndarray], fabric: Fabric) -> None:
        if fabric.picture is None:
            for part in parts:
                self.draw.polygon(part.ravel().tolist(), fill=fabric.color)
            return
        corners = np.concatenate(parts)
        low = np.maximum(np.floor(corners.min(0)), 0).astype(int)
        high = np.minimum(np.ceil(corners.max(0)) + 1, self.canvas.size).astype(int)
        if (high <= low).any():
            return
        box = (*low.tolist(), *high.tolist())
        mask = Image.new("L", (box[2] - box[0], box[3] - box[1]))
        stencil = ImageDraw.Draw(mask)
        for part in parts:
            stencil.polygon((part - low).ravel().tolist(), fill=255)
        self.canvas.paste(fabric.picture.crop(box), box, mask)


def tube(centres: np.ndarray, radii: np.ndarray) -> list[np.ndarray]:
    """The polygons that make a tube: a disc at every joint, a trapezium between two."""
    parts = [centre + CIRCLE * radius for centre, radius in zip(centres, radii, strict=True)]
    for a in range(len(centres) - 1):
        along = centres[a + 1] - centres[a]
        across = np.array((-along[1], along[0])) / max(1e-6, math.hypot(*along))
        start, end = across * radii[a], across * radii[a + 1]
        corners = (centres[a] + start, centres[a + 1] + end, centres[a + 1] - end, centres[a] - start)
        parts.append(np.array(corners))
    return parts


def paint_stripes(pen: Pen, color: Color, color2: Color) -> None:
    """Horizontal stripes."""
    for y in np.arange(0.16, 1.0, 0.066):
        pen.shape([(-1, y), (1, y), (1, y + 0.03), (-1, y + 0.03)], color2, outline=False)


def paint_pinstripes(pen: Pen, color: Color, color2: Color) -> None:
    """Vertical stripes."""
    for x in np.arange(-0.506, 0.5, 0.044):
        pen.shape([(x, 0), (x, 1), (x + 0.016, 1), (x + 0.016, 0)], color2, outline=False)


def paint_checks(pen: Pen, color: Color, color2: Color) -> None:
    """A tartan: bands of half the second colour, at full strength where they cross."""
    half = tuple((a + b) // 2 for a, b in zip(color, color2, strict=True))
    xs, ys = np.arange(-0.5, 0.5, 0.06), np.arange(0.15, 1.0, 0.06)
    for x in xs:
        pen.shape([(x, 0), (x, 1), (x + 0.028, 1), (x + 0.028, 0)], half, outline=False)
    for y in ys:
        pen.shape([(-1, y), (1, y), (1, y + 0.028), (-1, y + 0.028)], half, outline=False)
        for x in xs[np.abs(xs) < 0.26]:
            corners = [(x, y), (x + 0.028, y), (x + 0.028, y + 0.028), (x, y + 0.028)]
            pen.shape(corners, color2, outline=False)


def paint_dots(pen: Pen, color: Color, color2: Color) -> None:
    """Dots in staggered rows."""
    for row, y in enumerate(np.arange(0.17, 0.95, 0.04)):
        for x in np.arange(-0.25, 0.25, 0.05) + 0.025 * (row % 2):
            pen.blob(x, y, 0.0105, 0.0105, color2)


def paint_two_tone(pen: Pen, color: Color, color2: Color) -> None:
    """The upper part in the second colour."""
    pen.shape([(-1, 0), (1, 0), (1, 0.32), (-1, 0.32)], color2, outline=False)


PATTERN_PAINTERS = {
    "stripes": paint_stripes, "pinstripes": paint_pinstripes, "checks": paint_checks, "dots": paint_dots,
    "two-tone": paint_two_tone,
}  # fmt: skip
