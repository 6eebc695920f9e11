"""The published data sets: what they hold, how they are recognised, which of them overlap."""

import logging
from collections.abc import Iterable
from typing import NamedTuple

from data.columns.stored import Found

logger = logging.getLogger(__name__)


class Count(NamedTuple):
    """Of one split in one language."""

    persons: int
    images: int
    captions: int


# The splits as the files of the data sets hold them (papers print other numbers of captions for CUHK-PEDES).
PUBLISHED = {
    "CUHK-PEDES": {
        "train": Count(11003, 34054, 68126),
        "val": Count(1000, 3078, 6158),
        "test": Count(1000, 3074, 6156),
    },
    "ICFG-PEDES": {"train": Count(3102, 34674, 34674), "test": Count(1000, 19848, 19848)},
    "RSTPReid": {
        "train": Count(3701, 18505, 37010),
        "val": Count(200, 1000, 2000),
        "test": Count(200, 1000, 2000),
    },
    "UFine3C": {"test": Count(2250, 7446, 37939)},
}
# What paths have of them.
NAMES = {"CUHK-PEDES": "cuhk-pedes", "ICFG-PEDES": "icfg", "RSTPReid": "rstp", "UFine3C": "ufine3c"}
MADE_FROM_MSMT17 = {"ICFG-PEDES", "RSTPReid"}


def count(found: Found) -> dict[tuple[str, str], Count]:
    """{(split, language): its count}."""
    return {
        (split, language): Count(
            records.num_persons,
            records.num_images,
            int(records.num_captions.sum()),
        )
        for split, by_language in found.items()
        for language, records in by_language.items()
    }


def recognise(counts: dict[tuple[str, str], Count], path: str) -> str | None:
    """The data set of `PUBLISHED` of as many persons and images (to 5 %), or that the path names; or None."""
    for name, published in PUBLISHED.items():
        if counts and all(
            split in published
            and all(abs(a - b) <= 0.05 * b for a, b in zip(number[:2], published[split][:2], strict=True))
            for (split, _), number in counts.items()
        ):
            return name
    spelt = path.lower().replace("_", "-")
    return next((name for name, word in NAMES.items() if word in spelt), None)


def warn_of_overlap(names: Iterable[str | None]) -> None:
    """Log a warning where the data sets of a run, as `recognise` names them, share images."""
    if set(names) >= MADE_FROM_MSMT17:
        logger.warning(
            "%s were both made from MSMT17 and share images and persons: figures of a model that is trained "
            "on one of them and tested on the other are too high",
            " and ".join(sorted(MADE_FROM_MSMT17)),
        )
