"""Few-shot training: the part of the training images that is used."""

import random
from collections.abc import Sequence


def few_shot_rows(person_ids: Sequence[int], share: float, by: str, seed: int) -> list[int]:
    """The rows of a training split that a `share` (0 to 1] of it keeps, in their order; at least one.

    Args:
        person_ids: the person of each image.
        by: "images" keeps that share of the images, "identities" all images of that share of the persons.
        seed: the only source of randomness; with one seed, a larger share holds the smaller ones.
    """
    assert by in ("images", "identities")
    unit_of_row = range(len(person_ids)) if by == "images" else person_ids
    units = sorted(set(unit_of_row))
    random.Random(seed).shuffle(units)
    kept = set(units[: max(1, round(share * len(units)))])
    return [row for row, unit in enumerate(unit_of_row) if unit in kept]
