"""A table as Markdown and LaTeX, and the figures of all runs as CSV."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from misc.study.outcome import Outcome

LATEX = {"\\": r"\textbackslash{}", **{sign: f"\\{sign}" for sign in "&%$#_{}"}, "±": r"$\pm$", "→": r"$\to$"}
COLUMNS = ("R1", "R5", "R10", "mAP", "mINP")


@dataclass(frozen=True)
class Table:
    """Cells of text under a header; the first column is left-aligned.

    Attributes:
        label: of the table in LaTeX.
    """

    label: str
    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """A table of GitHub's Markdown; the caption stands in the text around it."""
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        return "\n".join(
            f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines
        )

    def latex(self) -> str:
        """A `table` of LaTeX with the rules of booktabs."""
        header, *rows = (" & ".join(map(_escaped, line)) + r" \\" for line in (self.header, *self.rows))
        lines = [
            r"\begin{table}",
            rf"\caption{{{_escaped(self.caption)}}}\label{{tab:{self.label}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(self.header) - 1)}}}",
            *(r"\toprule", header, r"\midrule", *rows, r"\bottomrule"),
            r"\end{tabular}",
            r"\end{table}",
        ]
        return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return "".join(LATEX.get(sign, sign) for sign in text)


def as_csv(outcomes: Iterable[Outcome]) -> str:
    """A line for each run, set that it is tested on, and split that picked the epoch; and for failed runs."""
    rows = []
    for one in outcomes:
        place = [one.recipe, one.trained_on, f"{one.noise:g}", str(one.seed)]
        cost = one.cost and [f"{one.cost.seconds:.1f}", str(one.cost.peak_bytes), str(one.cost.num_samples)]
        end = [*(cost or [""] * 3), one.failure or ""]
        tested = [(name, one.select_on or "", figures) for name, figures in one.figures.items()]
        if one.on_test and one.select_on != "test":
            tested.append((next(iter(one.figures)), "test", one.on_test))
        for name, select_on, figures in tested:
            rows.append([*place, name, select_on, *(f"{figures[key]:.4f}" for key in COLUMNS), *end])
        if not tested:
            rows.append([*place, "", "", *[""] * len(COLUMNS), *end])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    cost_columns = ("seconds", "peak_bytes", "num_samples", "failure")
    writer.writerow(
        ("recipe", "trained_on", "noise", "seed", "tested_on", "epoch_by", *COLUMNS, *cost_columns)
    )
    writer.writerows(rows)
    return text.getvalue()
