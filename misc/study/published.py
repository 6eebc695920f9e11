"""The published figures of the field's recipes, which stand in `published.yaml` with their sources."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

FILE = Path(__file__).with_name("published.yaml")


@dataclass(frozen=True)
class Published:
    """The figures of a recipe, in percent, text to image, epoch picked on the test split.

    Attributes:
        source: the paper.
        sets: R@1, R@5, R@10 and mAP by data set; None: not reported.
        cross: R@1 by the set that is trained on and the set that is tested on.
        noise: R@1 by set and share of wrong captions.
    """

    source: str
    sets: Mapping[str, list[float | None]]
    cross: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    noise: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def read_published(path: Path = FILE) -> dict[str, Published]:
    """The recipes of a file of facts, by name."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {name: Published(**facts) for name, facts in content.items()}


FACTS = read_published()
