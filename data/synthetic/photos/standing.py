"""Who stands where in a photo."""

import random
from dataclasses import dataclass

from data.synthetic.attributes import Identity
from data.synthetic.body import Pose
from data.synthetic.photos.view import View

WIDTH = 0.3  # of a person, in body heights
MOST_HIDDEN = 0.55  # of a person, by those nearer
NUM_TRIES = 40
SIZES = {"man": 1.0, "woman": 0.94}  # body heights


@dataclass(frozen=True)
class Figure:
    """A person in a photo.

    Attributes:
        person_id: in the data set.
        foot: where the feet are, (x, y) in pixels of the photo.
        height: of the body in pixels.
    """

    person_id: int
    identity: Identity
    pose: Pose
    foot: tuple[float, float]
    height: float

    @property
    def crown(self) -> tuple[float, float]:
        """Where the crown is; the soles are 0.99 body heights below it."""
        return self.foot[0], self.foot[1] - 0.99 * self.height


def stand(person_id: int, identity: Identity, pose: Pose, foot: tuple[float, float], view: View) -> Figure:
    """A person with the feet at a point of the ground, as high as it looks from there."""
    return Figure(person_id, identity, pose, foot, view.height_at(foot[1]) * SIZES[identity.sex])


def place(people: list[tuple[int, Identity, Pose]], view: View, rng: random.Random) -> list[Figure]:
    """The persons at random points of the ground, the farthest first; some hide a part of others.

    Args:
        people: (person id, identity, pose).
    """
    placed: list[Figure] = []
    for person_id, identity, pose in people:
        tries = [stand(person_id, identity, pose, draw_foot(view, rng), view) for _ in range(NUM_TRIES)]
        fitting = (each for each in tries if most_hidden([*placed, each]) <= MOST_HIDDEN)
        chosen = next(fitting, None) or min(tries, key=lambda each: most_hidden([*placed, each]))
        placed.append(chosen)
    return sorted(placed, key=lambda figure: figure.foot[1])


def draw_foot(view: View, rng: random.Random) -> tuple[float, float]:
    """A point of the ground, in pixels of the photo."""
    return view.size[0] * rng.uniform(0.02, 0.98), view.row(rng.random())


def most_hidden(figures: list[Figure]) -> float:
    """The largest share of a person's rectangle that rectangles of nearer persons may cover."""
    return max(
        sum(covered(figure, other) for other in figures if other.foot[1] > figure.foot[1])
        for figure in figures
    )


def covered(figure: Figure, other: Figure) -> float:
    """The share of the rectangle of `figure` that the one of `other` covers."""
    sides = []
    for each in (figure, other):
        (x, y), half = each.crown, WIDTH / 2 * each.height
        sides.append((x - half, y, x + half, y + each.height))
    (left, top, right, bottom), (left2, top2, right2, bottom2) = sides
    width = max(0.0, min(right, right2) - max(left, left2))
    height = max(0.0, min(bottom, bottom2) - max(top, top2))
    return width * height / ((right - left) * (bottom - top))
