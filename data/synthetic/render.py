"""From a person and a shot to the pixels of one crop."""

import random

from PIL import Image

from data.synthetic.attributes import Identity, draw_identities, draw_identity
from data.synthetic.camera import Shot, camera_sensor, draw_shot, expose
from data.synthetic.captions import image_captions
from data.synthetic.domains import STREET, Domain
from data.synthetic.figure import draw_person
from data.synthetic.pen import Pen
from data.synthetic.scenes import camera_scene, draw_occluder, scene_window

SUPERSAMPLING = 2


def render(
    identity: Identity, shot: Shot, seed: int | str, rng: random.Random, domain: Domain = STREET
) -> Image.Image:
    """One crop of a person.

    Args:
        seed: of the data set; determines the scenes and sensors of the cameras.
        rng: of this image; determines the window of the scene, light, noise and passers-by.

    Returns:
        RGB image of `shot.size`.
    """
    width, height = (side * SUPERSAMPLING for side in shot.size)
    canvas = scene_window(camera_scene(seed, shot.camera, domain), shot.size, SUPERSAMPLING, rng)
    crown = (width * (0.5 + shot.shift), height * shot.crown)
    scale = height * shot.span
    if shot.bystander:
        draw_stranger(canvas, rng, (width * rng.choice((0.12, 0.88)), height * 0.14), scale * 0.7, domain)
    pen = Pen(canvas, crown, scale, shot.pose.facing, domain.ink)
    reach, alpha = domain.shadow
    pen.glaze.ellipse(ground_shadow(crown, scale, reach), fill=(0, 0, 0, alpha))
    draw_person(pen, identity, shot.pose)
    if shot.occluder == "passer-by":
        draw_stranger(canvas, rng, (width * rng.choice((-0.04, 1.04)), height * 0.06), scale * 1.05, domain)
    elif shot.occluder:
        draw_occluder(pen, shot.occluder, rng)
    return expose(canvas.reduce(SUPERSAMPLING), camera_sensor(seed, shot.camera, domain), rng, domain)


def render_people(count: int) -> list[tuple[str, Image.Image]]:
    """(English caption, image) of `count` people."""
    rng = random.Random(0)
    people = []
    for identity in draw_identities(0, count):
        shot = draw_shot(rng, camera=0)
        caption = image_captions(identity, shot, rng)["en"]["captions"][0]
        people.append((caption, render(identity, shot, 0, rng)))
    return people


def draw_stranger(
    canvas: Image.Image, rng: random.Random, crown: tuple[float, float], scale: float, domain: Domain
) -> None:
    """Draw another person, at least partly outside the crop."""
    pose = draw_shot(rng, 0, domain).pose
    pen = Pen(canvas, crown, scale, pose.facing, domain.ink)
    draw_person(pen, draw_identity(rng, taste=domain.taste), pose)


def ground_shadow(
    crown: tuple[float, float], scale: float, reach: float
) -> tuple[float, float, float, float]:
    """The ellipse of the shadow at a person's feet, as a box in pixels."""
    x, y = crown[0], crown[1] + 0.985 * scale
    return x - 0.17 * scale, y - 0.02 * scale, x + (0.17 + reach) * scale, y + 0.025 * scale
