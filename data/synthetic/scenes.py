"""What stands behind and before a person: the background of every camera, and what hides a part."""

import random
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from data.synthetic.pen import Color, Pen, shade

WIDTH, HEIGHT = 960, 720
HORIZON = 400


@cache
def camera_scene(seed: int, camera: int) -> Image.Image:
    """The place that a camera looks at, (720, 960) pixels; all its images are windows of it."""
    rng = random.Random(f"{seed}:scene:{camera}")
    scene = Image.new("RGB", (WIDTH, HEIGHT), muted(rng, 190, 235))
    painters = (paint_facade, paint_park, paint_corridor, paint_shops)
    painters[camera % len(painters)](ImageDraw.Draw(scene), rng)
    return scene.filter(ImageFilter.GaussianBlur(1.5))


def muted(rng: random.Random, low: int, high: int, tint: int = 16) -> Color:
    """A nearly grey colour between two levels."""
    level = rng.randint(low, high)
    return tuple(max(0, min(255, level + rng.randint(-tint, tint))) for _ in range(3))


def paint_ground(draw: ImageDraw.ImageDraw, rng: random.Random, color: Color, top: int = HORIZON) -> None:
    """Pavement that runs towards the camera."""
    draw.rectangle((0, top, WIDTH, HEIGHT), fill=color)
    joint, y, gap = shade(color, 0.86), float(top), 10.0
    while y < HEIGHT:
        draw.line((0, y, WIDTH, y), fill=joint, width=2)
        y, gap = y + gap, gap * 1.35
    for x in range(-1200, 2200, rng.randint(110, 190)):
        draw.line((WIDTH / 2 + (x - WIDTH / 2) * 0.5, top, x, HEIGHT), fill=joint, width=2)


def paint_facade(draw: ImageDraw.ImageDraw, rng: random.Random) -> None:
    """A house front with windows, and a road."""
    wall = muted(rng, 120, 200, 30)
    draw.rectangle((0, 40, WIDTH, HORIZON), fill=wall)
    pane, frame = muted(rng, 60, 110), shade(wall, 1.2)
    for x in range(rng.randint(-40, 20), WIDTH, rng.randint(130, 170)):
        for y in (70, 210):
            draw.rectangle((x, y, x + 76, y + 104), fill=pane, outline=frame, width=6)
    door = rng.randint(200, 700)
    draw.rectangle((door, 235, door + 90, HORIZON), fill=muted(rng, 50, 100, 30))
    paint_ground(draw, rng, muted(rng, 130, 180, 8))
    draw.rectangle((0, 600, WIDTH, HEIGHT), fill=muted(rng, 70, 100, 6))
    for x in range(0, WIDTH, 160):
        draw.rectangle((x, 655, x + 80, 668), fill=(214, 212, 200))


def paint_park(draw: ImageDraw.ImageDraw, rng: random.Random) -> None:
    """Trees, lawn and a path."""
    draw.rectangle((0, 250, WIDTH, HORIZON), fill=(112, 140, 104))
    for _ in range(16):
        x, y, r = rng.randint(0, WIDTH), rng.randint(110, 260), rng.randint(50, 110)
        leaf = (rng.randint(66, 110), rng.randint(110, 150), rng.randint(60, 96))
        draw.rectangle((x - 9, y, x + 9, HORIZON + 10), fill=(104, 84, 66))
        draw.ellipse((x - r, y - r, x + r, y + r), fill=leaf)
    grass = (rng.randint(110, 140), rng.randint(145, 170), rng.randint(95, 115))
    draw.rectangle((0, HORIZON, WIDTH, HEIGHT), fill=grass)
    path = muted(rng, 165, 200, 12)
    draw.polygon((300, HORIZON, 620, HORIZON, 1100, HEIGHT, -140, HEIGHT), fill=path)


def paint_corridor(draw: ImageDraw.ImageDraw, rng: random.Random) -> None:
    """A tiled passage with columns and signs."""
    wall = muted(rng, 165, 215, 14)
    draw.rectangle((0, 0, WIDTH, HORIZON + 30), fill=wall)
    for x in range(0, WIDTH, 48):
        draw.line((x, 0, x, HORIZON + 30), fill=shade(wall, 0.92), width=2)
    for y in range(0, HORIZON + 30, 48):
        draw.line((0, y, WIDTH, y), fill=shade(wall, 0.92), width=2)
    for x in (rng.randint(60, 240), rng.randint(420, 560), rng.randint(700, 880)):
        draw.rectangle((x, 0, x + 52, HORIZON + 40), fill=shade(wall, 0.78))
        draw.rectangle((x + 70, 110, x + 150, 215), fill=muted(rng, 90, 200, 60))
    paint_ground(draw, rng, muted(rng, 120, 190, 10), HORIZON + 30)


def paint_shops(draw: ImageDraw.ImageDraw, rng: random.Random) -> None:
    """Shop windows with awnings along a square."""
    draw.rectangle((0, 0, WIDTH, HORIZON), fill=muted(rng, 130, 190, 24))
    for x in range(rng.randint(-60, 0), WIDTH, 230):
        glass, awning = muted(rng, 90, 150, 18), muted(rng, 90, 190, 55)
        draw.rectangle((x + 14, 150, x + 206, HORIZON - 16), fill=glass)
        for _ in range(5):
            left, top = x + rng.randint(20, 165), rng.randint(215, 300)
            draw.rectangle((left, top, left + 30, top + rng.randint(40, 80)), fill=muted(rng, 90, 210, 50))
        draw.polygon((x + 10, 140, x + 210, 140, x + 222, 186, x - 2, 186), fill=awning)
    paint_ground(draw, rng, muted(rng, 150, 200, 12))


def scene_window(scene: Image.Image, size: tuple[int, int], enlarge: int, rng: random.Random) -> Image.Image:
    """A random window of a scene, at `enlarge` times `size` (width, height); the ground is in its lower part.

    Enlarged without smoothing: shrunk again by the same factor it is what it was, at a quarter of the time.
    """
    height = rng.uniform(440, 700)
    width = height * size[0] / size[1]
    left, top = rng.uniform(0, WIDTH - width), HEIGHT - height - rng.uniform(0, min(20, HEIGHT - height))
    window = scene.resize(size, Image.Resampling.BILINEAR, box=(left, top, left + width, top + height))
    return window.resize((size[0] * enlarge, size[1] * enlarge), Image.Resampling.NEAREST)


def draw_occluder(pen: Pen, kind: str, rng: random.Random) -> None:
    """A post, a bench or a bush between the camera and the person."""
    if kind == "post":
        x, half = rng.choice((-1, 1)) * rng.uniform(0.07, 0.17), rng.uniform(0.018, 0.034)
        color = muted(rng, 60, 190)
        pen.shape([(x - half, -0.2), (x + half, -0.2), (x + half, 1.2), (x - half, 1.2)], color)
        pen.shadow([(x, -0.2), (x + half, -0.2), (x + half, 1.2), (x, 1.2)], 50)
    elif kind == "bench":
        top, color = rng.uniform(0.76, 0.84), muted(rng, 80, 150, 30)
        for y in np.arange(top, 0.93, 0.058):
            pen.shape([(-0.6, y), (0.6, y), (0.6, y + 0.042), (-0.6, y + 0.042)], color)
        pen.shape([(-0.6, 0.93), (0.6, 0.93), (0.6, 1.2), (-0.6, 1.2)], shade(color, 0.55))
    elif kind == "bush":
        side = rng.choice((-1, 1))
        for _ in range(12):
            green = (rng.randint(46, 90), rng.randint(96, 140), rng.randint(46, 80))
            x, y = side * rng.uniform(0.06, 0.3), rng.uniform(0.8, 1.05)
            pen.blob(x, y, 0.06, 0.055, green)
