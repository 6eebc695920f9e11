"""Drawing the head with its hair and hats, and the scarf below it."""

import math

from data.synthetic.attributes import HAIR_RGB, RGB, Identity, Item
from data.synthetic.body import Body
from data.synthetic.pen import Color, Pen, Point, outline, shade

HEAD_Y, HEAD_RX, HEAD_RY = 0.074, 0.05, 0.066
DARK = (40, 38, 40)


def arc(
    rx: float, ry: float, start: float, end: float, x: float = 0.0, y: float = HEAD_Y, steps: int = 14
) -> list[Point]:
    """Points of an ellipse's arc; degrees, 0 to the right, 90 up."""
    angles = [math.radians(start + (end - start) * i / steps) for i in range(steps + 1)]
    return [(x + rx * math.cos(a), y - ry * math.sin(a)) for a in angles]


def draw_head(pen: Pen, identity: Identity, body: Body) -> None:
    """Skull, face, hair, glasses, mask and hat, as the view shows them."""
    painters = {"front": draw_face, "back": draw_back_head, "side": draw_side_head}
    painters[body.pose.view](pen, identity, body, HAIR_RGB.get(identity.hair.color, DARK))
    if identity.hat is not None:
        draw_hat(pen, identity.hat, body.pose.view)


def draw_hair_behind(pen: Pen, identity: Identity, body: Body) -> None:
    """Hair that hangs behind the shoulders, seen from the front."""
    if identity.hair.kind == "long":
        color = HAIR_RGB[identity.hair.color]
        pen.shape([*arc(0.06, 0.07, 180, 0), (0.074, 0.27), (-0.074, 0.27)], color)


def draw_face(pen: Pen, identity: Identity, body: Body, hair: Color) -> None:
    """The head from the front."""
    kind, skin, look = identity.hair.kind, body.skin, 0.008 * body.pose.turn
    if kind == "bob":
        pen.shape([*arc(0.062, 0.072, 180, 0), (0.064, 0.145), (-0.064, 0.145)], hair)
    elif kind == "curly":
        draw_curls(pen, hair, 0.066, 0.0)
    elif kind == "ponytail":
        pen.limb(((0.048, 0.05), (0.07, 0.12), (0.058, 0.2)), (0.03, 0.04, 0.018), hair)
    elif kind == "bun" and identity.hat is None:
        pen.blob(0, -0.004, 0.028, 0.026, hair, outline=True)
    for sign in (-1, 1):
        pen.blob(sign * HEAD_RX, 0.08, 0.01, 0.015, skin, outline=True)
    pen.blob(0, HEAD_Y, HEAD_RX, HEAD_RY, skin, outline=True)
    for sign in (-1, 1):
        pen.blob(look + sign * 0.019, 0.073, 0.0055, 0.0065, DARK)
        pen.line([(look + sign * 0.027, 0.057), (look + sign * 0.012, 0.056)], shade(hair, 0.8), 0.006)
    pen.line([(look, 0.078), (look + 0.004, 0.094)], shade(skin, 0.75), 0.005)
    pen.line([(look - 0.013, 0.111), (look + 0.013, 0.111)], (150, 60, 60), 0.006)
    if kind != "bald":
        fringe = [(0.04, 0.058), (0.024, 0.034), (-0.02, 0.04), (-0.044, 0.062)]
        pen.shape([*arc(0.055, 0.073, 172, 8), *fringe], hair)
    if identity.mask is not None:
        mask = [(-0.047, 0.086), (0, 0.078), (0.047, 0.086), (0.034, 0.126), (0, 0.14), (-0.034, 0.126)]
        pen.shape(mask, RGB[identity.mask.color])
    draw_glasses(pen, identity.glasses, [(look - 0.02, 0.074), (look + 0.02, 0.074)])


def draw_back_head(pen: Pen, identity: Identity, body: Body, hair: Color) -> None:
    """The head from behind."""
    kind, skin = identity.hair.kind, body.skin
    for sign in (-1, 1):
        pen.blob(sign * HEAD_RX, 0.08, 0.01, 0.015, skin, outline=True)
    pen.blob(0, HEAD_Y, HEAD_RX, HEAD_RY, skin, outline=True)
    if kind == "bald":
        return
    if kind == "curly":
        draw_curls(pen, hair, 0.066, 0.0)
    elif kind == "long":
        ends = [(0.075, 0.24), (0.05, 0.29), (-0.05, 0.29), (-0.075, 0.24)]
        pen.shape([*arc(0.058, 0.073, 180, 0), *ends], hair)
    elif kind == "bob":
        pen.shape([*arc(0.06, 0.073, 180, 0), (0.064, 0.15), (-0.064, 0.15)], hair)
    else:
        pen.shape([*arc(0.055, 0.073, 190, -10), (0.03, 0.122), (-0.03, 0.122)], hair)
    if kind == "ponytail":
        pen.limb(((0, 0.06), (0.008, 0.15), (0.0, 0.26)), (0.036, 0.052, 0.018), shade(hair, 0.9))
    elif kind == "bun":
        pen.blob(0, 0.05 if identity.hat is None else 0.12, 0.034, 0.03, shade(hair, 0.85), outline=True)


def draw_side_head(pen: Pen, identity: Identity, body: Body, hair: Color) -> None:
    """The head in profile, looking right."""
    kind, skin = identity.hair.kind, body.skin
    if kind == "long":
        pen.shape([*arc(0.055, 0.07, 180, 40), (0.0, 0.14), (-0.02, 0.28), (-0.082, 0.27)], hair)
    elif kind == "curly":
        draw_curls(pen, hair, 0.062, -0.012)
    elif kind == "ponytail":
        pen.limb(((-0.05, 0.05), (-0.088, 0.1), (-0.082, 0.22)), (0.026, 0.046, 0.016), hair)
    elif kind == "bun":
        pen.blob(-0.055, 0.04, 0.03, 0.028, hair, outline=True)
    pen.shape([(0.05, 0.078), (0.068, 0.096), (0.046, 0.1)], skin)
    pen.blob(0.005, HEAD_Y, HEAD_RX, HEAD_RY, skin, outline=True)
    pen.blob(0.033, 0.072, 0.005, 0.007, DARK)
    pen.line([(0.026, 0.058), (0.044, 0.058)], shade(hair, 0.8), 0.006)
    pen.line([(0.03, 0.112), (0.047, 0.11)], (150, 60, 60), 0.006)
    if kind == "bob":
        pen.shape([*arc(0.058, 0.073, 195, 45), (0.01, 0.06), (0.004, 0.145), (-0.058, 0.145)], hair)
    elif kind != "bald":
        pen.shape([*arc(0.054, 0.073, 215, 25), (0.022, 0.045), (-0.002, 0.062), (-0.008, 0.1)], hair)
    pen.blob(-0.004, 0.084, 0.009, 0.014, skin, outline=True)
    if identity.mask is not None:
        pen.shape([(0.012, 0.09), (0.06, 0.082), (0.062, 0.118), (0.03, 0.134)], RGB[identity.mask.color])
        pen.line([(0.012, 0.09), (-0.004, 0.08)], RGB[identity.mask.color], 0.005)
    if identity.glasses is not None:
        pen.line([(0.03, 0.07), (-0.004, 0.074)], DARK, 0.007)
    draw_glasses(pen, identity.glasses, [(0.038, 0.073)])


def draw_curls(pen: Pen, color: Color, radius: float, x: float) -> None:
    """A round head of curls, behind the face."""
    for px, py in arc(radius, radius * 1.05, 215, -35, x, 0.068):
        pen.blob(px, py, 0.021, 0.021, color, outline=True)
    pen.blob(x, 0.064, radius + 0.006, radius + 0.006, color)


def draw_glasses(pen: Pen, glasses: Item | None, lenses: list[Point]) -> None:
    """One or two lenses with a bridge."""
    if glasses is None:
        return
    for x, y in lenses:
        if glasses.kind == "sunglasses":
            pen.blob(x, y, 0.0175, 0.014, (22, 22, 26))
        else:
            pen.line(arc(0.016, 0.014, 0, -360, x, y, steps=16), (24, 24, 28), 0.008)
    pen.line([lenses[0], lenses[-1]], (24, 24, 28), 0.007)


def draw_hat(pen: Pen, hat: Item, view: str) -> None:
    """A cap, a beanie or a sun hat."""
    color = RGB[hat.color]
    if hat.kind == "sun hat":
        pen.shape(arc(0.056, 0.075, 180, 0, y=0.042), color)
        pen.line([(-0.056, 0.032), (0.056, 0.032)], (110, 60, 46), 0.016)
        pen.blob(0, 0.046, 0.112, 0.017, shade(color, 0.93), outline=True)
        return
    if hat.kind == "beanie":
        pen.shape([*arc(0.06, 0.082, 180, 0, y=0.066), (0.06, 0.07), (-0.06, 0.07)], color)
        pen.shape(outline(0, (0.04, 0.063), (0.066, 0.063)), shade(color, 0.82))
        return
    pen.shape(arc(0.058, 0.072, 180, 0, y=0.06), color)
    if view == "side":
        pen.shape([(0.03, 0.046), (0.064, 0.048), (0.108, 0.062), (0.03, 0.064)], shade(color, 0.85))
    elif view == "front":
        pen.shape(arc(0.06, 0.024, 180, 360, y=0.052), shade(color, 0.85))
    else:
        pen.line([(-0.03, 0.056), (0.03, 0.056)], shade(color, 0.5), 0.01)


def draw_scarf(pen: Pen, scarf: Item | None, body: Body) -> None:
    """A scarf round the neck, with an end that hangs down."""
    if scarf is None:
        return
    color, half = RGB[scarf.color], 0.048 if body.is_side else 0.06
    pen.shape(outline(0, (0.138, half), (0.165, half + 0.012), (0.192, half)), color)
    pen.line([(-half, 0.166), (half, 0.16)], shade(color, 0.7), 0.006)
    if body.pose.view != "back":
        pen.shape([(0.006, 0.18), (0.054, 0.18), (0.06, 0.34), (0.008, 0.34)], color)
        pen.line([(0.008, 0.325), (0.059, 0.325)], shade(color, 0.7), 0.007)
