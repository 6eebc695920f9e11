"""What belongs to one image and not to the person: camera, pose, framing, light, and the camera's faults."""

import random
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

from data.synthetic.attributes import pick
from data.synthetic.body import Pose
from data.synthetic.domains import STREET, Domain

NUM_CAMERAS = 8
HAZE = 205  # its grey level


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
        occluder: "passer-by", a kind that `scenes.draw_occluder` draws, or "".
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
        return self.span + self.crown > 1.03 or self.occluder in ("bench", "planter")


def draw_shot(rng: random.Random, camera: int, domain: Domain = STREET) -> Shot:
    """One image's circumstances, at random; nothing in them depends on who is seen."""
    height = rng.randint(*domain.heights)
    narrowest, widest = domain.widths
    width = max(narrowest, min(widest, round(height * rng.uniform(*domain.shapes))))
    cut = rng.random() < domain.cut
    span = rng.uniform(*(domain.cut_spans if cut else domain.spans))
    crown = rng.uniform(0.02, 0.05) if cut else rng.uniform(0.03, 0.97 - span)
    view = pick(rng, domain.views)
    return Shot(
        camera=camera,
        pose=Pose(view, rng.choice((-1, 1)), rng.random(), rng.uniform(-1, 1)),
        size=(width, height),
        span=span,
        crown=crown,
        shift=rng.uniform(-domain.shift, domain.shift),
        occluder=pick(rng, domain.occluders),
        bystander=rng.random() < domain.bystander,
        quality=rng.randint(*domain.quality),
    )


@dataclass(frozen=True)
class Sensor:
    """A camera's light and faults: `gains` of red, green and blue, `gamma`, `sharpness` (about 0 to 1), and
    `noise` in grey levels."""

    gains: tuple[float, float, float]
    gamma: float
    sharpness: float
    noise: float


@cache
def camera_sensor(seed: int | str, camera: int, domain: Domain = STREET) -> Sensor:
    """The light and the faults of a camera."""
    rng = random.Random(f"{seed}:sensor:{camera}")
    light, warmth, green = (rng.uniform(*each) for each in (domain.light, domain.warmth, domain.green))
    return Sensor(
        gains=(light * (1 + warmth), light * (1 + green), light * (1 - warmth)),
        gamma=rng.uniform(*domain.gamma),
        sharpness=rng.uniform(*domain.sharpness),
        noise=rng.uniform(*domain.noise),
    )


@cache
def noise_field() -> np.ndarray:
    """(600, 512, 3) standard normal numbers; images take windows of it, which costs a tenth of fresh ones."""
    return np.random.default_rng(0).standard_normal((600, 512, 3), dtype=np.float32)


def expose(
    image: Image.Image, sensor: Sensor, rng: random.Random, domain: Domain = STREET, magnified: float = 1
) -> Image.Image:
    """An image as the camera records it: coarser, in its light and haze, with a gradient and noise.

    Args:
        magnified: how many times higher the image is than a crop of a person in it.
    """
    image = soften(image, sensor.sharpness * rng.uniform(0.75, 1.1), rng, domain.blurred, magnified)
    gamma, light = sensor.gamma * rng.uniform(0.88, 1.14), rng.uniform(0.85, 1.12)
    ramp = (np.arange(256) / 255) ** gamma * 255
    curves = [np.minimum(ramp * gain * light * rng.uniform(0.97, 1.03), 255) for gain in sensor.gains]
    curves = [curve * (1 - domain.haze) + HAZE * domain.haze for curve in curves]
    image = image.point(np.concatenate(curves).round().astype(int).tolist())
    width, height = image.size
    slope = np.linspace(1 - (tilt := rng.uniform(-0.14, 0.14)), 1 + tilt, width, dtype=np.float32)
    noise = noise_window(height, width, rng)
    down = np.linspace(1 + domain.falloff, 1 - domain.falloff, height, dtype=np.float32)
    pixels = np.asarray(image) * (down[:, None] * slope)[..., None]
    pixels += noise * (sensor.noise * rng.uniform(0.6, 1.4))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def noise_window(height: int, width: int, rng: random.Random) -> np.ndarray:
    """(height, width, 3) of the noise field at random, which repeats itself in an image that is larger."""
    field = noise_field()
    rows, columns = field.shape[:2]
    if height < rows and width < columns:
        top, left = rng.randrange(rows - height), rng.randrange(columns - width)
        return field[top : top + height, left : left + width]
    top, left = rng.randrange(rows), rng.randrange(columns)
    field = np.take(field, np.arange(top, top + height), axis=0, mode="wrap")
    return np.take(field, np.arange(left, left + width), axis=1, mode="wrap")


def soften(
    image: Image.Image, sharpness: float, rng: random.Random, blurred: float, magnified: float = 1
) -> Image.Image:
    """Loses detail as a distant or badly focused camera does: made smaller, then as large as before."""
    width, height = image.size
    rows = round((110 + 260 * sharpness) * magnified)
    if rng.random() < blurred:
        rows = min(rows, round(rng.randint(64, 150) * magnified))
    if rows >= height:
        return image
    small = image.resize((max(1, width * rows // height), rows), Image.Resampling.BILINEAR)
    return small.resize((width, height), Image.Resampling.BICUBIC)
