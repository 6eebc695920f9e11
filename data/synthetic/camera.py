"""What belongs to one image and not to the person: camera, pose, framing, light, and the camera's faults."""

import random
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

from data.synthetic.attributes import pick
from data.synthetic.body import Pose

NUM_CAMERAS = 8


@dataclass(frozen=True)
class Shot:
    """The circumstances of one image.

    Attributes:
        camera: 0 to 7.
        pose: how the person stands.
        size: (width, height) of the crop in pixels.
        span: height of the body, as a share of the crop's; above 1 the feet are cut off.
        crown: where the crown is, as a share of the crop's height from above.
        shift: how far the person stands beside the middle, as a share of the crop's width.
        occluder: "post", "bench", "bush", "passer-by" or "".
        bystander: whether somebody else stands farther behind.
        quality: of the JPEG file.
    """

    camera: int
    pose: Pose
    size: tuple[int, int]
    span: float
    crown: float
    shift: float
    occluder: str
    bystander: bool
    quality: int

    @property
    def feet_hidden(self) -> bool:
        return self.span + self.crown > 1.03 or self.occluder == "bench"


def draw_shot(rng: random.Random, camera: int) -> Shot:
    """One image's circumstances, at random; nothing in them depends on who is seen."""
    height = rng.randint(150, 400)
    width = max(60, min(160, round(height * rng.uniform(0.38, 0.5))))
    cut = rng.random() < 0.12
    span = rng.uniform(1.05, 1.22) if cut else rng.uniform(0.8, 0.93)
    crown = rng.uniform(0.02, 0.05) if cut else rng.uniform(0.03, 0.97 - span)
    view = pick(rng, {"front": 4, "back": 3.5, "side": 2.5})
    return Shot(
        camera=camera,
        pose=Pose(view, rng.choice((-1, 1)), rng.random(), rng.uniform(-1, 1)),
        size=(width, height),
        span=span,
        crown=crown,
        shift=rng.uniform(-0.07, 0.07),
        occluder=pick(rng, {"": 72, "post": 8, "bench": 6, "bush": 6, "passer-by": 8}),
        bystander=rng.random() < 0.15,
        quality=rng.randint(50, 92),
    )


@dataclass(frozen=True)
class Sensor:
    """A camera's light and faults: `gains` of red, green and blue, `gamma`, `sharpness` 0 to 1, and
    `noise` in grey levels."""

    gains: tuple[float, float, float]
    gamma: float
    sharpness: float
    noise: float


@cache
def camera_sensor(seed: int, camera: int) -> Sensor:
    """The light and the faults of a camera."""
    rng = random.Random(f"{seed}:sensor:{camera}")
    light, warmth, green = rng.uniform(0.78, 1.08), rng.uniform(-0.09, 0.09), rng.uniform(-0.03, 0.03)
    return Sensor(
        gains=(light * (1 + warmth), light * (1 + green), light * (1 - warmth)),
        gamma=rng.uniform(0.85, 1.2),
        sharpness=rng.uniform(0.35, 0.9),
        noise=rng.uniform(2, 9),
    )


@cache
def noise_field() -> np.ndarray:
    """(600, 512, 3) standard normal numbers; images take windows of it, which costs a tenth of fresh ones."""
    return np.random.default_rng(0).standard_normal((600, 512, 3), dtype=np.float32)


def expose(image: Image.Image, sensor: Sensor, rng: random.Random) -> Image.Image:
    """An image as the camera records it: coarser, in its light, with a gradient of light and noise."""
    image = soften(image, sensor.sharpness * rng.uniform(0.75, 1.1), rng)
    gamma, light = sensor.gamma * rng.uniform(0.88, 1.14), rng.uniform(0.85, 1.12)
    ramp = (np.arange(256) / 255) ** gamma * 255
    curves = [np.minimum(ramp * gain * light * rng.uniform(0.97, 1.03), 255) for gain in sensor.gains]
    image = image.point(np.concatenate(curves).round().astype(int).tolist())
    width, height = image.size
    slope = np.linspace(1 - (tilt := rng.uniform(-0.14, 0.14)), 1 + tilt, width, dtype=np.float32)
    top, left = rng.randrange(600 - height), rng.randrange(512 - width)
    pixels = np.asarray(image) * slope[:, None]
    pixels += noise_field()[top : top + height, left : left + width] * (sensor.noise * rng.uniform(0.6, 1.4))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def soften(image: Image.Image, sharpness: float, rng: random.Random) -> Image.Image:
    """Loses detail as a distant or badly focused camera does: made smaller, then as large as before."""
    width, height = image.size
    rows = round(110 + 260 * sharpness)
    if rng.random() < 0.35:
        rows = min(rows, rng.randint(64, 150))
    if rows >= height:
        return image
    small = image.resize((max(1, width * rows // height), rows), Image.Resampling.BILINEAR)
    return small.resize((width, height), Image.Resampling.BICUBIC)
