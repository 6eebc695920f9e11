"""A table as Markdown and LaTeX, and the figures of all runs as CSV."""

import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields

from misc.metrics import METRICS
from misc.process.csv_file import write_csv
from misc.study.outcome import Cost, Outcome

LATEX = {"\\": r"\textbackslash{}", **{sign: f"\\{sign}" for sign in "&%$#_{}"}, "±": r"$\pm$", "→": r"$\to$"}


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
    rows: list[dict[str, object]] = []
    for one in outcomes:
        row = {
            "recipe": one.recipe,
            "trained_on": one.trained_on,
            "noise": f"{one.noise:g}",
            "seed": one.seed,
        }
        row |= asdict(one.cost) if one.cost else {}
        row |= {"failure": one.failure} if one.failure else {}
        tested = [(name, one.select_on, figures) for name, figures in one.figures.items()]
        if one.on_test and one.select_on != "test":
            tested.append((next(iter(one.figures)), "test", one.on_test))
        for name, select_on, figures in tested:
            cells = {key: f"{figures[key]:.4f}" for key in METRICS}
            rows.append(row | {"tested_on": name, "epoch_by": select_on} | cells)
        if not tested:
            rows.append(row)
    text = io.StringIO()
    columns = ["recipe", "trained_on", "noise", "seed", "tested_on", "epoch_by", *METRICS]
    columns += [*(field.name for field in fields(Cost)), "failure"]
    write_csv(text, columns, rows, lineterminator="\n")
    return text.getvalue()
