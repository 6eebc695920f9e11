"""From persons on the ground to the pixels of a photo, their boxes and what is visible of them."""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from data.synthetic.attributes import Item
from data.synthetic.captions import items_in_view
from data.synthetic.domains import Domain
from data.synthetic.figure import draw_person
from data.synthetic.pen import Pen
from data.synthetic.photos.standing import Figure
from data.synthetic.render import SUPERSAMPLING, ground_shadow
from data.synthetic.scenes import draw_occluder

# Left, top, right and bottom of what is drawn of a person or an occluder, in body heights from the crown.
EXTENT = (-0.75, -0.25, 0.75, 1.25)
# Rows of the body, in body heights below the crown, and the things that are there. They are visible where at
# least such a share of the rows' pixels is.
BANDS = (
    ((-0.25, 0.15), 0.6, ("hair", "hat", "glasses", "mask")),
    ((0.15, 0.5), 0.6, ("upper", "inner", "scarf")),
    ((0.52, 0.92), 0.6, ("lower",)),
    ((0.92, 1.25), 0.6, ("shoes",)),
    ((0.15, 0.8), 0.85, ("bag", "hand", "build")),
)


@dataclass(frozen=True)
class Sighting:
    """What a photo shows of a person.

    Attributes:
        box: (x, y, width, height) in pixels: of all that was drawn of the person within the photo, also where
            somebody else hides it; a shadow is not part of it.
        visible: the share of the person's pixels that are in the photo and not hidden.
        hidden: fields of the identity that cannot be seen.
    """

    figure: Figure
    box: tuple[int, int, int, int]
    visible: float
    hidden: frozenset[str]

    @property
    def items(self) -> dict[str, Item]:
        """Everything that is visible of the person, by field of the identity."""
        return items_in_view(self.figure.identity, self.figure.pose.view, self.hidden)

    @property
    def is_describable(self) -> bool:
        """Whether enough is visible to describe the person: the upper garment, and half of all."""
        return self.visible >= 0.5 and "upper" not in self.hidden


class Canvas:
    """A photo that is being drawn, `SUPERSAMPLING` times as large, and who was drawn where.

    Args:
        empty: the place without persons, already enlarged.
    """

    def __init__(self, empty: Image.Image, domain: Domain) -> None:
        self.image, self.domain = empty.copy(), domain
        self.owner = np.zeros((empty.height, empty.width), np.uint8)
        self.drawn: list[tuple[Figure, tuple[int, int], np.ndarray]] = []

    def shadow(self, figure: Figure) -> None:
        """Draw the shadow at a person's feet."""
        crown, scale = self._place(figure)
        reach, alpha = self.domain.shadow
        pen = Pen(self.image, crown, scale, figure.pose.facing, self.domain.ink)
        pen.glaze.ellipse(ground_shadow(crown, scale, reach), fill=(0, 0, 0, alpha))

    def person(self, figure: Figure) -> None:
        """Draw a person over all that was drawn before."""
        number = len(self.drawn) + 1
        corner, mask = self._draw(figure, lambda pen: draw_person(pen, figure.identity, figure.pose), number)
        self.drawn.append((figure, corner, mask))

    def occluder(self, figure: Figure, kind: str, rng: random.Random) -> None:
        """Draw what stands before a person, of a kind of `scenes.draw_occluder`."""
        self._draw(figure, lambda pen: draw_occluder(pen, kind, rng), 0)

    def photo(self) -> Image.Image:
        """The photo in its own size."""
        return self.image.reduce(SUPERSAMPLING)

    def sightings(self) -> list[Sighting]:
        """What the photo shows of each person, in the order drawn; without those who are outside of it."""
        found = []
        for number, (figure, corner, mask) in enumerate(self.drawn, start=1):
            inside = self._inside(corner, mask.shape)
            rows, columns = np.nonzero(mask[inside.of_patch])
            if len(rows):
                shown = np.zeros_like(mask)
                shown[inside.of_patch] = mask[inside.of_patch] & (self.owner[inside.of_canvas] == number)
                x, y = inside.of_canvas[1].start + columns, inside.of_canvas[0].start + rows
                found.append(self._sighting(figure, corner[1], mask, shown, _box(x, y)))
        return found

    def _sighting(
        self, figure: Figure, top: int, mask: np.ndarray, shown: np.ndarray, box: tuple[int, int, int, int]
    ) -> Sighting:
        crown, scale = self._place(figure)
        heights = (np.arange(len(mask)) + top - crown[1]) / scale
        hidden: set[str] = set()
        for (first, last), least, fields in BANDS:
            band = (heights >= first) & (heights < last)
            if shown[band].sum() < least * mask[band].sum():
                hidden.update(fields)
        return Sighting(figure, box, round(float(shown.sum() / mask.sum()), 4), frozenset(hidden))

    def _place(self, figure: Figure) -> tuple[tuple[float, float], float]:
        """The crown and the body height in pixels of the canvas."""
        x, y = figure.crown
        return (x * SUPERSAMPLING, y * SUPERSAMPLING), figure.height * SUPERSAMPLING

    def _draw(
        self, figure: Figure, paint: Callable[[Pen], object], number: int
    ) -> tuple[tuple[int, int], np.ndarray]:
        """Let `paint` draw, and note whose pixels changed: the corner of the patch drawn on, and its mask."""
        (x, y), scale = self._place(figure)
        left, top = math.floor(x + EXTENT[0] * scale), math.floor(y + EXTENT[1] * scale)
        right, bottom = math.ceil(x + EXTENT[2] * scale), math.ceil(y + EXTENT[3] * scale)
        patch = self.image.crop((left, top, right, bottom))
        before = np.array(patch)
        paint(Pen(patch, (x - left, y - top), scale, figure.pose.facing, self.domain.ink))
        mask = (np.asarray(patch) != before).any(axis=2)
        self.image.paste(patch, (left, top))
        inside = self._inside((left, top), mask.shape)
        self.owner[inside.of_canvas][mask[inside.of_patch]] = number
        return (left, top), mask

    def _inside(self, corner: tuple[int, int], shape: Sequence[int]) -> "Overlap":
        left, top = corner
        first, low = max(0, left), max(0, top)
        last, high = (
            max(first, min(self.image.width, left + shape[1])),
            max(low, min(self.image.height, top + shape[0])),
        )
        return Overlap(
            (slice(low - top, high - top), slice(first - left, last - left)),
            (slice(low, high), slice(first, last)),
        )


@dataclass(frozen=True)
class Overlap:
    """The rows and columns that a patch and the canvas share, in the numbers of each."""

    of_patch: tuple[slice, slice]
    of_canvas: tuple[slice, slice]


def _box(x: np.ndarray, y: np.ndarray) -> tuple[int, int, int, int]:
    """The pixels of the photo that these of the canvas are in: (x, y, width, height)."""
    left, top = int(x.min()) // SUPERSAMPLING, int(y.min()) // SUPERSAMPLING
    right, bottom = int(x.max()) // SUPERSAMPLING + 1, int(y.max()) // SUPERSAMPLING + 1
    return left, top, right - left, bottom - top
