"""The published data sets: what they hold, how they are recognised, which of them overlap."""

import logging
from collections.abc import Iterable
from typing import NamedTuple

from data.columns.stored import Found

logger = logging.getLogger(__name__)


class Count(NamedTuple):
    """Of one split in one language; None: not published."""

    persons: int | None
    images: int | None
    captions: int | None


CLOSE = 0.05  # as many, up to this share
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
    # Made for pretraining. Where there are no ids, each image is a person.
    "LUPerson-T": {"train": Count(None, None, 1_300_000)},
    "LUPerson-MLLM": {"train": Count(1_000_000, 1_000_000, None)},
    "MALS": {"train": Count(1_510_330, 1_510_330, 1_510_330)},
    "SYNTH-PEDES": {"train": Count(312_321, 4_791_711, 12_138_157)},
    "HAM-PEDES": {"train": Count(1_000_000, 1_000_000, 2_000_000)},
    "WebPerson": {"train": Count(5_002_723, 5_002_723, 10_005_446)},
    "WebPerson-1M": {"train": Count(1_000_000, 1_000_000, 2_000_000)},
}
ABOUT = {"LUPerson-T", "LUPerson-MLLM", "HAM-PEDES"}  # of which round numbers are published
# What paths, and names of formats, have of them.
NAMES = {
    "CUHK-PEDES": "cuhk-pedes",
    "ICFG-PEDES": "icfg",
    "RSTPReid": "rstp",
    "UFine3C": "ufine3c",
    "LUPerson-T": "luperson-t",
    "LUPerson-MLLM": "luperson-mllm",
    "MALS": "mals ",
    "SYNTH-PEDES": "synth-pedes",
    "HAM-PEDES": "ham-pedes",
    "WebPerson": "webperson",
    "WebPerson-1M": "webperson",
}
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
    """The data set of `PUBLISHED` of as many persons and images (to 5 %), or that the path names; or None.

    Of those that have as many, the one that the path names.
    """
    alike = [
        name
        for name, published in PUBLISHED.items()
        if counts
        and all(
            split in published and _is_close(number, published[split])
            for (split, _), number in counts.items()
        )
    ]
    spelt = path.lower().replace("_", "-")
    named = [name for name, word in NAMES.items() if word in spelt]
    return next(iter([name for name in alike if name in named] or alike or named), None)


def _is_close(number: Count, published: Count) -> bool:
    pairs = [
        (a, b) for a, b in zip(number[:2], published[:2], strict=True) if a is not None and b is not None
    ]
    return bool(pairs) and all(abs(a - b) <= CLOSE * b for a, b in pairs)


def warn_of_overlap(names: Iterable[str | None]) -> None:
    """Log a warning where the data sets of a run, as `recognise` names them, share images."""
    if set(names) >= MADE_FROM_MSMT17:
        logger.warning(
            "%s were both made from MSMT17 and share images and persons: figures of a model that is trained "
            "on one of them and tested on the other are too high",
            " and ".join(sorted(MADE_FROM_MSMT17)),
        )
