"""Drawing what a person carries."""

from data.synthetic.attributes import RGB, Item
from data.synthetic.body import Body
from data.synthetic.pen import Pen, Point, outline, shade

METAL = (120, 122, 126)


def is_a(bag: Item | None, kind: str) -> bool:
    """Whether there is a bag, of this kind."""
    return bag is not None and bag.kind == kind


def draw_backpack(pen: Pen, bag: Item | None, body: Body) -> None:
    """A backpack seen from behind."""
    if not is_a(bag, "backpack"):
        return
    color, half = RGB[bag.color], body.shoulder * 0.8
    pen.line([(-0.02, 0.188), (-0.014, 0.172), (0.014, 0.172), (0.02, 0.188)], shade(color, 0.6), 0.01)
    pen.shape(outline(0, (0.185, half * 0.7), (0.22, half), (0.44, half), (0.465, half * 0.85)), color)
    pen.shape(outline(0, (0.33, half * 0.72), (0.44, half * 0.72)), shade(color, 0.84))
    pen.line([(-half * 0.72, 0.35), (half * 0.72, 0.35)], shade(color, 0.55), 0.006)


def draw_backpack_edges(pen: Pen, bag: Item | None, body: Body) -> None:
    """What shows of a backpack on either side of the torso, from the front."""
    if is_a(bag, "backpack"):
        half = body.shoulder * 1.02
        pen.shape(outline(0, (0.2, half), (0.44, half)), RGB[bag.color])


def draw_straps(pen: Pen, bag: Item | None, body: Body) -> None:
    """The two straps of a backpack, from the front."""
    if is_a(bag, "backpack"):
        for sign in (-1, 1):
            x = sign * body.shoulder * 0.62
            pen.limb(((x, 0.178), (x * 1.06, 0.26), (x * 1.3, 0.37)), (0.024, 0.024, 0.018), RGB[bag.color])


def draw_backpack_side(pen: Pen, bag: Item | None) -> None:
    """A backpack in profile, on the back of someone who walks to the right."""
    if not is_a(bag, "backpack"):
        return
    back = [(-0.03, 0.19), (-0.1, 0.2), (-0.15, 0.25), (-0.155, 0.42), (-0.13, 0.455), (-0.03, 0.45)]
    pen.shape(back, RGB[bag.color])
    pocket = [(-0.135, 0.33), (-0.175, 0.345), (-0.172, 0.43), (-0.135, 0.44)]
    pen.shape(pocket, shade(RGB[bag.color], 0.84))


def draw_shoulder_bag(pen: Pen, bag: Item | None, body: Body) -> None:
    """A bag at the hip, its strap across the body."""
    if not is_a(bag, "shoulder bag"):
        return
    color, x = RGB[bag.color], -0.045 if body.is_side else body.hip + 0.012
    strap = [(-body.shoulder * 0.55, 0.172), (body.hip * 0.95, 0.46)]
    pen.line([(-0.012, 0.175), (-0.04, 0.44)] if body.is_side else strap, shade(color, 0.75), 0.017)
    pen.shape(outline(x, (0.45, 0.065), (0.555, 0.065)), color)
    pen.shape(outline(x, (0.45, 0.065), (0.505, 0.05)), shade(color, 0.85))


def draw_hand_bag(pen: Pen, bag: Item | None, hand: Point) -> None:
    """A handbag or a shopping bag, in the hand."""
    x, y = hand
    color = RGB[bag.color] if bag else None
    if is_a(bag, "handbag"):
        handle = [(x - 0.04, y + 0.065), (x - 0.02, y), (x + 0.02, y), (x + 0.04, y + 0.065)]
        pen.line(handle, shade(color, 0.7), 0.011)
        pen.shape(outline(x, (y + 0.06, 0.056), (y + 0.15, 0.075)), color)
        pen.blob(x, y + 0.075, 0.008, 0.008, (222, 190, 90))
    elif is_a(bag, "shopping bag"):
        pen.line([(x - 0.03, y + 0.05), (x, y), (x + 0.03, y + 0.05)], shade(color, 0.65), 0.008)
        pen.shape(outline(x, (y + 0.045, 0.06), (y + 0.215, 0.064)), color)
        pen.shape(outline(x, (y + 0.1, 0.03), (y + 0.15, 0.03)), shade(color, 0.7))


def draw_suitcase(pen: Pen, bag: Item | None, body: Body) -> None:
    """A suitcase on wheels, pulled with the second hand."""
    if not is_a(bag, "suitcase"):
        return
    color, (hand_x, hand_y) = RGB[bag.color], body.arms[1][2]
    x = hand_x - 0.09 if body.is_side else hand_x + 0.045
    for shift in (-0.018, 0.018):
        pen.line([(hand_x + shift, hand_y), (x + shift, 0.72)], METAL, 0.008)
    for shift in (-0.045, 0.045):
        pen.blob(x + shift, 0.985, 0.015, 0.015, (30, 30, 32))
    pen.shape(outline(x, (0.7, 0.075), (0.72, 0.08), (0.97, 0.08)), color)
    for shift in (-0.035, 0.0, 0.035):
        pen.line([(x + shift, 0.73), (x + shift, 0.95)], shade(color, 0.75), 0.008)


def draw_held(pen: Pen, item: Item | None, hand: Point, body: Body) -> None:
    """What the first hand holds: a folded umbrella, a phone or a cup."""
    if item is None:
        return
    x, y = hand
    if item.kind == "umbrella":
        handle = [(x - 0.012, y - 0.05), (x, y - 0.06), (x + 0.012, y - 0.045), (x + 0.012, y)]
        pen.line(handle, (96, 64, 40), 0.011)
        cloth = ((x + 0.012, y + 0.02), (x + 0.02, y + 0.14), (x + 0.03, y + 0.3))
        pen.limb(cloth, (0.03, 0.046, 0.01), RGB[item.color])
        pen.line([(x + 0.016, y + 0.03), (x + 0.028, y + 0.27)], shade(RGB[item.color], 0.7), 0.006)
    elif body.pose.view != "back" and item.kind == "phone":
        pen.shape(outline(x, (y - 0.055, 0.02), (y + 0.02, 0.02)), (26, 26, 30))
        screen = outline(x, (y - 0.046, 0.013), (y + 0.008, 0.013))
        pen.shape(screen, (150, 200, 230), outline=False)
    elif body.pose.view != "back":
        pen.shape(outline(x, (y - 0.06, 0.026), (y + 0.02, 0.018)), (238, 236, 230))
        pen.shape(outline(x, (y - 0.035, 0.023), (y, 0.02)), (140, 92, 56), outline=False)
