"""Drawing what a person wears: legs with lower garment and shoes, arms with sleeves, the torso."""

from data.synthetic.attributes import RGB, Identity, Item
from data.synthetic.body import Body
from data.synthetic.pen import Color, Fabric, Pen, Point, outline, shade

HEM = {"coat": 0.735, "dress": 0.70, "blazer": 0.575, "jacket": 0.555, "tank top": 0.53}
LEG_WIDTHS = {
    "trousers": (0.092, 0.078, 0.068),
    "jeans": (0.088, 0.068, 0.056),
    "sweatpants": (0.098, 0.086, 0.06),
    "leggings": (0.08, 0.058, 0.042),
}
BARE = (0.076, 0.052, 0.036)
SHORT_SLEEVES = ("t-shirt", "dress")


def between(a: Point, b: Point, share: float) -> Point:
    """The point at `share` of the way from a to b."""
    return a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share


def draw_legs(pen: Pen, identity: Identity, body: Body) -> None:
    """Both legs, the farther one first and darker; skirts go over both."""
    lower = identity.lower
    fabric = pen.fabric(lower) if lower else None
    for index, leg in enumerate(body.legs):
        grow = body.hip / (0.066 if body.is_side else 0.086)
        bare = [width * grow for width in BARE]
        covered = lower is not None and lower.kind in LEG_WIDTHS
        if not covered:
            pen.limb(leg, bare, body.skin)
        draw_shoe(pen, identity.shoes, leg, body)
        if covered:
            widths = [width * grow for width in LEG_WIDTHS[lower.kind]]
            pen.limb((*leg[:2], between(leg[1], leg[2], 0.95)), widths, fabric)
            draw_leg_details(pen, lower, leg, widths)
        elif lower is not None and lower.kind == "shorts":
            thigh, widths = (leg[0], between(leg[0], leg[1], 0.86)), (0.1 * grow, 0.094 * grow)
            pen.limb(thigh, widths, fabric)
            draw_leg_details(pen, lower, thigh, widths)
        if body.is_side and index == 0:
            left, right = (
                [(x + sign * 0.48 * width, y) for (x, y), width in zip(leg, bare, strict=True)]
                for sign in (-1, 1)
            )
            pen.shadow([*left, *reversed(right)], 45)
    if lower is not None and lower.kind == "skirt":
        draw_skirt(pen, fabric, body)
    elif lower is not None:
        pen.shape(outline(0, (0.46, body.hip * 0.95), (0.54, body.hip)), fabric, outline=False)


def draw_leg_details(pen: Pen, lower: Item, leg: tuple[Point, ...], widths: tuple[float, ...]) -> None:
    """The stripe down a leg, or the fade and the turn-up of denim."""
    outer = 1 if leg[0][0] >= 0 else -1
    if lower.pattern == "side stripes":
        edge = [(x + outer * w * 0.3, y) for (x, y), w in zip(leg, widths, strict=True)]
        pen.line(edge, RGB[lower.color2], 0.017)
    if lower.kind == "jeans":
        fade = shade(RGB[lower.color], 1.28)
        pen.line([between(leg[0], leg[1], 0.25), between(leg[0], leg[1], 0.85)], fade, 0.022)
        foot = between(leg[1], leg[2], 0.93)
        pen.line([(foot[0] - 0.026, foot[1]), (foot[0] + 0.026, foot[1])], fade, 0.012)


def draw_skirt(pen: Pen, fabric: Fabric, body: Body) -> None:
    """A skirt to the knee, swinging with the step."""
    hip, swing = body.hip, 0.03 * body.pose.stride * body.is_side
    pen.shape(outline(0, (0.43, hip * 0.82), (0.52, hip * 1.05), (0.7, hip * 1.3 + swing)), fabric)
    for x in (-0.4, 0.1, 0.5):
        pen.line([(hip * x, 0.58), (hip * x * 1.2, 0.69)], shade(fabric.color, 0.75), 0.005)


def draw_shoe(pen: Pen, shoes: Item, leg: tuple[Point, ...], body: Body) -> None:
    """One shoe at the end of a leg."""
    color = RGB[shoes.color]
    x, y = leg[2]
    half, length = (0.026, 0.064) if body.is_side else (0.027, 0.004)
    toe = x + half + length
    if shoes.kind == "boots":
        pen.limb((between(leg[1], leg[2], 0.52), (x, y + 0.01)), (0.062, 0.056), color)
    if shoes.kind == "sandals":
        foot = [(x - half, y + 0.005), (toe, y + 0.016), (toe, y + 0.034), (x - half, y + 0.034)]
        pen.shape(foot, body.skin)
        for band in (x - half + (2 * half + length) * at for at in (0.2, 0.75)):
            pen.line([(band - 0.01, y + 0.002), (band + 0.014, y + 0.034)], color, 0.011)
        pen.line([(x - half, y + 0.036), (toe, y + 0.036)], color, 0.011)
        return
    if shoes.kind == "high heels":
        sides = [(x - half * 0.8, y), (x + half * 0.8, y), (toe, y + 0.038), (x - half * 0.2, y + 0.036)]
        pen.shape(sides, color)
        pen.line([(x - half * 0.7, y + 0.004), (x - half * 0.7, y + 0.042)], color, 0.007)
        return
    upper = [(x - half, y - 0.008), (x + half * 0.8, y - 0.008), (toe, y + 0.018)]
    pen.shape([*upper, (toe, y + 0.042), (x - half - 0.004, y + 0.042)], color)
    sole = (236, 236, 232) if shoes.kind == "sneakers" and shoes.color != "white" else shade(color, 0.5)
    pen.line([(x - half, y + 0.041), (toe, y + 0.041)], sole, 0.011)


def draw_arm(pen: Pen, identity: Identity, body: Body, fabric: Fabric, index: int) -> None:
    """One arm, with the sleeve of the upper garment."""
    shoulder, elbow, hand = body.arms[index]
    kind, bulk = identity.upper.kind, body.bulk
    pen.limb((shoulder, elbow, hand), (0.048, 0.04, 0.032), body.skin)
    pen.blob(*hand, 0.019, 0.022, body.skin, outline=True)
    if kind in SHORT_SLEEVES:
        pen.limb((shoulder, between(shoulder, elbow, 0.68)), (0.062, 0.06), fabric)
    elif kind != "tank top":
        widths = (0.06 + 1.6 * bulk, 0.053 + 1.6 * bulk, 0.042 + 1.4 * bulk)
        pen.limb((shoulder, elbow, between(elbow, hand, 0.88)), widths, fabric)
        if kind == "puffer":
            for share in (0.3, 0.7):
                x, y = between(shoulder, elbow, share)
                pen.line([(x - 0.033, y), (x + 0.033, y)], shade(fabric.color, 0.6), 0.006)


def torso_outline(identity: Identity, body: Body) -> list[Point]:
    """The upper garment's outline, clockwise from the left of the neck."""
    kind, bulk = identity.upper.kind, body.bulk
    shoulder, waist, hip = body.shoulder + bulk, body.waist + bulk, body.hip + bulk
    hem = HEM.get(kind, 0.54)
    fitted = identity.sex == "woman" and kind in ("dress", "tank top", "blazer", "t-shirt", "coat")
    waist = waist if fitted else max(waist, 0.93 * hip)
    flare, neck = {"dress": 1.42, "coat": 1.22}.get(kind, 1.02), 0.032 if body.is_side else 0.045
    right = [(neck, 0.163), (shoulder * 0.93, 0.19), (shoulder, 0.225), (shoulder * 0.9, 0.29)]
    right += [(waist, 0.40), (hip * 1.02, 0.49)]
    if kind == "tank top" and not body.is_side:
        right[1:4] = [(0.068, 0.172), (0.07, 0.23), (shoulder * 0.88, 0.285)]
    if hem > 0.6:
        right.append((hip * (1 + (flare - 1) * 0.5), (0.49 + hem) / 2))
    right.append((hip * flare, hem))
    return [(-x, y) for x, y in right] + right[::-1]


def draw_torso(pen: Pen, identity: Identity, body: Body, fabric: Fabric) -> None:
    """The upper garment over the torso, and the neck."""
    kind = identity.upper.kind
    pen.limb(((0.004, 0.12), (0.0, 0.19)), (0.05, 0.062), body.skin)
    if kind == "tank top":
        chest = body.shoulder * 0.86
        skin = [(-0.03, 0.165), (-chest, 0.2), (-chest, 0.27), (chest, 0.27), (chest, 0.2), (0.03, 0.165)]
        pen.shape(skin, body.skin)
    torso = torso_outline(identity, body)
    pen.shape(torso, fabric)
    far_side = torso[len(torso) // 2 :]
    pen.shadow([*far_side, *((x * 0.62, y) for x, y in reversed(far_side))], 30)
    draw_collar(pen, kind, fabric.color, body)
    if body.pose.view == "front":
        draw_front(pen, identity, fabric.color, body)
    if kind == "puffer":
        for y in (0.24, 0.3, 0.36, 0.42, 0.48):
            pen.line([(-body.hip - 0.012, y), (body.hip + 0.012, y)], shade(fabric.color, 0.6), 0.006)
    if kind == "coat" and body.pose.view == "back":
        pen.line([(-body.waist, 0.42), (body.waist, 0.42)], shade(fabric.color, 0.6), 0.014)
    if kind == "sweater":
        pen.line([(-body.hip, 0.532), (body.hip, 0.532)], shade(fabric.color, 0.7), 0.014)


def draw_collar(pen: Pen, kind: str, color: Color, body: Body) -> None:
    """What the garment does at the neck, seen from any side."""
    neck, back = 0.036 if body.is_side else 0.046, body.pose.view == "back"
    if kind == "hoodie" and back:
        hood = [(-0.062, 0.165), (0.062, 0.165), (0.05, 0.235), (0, 0.262), (-0.05, 0.235)]
        pen.shape(hood, shade(color, 0.88))
    elif kind == "hoodie":
        pen.blob(-0.03 * body.is_side, 0.172, neck + 0.018, 0.026, shade(color, 0.85), outline=True)
    elif kind in ("puffer", "coat", "jacket"):
        pen.shape(outline(0, (0.142, neck), (0.185, neck + 0.012)), shade(color, 0.9))
    elif kind in ("shirt", "blazer"):
        pen.shape(outline(0, (0.152, neck), (0.178, neck + 0.008)), shade(color, 0.92))
    elif kind == "sweater":
        pen.line([(-neck, 0.168), (neck, 0.168)], shade(color, 0.7), 0.016)
    elif not back and kind != "tank top":
        pen.blob(0.006 * body.is_side, 0.163, neck * 0.72, 0.018, body.skin)


def draw_front(pen: Pen, identity: Identity, color: Color, body: Body) -> None:
    """Buttons, zips, pockets, prints and what shows under an open jacket."""
    upper, dark, hem = identity.upper, shade(color, 0.55), HEM.get(identity.upper.kind, 0.54)
    if identity.inner is not None:
        draw_opening(pen, identity, color, hem)
    elif upper.kind == "shirt":
        pen.shape([(-0.03, 0.158), (0.03, 0.158), (0, 0.2)], body.skin, outline=False)
        pen.line([(0, 0.2), (0, hem)], dark, 0.005)
        for y in (0.25, 0.32, 0.39, 0.46):
            pen.blob(0, y, 0.006, 0.006, dark)
    elif upper.kind == "puffer":
        pen.line([(0, 0.15), (0, hem)], dark, 0.008)
    elif upper.kind == "hoodie":
        pen.shape(outline(0, (0.42, 0.045), (0.5, 0.062)), shade(color, 0.88))
        for x in (-0.016, 0.016):
            pen.line([(x, 0.19), (x, 0.26)], (238, 238, 236) if color[0] < 200 else dark, 0.006)
    elif upper.kind == "dress":
        pen.line([(-body.waist, 0.405), (body.waist, 0.405)], dark, 0.012)
    elif upper.kind == "tank top":
        pen.blob(0, 0.172, 0.042, 0.034, body.skin)
    if upper.pattern == "logo":
        pen.shape(outline(0, (0.275, 0.045), (0.345, 0.03)), RGB[upper.color2], outline=False)
        pen.blob(0, 0.305, 0.013, 0.013, color)


def draw_opening(pen: Pen, identity: Identity, color: Color, hem: float) -> None:
    """The open front of a jacket, blazer or coat, with its lapels."""
    inner, dark = RGB[identity.inner.color], shade(color, 0.62)
    if identity.upper.kind == "jacket":
        pen.shape(outline(0, (0.165, 0.034), (hem - 0.02, 0.036)), inner)
    else:
        pen.shape(outline(0, (0.163, 0.042), (0.40, 0.012)), inner)
        pen.line([(0, 0.4), (0, hem)], dark, 0.006)
        for y in (0.43, 0.48):
            pen.blob(0.012, y, 0.006, 0.006, dark)
    for sign in (-1, 1):
        lapel = [(sign * 0.035, 0.158), (sign * 0.066, 0.215), (sign * 0.045, 0.25), (sign * 0.03, 0.3)]
        pen.shape(lapel, shade(color, 0.86))
