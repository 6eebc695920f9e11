"""What a training is expected to cost: the arithmetic of its samples, of sets that are here or published."""

from pathlib import Path

import pytest

from misc.study.expected import expected_cost
from options import load_options
from tests.helpers.tiny_config import write_config


def test_the_cost_is_that_of_the_captions_and_of_the_towers(people: Path, tmp_path: Path) -> None:
    """For each weight 2 FLOPs a token forward, and 4 backward but for pixels; attention is small. The block
    of a tower makes keys and values of all tokens, and the rest of the token that is read.
    """
    options = load_options(write_config(tmp_path / "config.yaml", people, 64), ["schedule.epoch=3"])
    found = expected_cost(options)
    assert (found.epochs, found.samples) == (3, 40)
    width, patches, words = 64, 8, 40
    of_all, of_one = 2 * width * width, (2 + 2 * 4) * width * width
    blocks = 6 * ((patches + 1 + words) * of_all + 2 * of_one)
    assert found.flops / (3 * 40) == pytest.approx(blocks + 4 * patches * 3 * 16 * 16 * width, rel=0.05)
    assert found.hours(2.0) == pytest.approx(found.flops / 2e12 / 3600)
    half = expected_cost(load_options(tmp_path / "config.yaml", ["data.few_shot=0.5", "schedule.epoch=3"]))
    assert half.flops == pytest.approx(found.flops / 2)


def test_of_annotations_that_are_not_here_the_published_number_counts() -> None:
    cuhk = load_options("config/s.config.yaml", ["model.image_width=64", "model.text_width=64"])
    assert expected_cost(cuhk).samples == 68126
    other = load_options("config/s.config.yaml", ["data.annotation_file=no/such/set.json"])
    assert (expected_cost(other).samples, expected_cost(other).flops) == (0, 0)
