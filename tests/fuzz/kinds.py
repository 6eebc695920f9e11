"""The kinds of fuzzed inputs, and the share of each in a run."""

from pathlib import Path

import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

from tests.fuzz.annotations import Records, annotation_cases, caption_cases
from tests.fuzz.cases import Case
from tests.fuzz.commands import command_cases
from tests.fuzz.configs import config_cases, override_cases
from tests.fuzz.folders import feature_cases, image_cases, index_cases
from tests.fuzz.weights import weight_cases

SHARES = {"annotations": 0.22, "captions": 0.07, "YAML": 0.16, "overrides": 0.11, "images": 0.12}
SHARES |= {"weights": 0.16, "features": 0.05, "index": 0.05, "command lines": 0.06}


def strategies(good: Path) -> dict[str, SearchStrategy[Case]]:
    """The cases of each kind, made from the good inputs."""
    records = Records(good)
    options = yaml.safe_load((good / "run" / "options.yaml").read_text(encoding="utf-8"))
    options.pop("output")
    return {
        "annotations": annotation_cases(records),
        "captions": caption_cases(records),
        "YAML": config_cases(options),
        "overrides": override_cases(),
        "images": image_cases(good),
        "weights": weight_cases(good),
        "features": feature_cases(good),
        "index": index_cases(good),
        "command lines": command_cases(),
    }


def draw_cases(strategy: SearchStrategy[Case], count: int, number: int) -> list[Case]:
    """`count` cases, the same for the same seed `number`."""
    drawn: list[Case] = []
    generate_only = {"phases": [Phase.generate], "suppress_health_check": list(HealthCheck)}

    @seed(number)
    @settings(max_examples=count, database=None, deadline=None, **generate_only)
    @given(strategy)
    def collect(case: Case) -> None:
        drawn.append(case)

    collect()
    return drawn[:count]
