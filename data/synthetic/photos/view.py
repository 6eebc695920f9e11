"""How a camera sees its place: the part of the scene in its photos, and the perspective of the ground."""

import random
from dataclasses import dataclass
from functools import cache

from PIL import Image

from data.synthetic.domains import Domain
from data.synthetic.scenes import HEIGHT, WIDTH, camera_scene

FARTHEST, NEAREST = 446.0, 770.0  # rows of the scene where feet can be; the last ones are below the photo


@dataclass(frozen=True)
class View:
    """What a camera's photos show of its scene.

    A pinhole camera over a plane sees a person with feet `d` rows below the horizon `tall` x `d` rows high.

    Attributes:
        size: (width, height) of a photo.
        left, top: of the part of the scene, in its pixels.
        zoom: pixels of a photo for one of the scene.
        horizon: row of the scene.
        tall: body height over the height of the camera.
    """

    size: tuple[int, int]
    left: float
    top: float
    zoom: float
    horizon: float
    tall: float

    def height_at(self, y: float) -> float:
        """The height in a photo of a person of height 1 with feet on the row `y` of the photo."""
        return self.tall * (y + (self.top - self.horizon) * self.zoom)

    def row_at(self, height: float) -> float:
        """The row of the photo where the feet of a person of height 1 are who is so high in it."""
        return height / self.tall - (self.top - self.horizon) * self.zoom

    def row(self, depth: float) -> float:
        """The row of the photo where feet are at a depth of 0 (nearest) to 1 (farthest)."""
        return (NEAREST + (FARTHEST - NEAREST) * depth - self.top) * self.zoom


@cache
def camera_view(seed: str, camera: int, size: tuple[int, int]) -> View:
    """The view of a camera, for photos of `size` (width, height)."""
    rng = random.Random(f"{seed}:view:{camera}")
    width = rng.uniform(740, WIDTH)
    height = width * size[1] / size[0]
    horizon, farthest = rng.uniform(90, 170), rng.uniform(140, 158)
    left = rng.uniform(0, WIDTH - width)
    return View(size, left, HEIGHT - height, size[0] / width, horizon, farthest / (FARTHEST - horizon))


@cache
def background(seed: str, camera: int, domain: Domain, view: View, enlarge: int) -> Image.Image:
    """The empty place in a photo, `enlarge` times as large; not to be drawn on."""
    scene = camera_scene(seed, camera, domain)
    width, height = (side / view.zoom for side in view.size)
    box = (view.left, view.top, view.left + width, view.top + height)
    photo = scene.resize(view.size, Image.Resampling.BICUBIC, box=box)
    return photo.resize([side * enlarge for side in view.size], Image.Resampling.NEAREST)
