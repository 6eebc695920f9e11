"""The skeleton of a person in a pose."""

import math
from dataclasses import dataclass

from data.synthetic.attributes import SKIN, Identity
from data.synthetic.pen import Color, Point

BUILD = {"slim": 0.86, "average": 1.0, "heavy": 1.24}
LEG, ARM = (0.215, 0.215), (0.155, 0.14)
BULK = {"puffer": 0.016, "coat": 0.01, "jacket": 0.007, "blazer": 0.005, "hoodie": 0.007, "sweater": 0.004}

Limb = tuple[Point, Point, Point]
Limbs = tuple[tuple[Limb, ...], tuple[Limb, ...]]


@dataclass(frozen=True)
class Pose:
    """How a person stands in one image: seen from `view` ("front", "back" or "side"), `facing` 1 or -1
    (mirrored), with a `stride` of 0 (standing) to 1 and the face turned by `turn`, -1 to 1.
    """

    view: str
    facing: int = 1
    stride: float = 0.5
    turn: float = 0.0


@dataclass(frozen=True)
class Body:
    """The joints and half-widths of a figure, in body units. Limbs: the far (or left) one comes first."""

    pose: Pose
    skin: Color
    bulk: float
    shoulder: float
    waist: float
    hip: float
    legs: tuple[Limb, ...]
    arms: tuple[Limb, ...]

    @property
    def is_side(self) -> bool:
        return self.pose.view == "side"


def step(start: Point, length: float, angle: float) -> Point:
    """The end of a bone that hangs from `start`; the angle is 0 downwards, positive to the right."""
    return start[0] + length * math.sin(angle), start[1] + length * math.cos(angle)


def chain(start: Point, lengths: tuple[float, float], angles: tuple[float, float]) -> Limb:
    """A limb of two bones."""
    middle = step(start, lengths[0], angles[0])
    return start, middle, step(middle, lengths[1], angles[1])


def build_body(identity: Identity, pose: Pose) -> Body:
    """The figure of a person in a pose."""
    man, build = identity.sex == "man", BUILD[identity.build]
    upright = (0.114, 0.086, 0.084) if man else (0.1, 0.07, 0.089)
    shoulder, waist, hip = (0.062, 0.058, 0.066) if pose.view == "side" else upright
    shoulder, girth, hip = shoulder * build**0.6, build**1.5, hip * build
    limbs = side_limbs if pose.view == "side" else front_limbs
    bulk = BULK.get(identity.upper.kind, 0.0)
    legs, arms = limbs(pose, shoulder + bulk, hip, identity.hand is not None)
    return Body(pose, SKIN[identity.skin], bulk, shoulder, waist * girth, hip, legs, arms)


def front_limbs(pose: Pose, shoulder: float, hip: float, holds: bool) -> Limbs:
    """Legs and arms seen from the front or the back; a step shows as one shortened leg."""
    legs, arms = [], []
    for sign in (-1, 1):
        bent = 0.045 * pose.stride if sign == pose.facing else 0.0
        start = (sign * hip * 0.52, 0.52)
        knee = (sign * (hip * 0.56 + bent * 0.15), 0.735 - bent * 0.2)
        legs.append((start, knee, (sign * (hip * 0.54 - bent * 0.3), 0.95 - bent)))
        angles = (sign * (0.16 + 0.1 * pose.stride), sign * (-0.5 if holds and sign < 0 else 0.06))
        arms.append(chain((sign * (shoulder - 0.016), 0.208), ARM, angles))
    return tuple(legs), tuple(arms)


def side_limbs(pose: Pose, shoulder: float, hip: float, holds: bool) -> Limbs:
    """Legs and arms seen from the side, walking to the right."""
    swing = 0.46 * pose.stride
    start = (0.0, 0.52)
    far = chain(start, LEG, (-swing * 0.8, -swing * 0.8 - 0.5 * pose.stride))
    near = chain(start, LEG, (swing, swing * 0.72))
    far_arm = chain((0.012, 0.21), ARM, (swing * 0.9, swing * 0.9 + (1.1 if holds else 0.25)))
    near_arm = chain((-0.008, 0.21), ARM, (-swing * 0.9, -swing * 0.9 + 0.25))
    return (far, near), (far_arm, near_arm)
