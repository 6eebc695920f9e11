"""Means over seeds, and what a paired comparison says."""

import math

import pytest

from misc.study.statistics import Paired, Summary


def test_mean_and_sample_deviation_are_those_worked_out_by_hand() -> None:
    found = Summary.of([10.0, 12.0, 17.0])
    assert (found.mean, found.num) == (13.0, 3)
    assert found.deviation == pytest.approx(math.sqrt((9 + 1 + 16) / 2))
    assert str(found) == "13.00 ± 3.61"
    assert str(Summary.of([5.0])) == "5.00"


def test_seeds_are_paired_and_only_those_that_both_have() -> None:
    found = Paired.of({0: 10.0, 1: 13.0, 2: 16.0, 5: 99.0}, {1: 11.0, 0: 9.0, 2: 13.0, 7: 0.0})
    assert found.by_seed == {0: 1.0, 1: 2.0, 2: 3.0}
    assert found.spread == pytest.approx(math.hypot(3.0, 2.0))
    # t of 0.975 with two degrees of freedom is 4.302653
    low, high = found.interval()
    assert (low, high) == pytest.approx((2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)), abs=1e-5)
    assert Paired.of({0: 1.0}, {1: 1.0}) is None


@pytest.mark.parametrize(
    ("ours", "others", "verdict"),
    [
        ([50.0, 51.0, 52.0], [50.0, 52.0, 51.0], "within the spread of the seeds: nothing can be said"),
        (
            [50.0, 56.0, 53.0],
            [50.0, 50.0, 49.0],
            "higher by more than the spread; 3 seeds leave chance possible",
        ),
        ([60.0, 61.0, 62.0], [50.0, 51.0, 52.2], "higher, by more than the spread and chance"),
        ([50.0, 51.0, 52.2], [60.0, 61.0, 62.0], "lower, by more than the spread and chance"),
        ([60.0], [50.0], "one seed: nothing can be said"),
    ],
)
def test_the_verdict_says_what_the_seeds_can(ours: list[float], others: list[float], verdict: str) -> None:
    found = Paired.of(dict(enumerate(ours)), dict(enumerate(others)))
    assert found.verdict() == verdict
