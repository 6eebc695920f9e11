"""Means and deviations over seeds, and what a paired comparison of two recipes can say."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Summary:
    """The mean and the sample standard deviation over seeds; NaN deviation for one seed."""

    mean: float
    deviation: float
    num: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Summary":
        """Of at least one value."""
        deviation = statistics.stdev(values) if len(values) > 1 else math.nan
        return cls(statistics.mean(values), deviation, len(values))

    def __str__(self) -> str:
        return f"{self.mean:.2f}" if math.isnan(self.deviation) else f"{self.mean:.2f} ± {self.deviation:.2f}"


@dataclass(frozen=True)
class Paired:
    """The differences of two recipes in the seeds that both have.

    Attributes:
        by_seed: {seed: difference}.
        spread: √(s₁² + s₂²) of the recipes' deviations over these seeds; NaN for one seed.
    """

    by_seed: Mapping[int, float]
    spread: float

    @classmethod
    def of(cls, ours: Mapping[int, float], others: Mapping[int, float]) -> "Paired | None":
        """Of values by seed; None where no seed has both."""
        seeds = [seed for seed in ours if seed in others]
        if not seeds:
            return None
        deviations = [Summary.of([side[seed] for seed in seeds]).deviation for side in (ours, others)]
        return cls({seed: ours[seed] - others[seed] for seed in seeds}, math.hypot(*deviations))

    @property
    def summary(self) -> Summary:
        """The mean and the deviation of the differences."""
        return Summary.of(list(self.by_seed.values()))

    def interval(self) -> tuple[float, float]:
        """The 95 % confidence interval of the mean difference, by Student's t; infinite for one seed."""
        from scipy.stats import t

        found = self.summary
        if found.num < 2:
            return -math.inf, math.inf
        half = t.ppf(0.975, found.num - 1) * found.deviation / math.sqrt(found.num)
        return found.mean - half, found.mean + half

    def verdict(self) -> str:
        """What the seeds say: a difference, a hint, or that nothing can be said."""
        mean, (low, high) = self.summary.mean, self.interval()
        word = "higher" if mean > 0 else "lower"
        if math.isnan(self.spread):
            return "one seed: nothing can be said"
        if abs(mean) <= self.spread:
            return "within the spread of the seeds: nothing can be said"
        if low <= 0 <= high:
            return f"{word} by more than the spread; {len(self.by_seed)} seeds leave chance possible"
        return f"{word}, by more than the spread and chance"
