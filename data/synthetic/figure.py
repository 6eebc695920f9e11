"""A pedestrian: the order in which the layers are drawn."""

from data.synthetic import bags, clothes, head
from data.synthetic.attributes import Identity
from data.synthetic.body import Body, Pose, build_body
from data.synthetic.pen import Pen


def draw_person(pen: Pen, identity: Identity, pose: Pose) -> None:
    """Draws a person with the crown at the pen's origin, from the layer farthest away to the nearest."""
    body = build_body(identity, pose)
    (side_layers if body.is_side else upright_layers)(pen, identity, body)


def side_layers(pen: Pen, identity: Identity, body: Body) -> None:
    """A person walking to the right."""
    upper = pen.fabric(identity.upper)
    bags.draw_suitcase(pen, identity.bag, body)
    clothes.draw_arm(pen, identity, body, upper, 0)
    bags.draw_held(pen, identity.hand, body.arms[0][2], body)
    clothes.draw_legs(pen, identity, body)
    bags.draw_backpack_side(pen, identity.bag)
    clothes.draw_torso(pen, identity, body, upper)
    head.draw_head(pen, identity, body)
    head.draw_scarf(pen, identity.scarf, body)
    bags.draw_shoulder_bag(pen, identity.bag, body)
    clothes.draw_arm(pen, identity, body, upper, 1)
    bags.draw_hand_bag(pen, identity.bag, body.arms[1][2])


def upright_layers(pen: Pen, identity: Identity, body: Body) -> None:
    """A person seen from the front or from the back."""
    upper, front = pen.fabric(identity.upper), body.pose.view == "front"
    bags.draw_suitcase(pen, identity.bag, body)
    if front:
        bags.draw_backpack_edges(pen, identity.bag, body)
        head.draw_hair_behind(pen, identity, body)
    else:
        bags.draw_held(pen, identity.hand, body.arms[0][2], body)
    clothes.draw_legs(pen, identity, body)
    for arm in (0, 1):
        clothes.draw_arm(pen, identity, body, upper, arm)
    clothes.draw_torso(pen, identity, body, upper)
    bags.draw_shoulder_bag(pen, identity.bag, body)
    if front:
        bags.draw_straps(pen, identity.bag, body)
        head.draw_head(pen, identity, body)
        head.draw_scarf(pen, identity.scarf, body)
        if identity.hand is not None:
            clothes.draw_arm(pen, identity, body, upper, 0)
            bags.draw_held(pen, identity.hand, body.arms[0][2], body)
    else:
        head.draw_scarf(pen, identity.scarf, body)
        head.draw_head(pen, identity, body)
        bags.draw_backpack(pen, identity.bag, body)
    bags.draw_hand_bag(pen, identity.bag, body.arms[1][2])
