"""What stands behind and before a person: the background of every camera, and what hides a part."""

import random
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from data.synthetic.domains import STREET, Domain
from data.synthetic.pen import CIRCLE, Color, Pen, shade

WIDTH, HEIGHT = 960, 720
HORIZON = 400


@cache
def camera_scene(seed: int | str, camera: int, domain: Domain = STREET) -> Image.Image:
    """The place that a camera looks at, (720, 960) pixels; all its images are windows of it."""
    rng = random.Random(f"{seed}:scene:{camera}")
    scene = Image.new("RGB", (WIDTH, HEIGHT), muted(rng, 190, 235))
    PAINTERS[domain.scenes[camera % len(domain.scenes)]](ImageDraw.Draw(scene), rng)
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


def paint_brick(draw: ImageDraw.ImageDraw, rng: random.Random) -> None:
    """A brick building with rows of white windows, and a hedge."""
    red = rng.randint(150, 185)
    wall = (red, red - rng.randint(45, 60), red - rng.randint(62, 80))
    draw.rectangle((0, 0, WIDTH, HORIZON), fill=wall)
    for row, y in enumerate(range(0, HORIZON, 22)):
        draw.line((0, y, WIDTH, y), fill=shade(wall, 1.16), width=3)
        for x in range(22 * (row % 2), WIDTH, 44):
            draw.line((x, y, x, y + 22), fill=shade(wall, 1.16), width=3)
    for x in range(rng.randint(10, 50), WIDTH, 150):
        for y in (40, 180):
            draw.rectangle((x, y, x + 84, y + 92), fill=(196, 208, 216), outline=(240, 240, 236), width=9)
            draw.line((x + 42, y, x + 42, y + 92), fill=(240, 240, 236), width=6)
    draw.rectangle((0, HORIZON, WIDTH, HEIGHT), fill=muted(rng, 195, 215, 8))
    for x in range(-20, WIDTH, 34):
        draw.ellipse((x, 330, x + 60, 330 + rng.randint(90, 120)), fill=(88, rng.randint(118, 140), 84))
    draw.rectangle((0, 500, WIDTH, 512), fill=(168, 168, 164))


def paint_court(draw: ImageDraw.ImageDraw, rng: random.Random) -> None:
    """A sports ground with white lines behind a wire fence, under the sky."""
    draw.rectangle((0, 0, WIDTH, 250), fill=(204, 218, 230))
    for _ in range(12):
        x, r = rng.randint(0, WIDTH), rng.randint(40, 80)
        draw.ellipse((x - r, 190, x + r, 190 + 2 * r), fill=(124, rng.randint(150, 166), 122))
    ground = rng.choice(((176, 116, 96), (112, 150, 124), (126, 142, 168)))
    draw.rectangle((0, 260, WIDTH, HEIGHT), fill=ground)
    for x in range(-400, WIDTH, 26):
        draw.line((x, HORIZON - 30, x + 320, 110), fill=(150, 156, 156), width=2)
        draw.line((x, 110, x + 320, HORIZON - 30), fill=(150, 156, 156), width=2)
    for x in range(rng.randint(0, 200), WIDTH, 240):
        draw.rectangle((x, 90, x + 12, HORIZON), fill=(120, 126, 126))
    for x in (rng.randint(0, 200), rng.randint(450, 700)):
        draw.line((x, HORIZON, x - 260, HEIGHT), fill=(236, 236, 232), width=14)
    draw.line((0, 520, WIDTH, 500), fill=(236, 236, 232), width=12)


def paint_racks(draw: ImageDraw.ImageDraw, rng: random.Random) -> None:
    """A row of bicycles before a concrete wall, on grass and paving."""
    wall = muted(rng, 185, 215, 6)
    draw.rectangle((0, 0, WIDTH, HORIZON), fill=wall)
    for x in range(rng.randint(0, 120), WIDTH, 210):
        draw.line((x, 0, x, HORIZON), fill=shade(wall, 0.82), width=5)
    draw.rectangle((0, 70, WIDTH, 120), fill=muted(rng, 120, 150, 10))
    for x in range(rng.randint(-60, 0), WIDTH, 118):
        frame = muted(rng, 70, 150, 40)
        for wheel in (x, x + 66):
            draw.ellipse((wheel, 318, wheel + 66, 384), outline=(66, 66, 70), width=6)
        draw.line((x + 33, 351, x + 58, 312, x + 92, 312, x + 99, 351), fill=frame, width=7)
    draw.rectangle((0, 386, WIDTH, 470), fill=(128, rng.randint(154, 170), 112))
    draw.rectangle((0, 470, WIDTH, HEIGHT), fill=muted(rng, 190, 215, 6))


def paint_tiles(draw: ImageDraw.ImageDraw, rng: random.Random, top: int) -> None:
    """A polished floor of light and dark tiles in perspective, with streaks of lamps mirrored in it."""
    light, dark = muted(rng, 200, 226, 8), muted(rng, 150, 178, 14)
    draw.rectangle((0, top, WIDTH, HEIGHT), fill=light)
    y, deep, row = float(top), 16.0, 0
    while y < HEIGHT:
        for column in range(-9 + row % 2, 10, 2):
            ends = [(WIDTH / 2 + side * (60 + (at - top) * 0.42), at) for side, at in
                    ((column, y), (column + 1, y), (column + 1, y + deep), (column, y + deep))]  # fmt: skip
            draw.polygon(ends, fill=dark)
        y, deep, row = y + deep, deep * 1.3, row + 1
    for x in range(rng.randint(20, 120), WIDTH, 190):
        draw.rectangle((x, top, x + 26, HEIGHT), fill=(240, 234, 220))


def paint_atrium(draw: ImageDraw.ImageDraw, rng: random.Random) -> None:
    """Balconies with railings around a hall, lamps in rows."""
    wall = (rng.randint(226, 240), rng.randint(212, 224), rng.randint(188, 204))
    draw.rectangle((0, 0, WIDTH, HORIZON), fill=wall)
    for y in (20, 160, 300):
        draw.rectangle((0, y, WIDTH, y + 22), fill=shade(wall, 0.72))
        for x in range(rng.randint(0, 24), WIDTH, 30):
            draw.line((x, y + 22, x, y + 74), fill=shade(wall, 0.6), width=4)
        draw.rectangle((0, y + 74, WIDTH, y + 84), fill=(150, 110, 76))
        for x in range(rng.randint(0, 60), WIDTH, 96):
            draw.ellipse((x, y + 90, x + 34, y + 106), fill=(255, 250, 228))
    paint_tiles(draw, rng, HORIZON)


def paint_escalator(draw: ImageDraw.ImageDraw, rng: random.Random) -> None:
    """Two escalators before a panelled wall."""
    wall = muted(rng, 176, 206, 20)
    draw.rectangle((0, 0, WIDTH, HORIZON), fill=wall)
    for x in range(rng.randint(0, 80), WIDTH, 120):
        draw.rectangle((x, 0, x + 8, HORIZON), fill=shade(wall, 1.2))
    for left in (rng.randint(-120, 60), rng.randint(400, 560)):
        slope = [(left, HORIZON + 30), (left + 150, HORIZON + 30), (left + 480, 30), (left + 330, 30)]
        draw.polygon(slope, fill=(92, 92, 98))
        for step in range(18):
            x, y = left + 18.5 * step, HORIZON + 20 - 20.5 * step
            draw.line((x, y, x + 140, y), fill=(156, 156, 162), width=5)
        draw.line((left + 150, HORIZON, left + 480, 0), fill=(40, 40, 44), width=18)
        draw.line((left, HORIZON, left + 330, 0), fill=(40, 40, 44), width=18)
    paint_tiles(draw, rng, HORIZON + 20)


def paint_store(draw: ImageDraw.ImageDraw, rng: random.Random) -> None:
    """Shelves of boxes and hanging clothes under a bright sign."""
    draw.rectangle((0, 0, WIDTH, HORIZON), fill=(236, 224, 202))
    draw.rectangle((0, 30, WIDTH, 92), fill=rng.choice(((150, 70, 66), (70, 84, 120), (92, 74, 112))))
    for x in range(rng.randint(10, 90), WIDTH, 74):
        draw.rectangle((x, 48, x + 40, 74), fill=(250, 246, 232))
    for y in (170, 252, 334):
        x = rng.randint(-30, 0)
        while x < WIDTH:
            wide = rng.randint(16, 44)
            draw.rectangle((x, y - rng.randint(34, 62), x + wide, y), fill=muted(rng, 110, 200, 55))
            x += wide + rng.randint(2, 12)
        draw.rectangle((0, y, WIDTH, y + 10), fill=(128, 96, 66))
    paint_tiles(draw, rng, HORIZON)


PAINTERS = {
    "facade": paint_facade, "park": paint_park, "corridor": paint_corridor, "shops": paint_shops,
    "brick": paint_brick, "court": paint_court, "racks": paint_racks,
    "atrium": paint_atrium, "escalator": paint_escalator, "store": paint_store,
}  # fmt: skip


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
    """A post, a bench, a bush, a bicycle, a planter or a rail between the camera and the person."""
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
    elif kind == "bicycle":
        x, color = rng.choice((-1, 1)) * rng.uniform(0.16, 0.3), muted(rng, 60, 150, 40)
        for side in (-0.17, 0.17):
            rim = [(x + side + 0.13 * a, 0.87 + 0.13 * b) for a, b in CIRCLE]
            pen.line([*rim, rim[0]], (52, 52, 56), 0.016)
        frame = [(-0.17, 0.87), (-0.07, 0.68), (0.12, 0.68), (0.0, 0.86), (-0.07, 0.68)]
        pen.line([(x + a, b) for a, b in frame], color, 0.02)
        pen.line([(x + 0.17, 0.87), (x + 0.11, 0.62), (x + 0.05, 0.6)], color, 0.02)
    elif kind == "planter":
        pot, top = muted(rng, 90, 190, 20), rng.uniform(0.88, 0.93)
        for _ in range(14):
            green = (rng.randint(40, 80), rng.randint(100, 140), rng.randint(50, 84))
            pen.blob(rng.uniform(-0.42, 0.42), top - rng.uniform(0, 0.06), 0.06, 0.05, green)
        pen.shape([(-0.5, top), (0.5, top), (0.46, 1.2), (-0.46, 1.2)], pot)
    elif kind == "rail":
        for y in (rng.uniform(0.6, 0.68), 0.76, 0.88):
            pen.shape([(-1.2, y), (1.2, y), (1.2, y + 0.018), (-1.2, y + 0.018)], (196, 196, 200))
