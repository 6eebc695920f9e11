"""The report of a study: `study.md` with the table and its findings, `study.png` with a dot for each run."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from dataclasses import field as default
from pathlib import Path

from misc.process.workers import cpu_name, num_cores
from options import Options

MIXTURE = ("max_iter", "tol", "reg_covar")
DOT, MEAN = "#0072B2", "#D55E00"  # of Okabe and Ito's palette, for colour-blind readers


@dataclass(frozen=True)
class Found:
    """A division: the shares of samples called noisy, of these that are, of the noisy called so."""

    called: float
    precision: float | None
    recall: float | None


@dataclass(frozen=True)
class Outcome:
    """A finished run: samples seen, CPU seconds of its training steps, test R@1 and mAP in percent, and the
    divisions by the epoch that they are made before.
    """

    recipe: str
    seed: int
    num_samples: int
    seconds: float
    rank1: float
    mean_ap: float
    divisions: dict[int, Found] = default(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """A table of the report: the titles of its recipes in order; the options of one of its runs."""

    titles: dict[str, str]
    options: Options


@dataclass(frozen=True)
class Summary:
    """One recipe over its seeds: sorted CPU seconds; (mean, sample standard deviation) of the figures."""

    title: str
    num_samples: int
    seconds: list[float]
    rank1: tuple[float, float]
    mean_ap: tuple[float, float]


def summarise(outcomes: Sequence[Outcome], title: str) -> Summary:
    """The runs of one recipe, as a row of the table."""
    return Summary(
        title,
        outcomes[0].num_samples,
        sorted(o.seconds for o in outcomes),
        _mean_and_spread([o.rank1 for o in outcomes]),
        _mean_and_spread([o.mean_ap for o in outcomes]),
    )


def _mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else math.nan


def write_report(outcomes: Sequence[Outcome], clean: Part | None, noisy: Part | None, folder: Path) -> None:
    """Write `study.md` and, of the clean part, `study.png` into `folder`.

    Args:
        clean: recipes at equal compute, which are compared with the first.
        noisy: one with wrong captions, with consensus division and, second, without it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    num_seeds = len({o.seed for o in outcomes})
    sections = [_head((clean or noisy).options, num_seeds)]
    if clean:
        groups = _groups(outcomes, clean)
        rows = _rows(groups, clean)
        sections += [_clean(clean.titles), _table(rows), _findings(rows)]
        _plot(groups, rows, folder / "study.png")
    if noisy:
        sections += _noise_section(outcomes, noisy)
    (folder / "study.md").write_text("\n\n".join(sections) + "\n", encoding="utf-8")


def _groups(outcomes: Sequence[Outcome], part: Part) -> list[list[Outcome]]:
    return [[o for o in outcomes if o.recipe == name] for name in part.titles]


def _rows(groups: Sequence[Sequence[Outcome]], part: Part) -> list[Summary]:
    return [summarise(group, title) for group, title in zip(groups, part.titles.values(), strict=True)]


ABOUT = {  # by the recipe that a line begins with
    "no-trick": "CLIP without tricks: N-ITC with hard targets, no augmentation, no dropout.",
    "simplified": "TBPS-CLIP, simplified and full: losses and augmentation of `config/s.config.yaml` and "
    "`config/config.yaml`.",
    "sdm": "SDM (IRRA) and TAL (RDE) alone, with the augmentation and dropout of the simplified recipe: the "
    "loss alone differs.",
    "irra": "IRRA: SDM, ID and MLM, with its augmentation. The embedding is 128 wide, since MLM's blocks are "
    "as wide.",
    "rde": "RDE: TAL on both embeddings, with its augmentation, and consensus division before the third and "
    "later epochs. The embedding of selected tokens is 256 wide.",
}


def _clean(titles: Iterable[str]) -> str:
    about = "\n".join(f"- {ABOUT[name]}" for name in titles if name in ABOUT)
    return f"""## Equal compute

{about}

The full recipe puts four views of an image through the tower where the others put one, and the heads of \
IRRA and RDE cost time as well, so they make fewer epochs. The column "training" is the CPU time of all \
steps, data included, evaluations, divisions and checkpoints left out: the median of the seeds, and the \
lowest and highest. Other work on the machine raises it too, by shared caches and cores.

![R@1 and mAP of every run](study.png)"""


def _head(options: Options, num_seeds: int) -> str:
    import torch

    version = torch.__version__.split("+")[0]
    height, width = options.data.image_size
    model = options.model
    return f"""# The recipes compared

`make study` writes this file; every number in it is measured. Rendered pedestrians of \
`data/synthetic`, {height}x{width} pixels, English captions; an image tower of {model.image_layers} blocks \
{model.image_width} wide and a text tower of {model.text_layers} blocks {model.text_width} wide, from random \
weights; batch {options.data.batch_size}, one process, learning rate {options.schedule.lr:g} with \
`config/study.yaml`'s schedule for all recipes, none tuned by itself: the rate is the one of the demo, which \
trains the simplified recipe. Figures are of the test split (text to image, percent, epoch picked on val), \
mean ± sample standard deviation over {num_seeds} seeds. The spread of a difference is √(s₁² + s₂²) of the \
two deviations; with so few seeds a difference near it may be chance.

Machine: {cpu_name()}, {num_cores()} cores, no GPU, torch {version}. These are small \
models on drawn people: the tables say what the pieces do there, and nothing about the papers' figures."""


def _noise_section(outcomes: Sequence[Outcome], part: Part) -> list[str]:
    groups = _groups(outcomes, part)
    rows = _rows(groups, part)
    sections = [_noise(part.options), _table(rows), _divisions(groups[0])]
    return [*sections, f"- {_difference(*rows)}\n- {_by_seed(*groups)}"] if len(rows) == 2 else sections


def _noise(options: Options) -> str:
    data, experiment = options.data, options.experiment
    mixture = ", ".join(f"`experiment.ccd_{key}={getattr(experiment, f'ccd_{key}'):g}`" for key in MIXTURE)
    return f"""## Wrong captions

{100 * data.noise:g} % of the training captions of `{data.annotation_file}` are exchanged \
(`data.noise={data.noise:g}`); {options.schedule.epoch} epochs, batch {data.batch_size}. RDE is TAL on both \
embeddings, with the image augmentation of the simplified recipe: with RDE's own a model from random \
weights learns more slowly. Consensus division from epoch {experiment.ccd_first_epoch} on, after \
{experiment.ccd_first_epoch - 1} epochs on all samples; noisy ones do not count. The mixture \
({mixture}) was chosen on a run of other settings, so that few clean samples are called noisy.

This part alone:

```bash
python -m misc.study --recipes rde-noise rde-noise-without --out runs/study
```"""


def _divisions(group: Sequence[Outcome]) -> str:
    """The divisions of a recipe, averaged over its seeds."""
    lines = [
        "| division before epoch | called noisy | of these, noisy | of the noisy, found |",
        "|---|---|---|---|",
    ]
    for epoch in sorted(set().union(*(o.divisions for o in group))):
        found = [o.divisions[epoch] for o in group if epoch in o.divisions]
        cells = [
            _percent([getattr(one, name) for one in found]) for name in ("called", "precision", "recall")
        ]
        lines.append(f"| {epoch} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _by_seed(group: Sequence[Outcome], other: Sequence[Outcome]) -> str:
    """The differences of runs that have the same wrong captions and, up to the division, the same weights."""
    found = {o.seed: o.rank1 for o in other}
    differences = [o.rank1 - found[o.seed] for o in group]
    mean, spread = _mean_and_spread(differences)
    sentence = (
        "The two runs of a seed are the same up to the first division. Their differences in R@1 are "
        f"{', '.join(f'{value:+.2f}' for value in differences)}: {mean:+.2f} on average"
    )
    if math.isnan(spread):
        return f"{sentence} (one seed: no spread)."
    return f"{sentence}, {'more' if abs(mean) > spread else 'not more'} than their own spread ({spread:.2f})."


def _percent(shares: Sequence[float | None]) -> str:
    known = [100 * share for share in shares if share is not None]
    return f"{statistics.mean(known):.1f} %" if known else "-"


def _table(rows: Sequence[Summary]) -> str:
    lines = ["| recipe | samples seen | training | R@1 | mAP |", "|---|---|---|---|---|"]
    for row in rows:
        figures = " | ".join(_figure(*pair) for pair in (row.rank1, row.mean_ap))
        lines.append(f"| {row.title} | {row.num_samples:,} | {_time(row.seconds)} | {figures} |")
    return "\n".join(lines)


def _time(seconds: Sequence[float]) -> str:
    middle = f"{statistics.median(seconds):.0f} s"
    return middle if len(seconds) == 1 else f"{middle} ({min(seconds):.0f}-{max(seconds):.0f})"


def _figure(mean: float, spread: float) -> str:
    return f"{mean:.2f}" if math.isnan(spread) else f"{mean:.2f} ± {spread:.2f}"


def _findings(rows: Sequence[Summary]) -> str:
    """What the table shows, in sentences made of its numbers."""
    best = max(rows, key=lambda row: row.rank1[0])
    seconds = [statistics.median(row.seconds) for row in rows]
    equals = [row.title for row in rows if row is not best and _is_within_spread(row, best)]
    within = f" Within the spread of it: {'; '.join(equals)}." if equals else ""
    times = f"{max(seconds) / min(seconds) - 1:.0%} between the highest and the lowest"
    lines = [
        f"What was seen:\n\n- Highest R@1: {best.title}, {_figure(*best.rank1)}.{within}",
        *(f"- {_difference(row, rows[0])}" for row in rows[1:]),
        f"- The median CPU times differ by {times}.",
    ]
    return "\n".join(lines)


def _spread(row: Summary, other: Summary) -> float:
    return math.hypot(row.rank1[1], other.rank1[1])


def _is_within_spread(row: Summary, other: Summary) -> bool:
    return abs(row.rank1[0] - other.rank1[0]) <= _spread(row, other)


def _difference(row: Summary, other: Summary) -> str:
    difference, spread = row.rank1[0] - other.rank1[0], _spread(row, other)
    words = "above" if difference > 0 else "below"
    sentence = f"{row.title} is {abs(difference):.2f} R@1 {words} {other.title}"
    if math.isnan(spread):
        return f"{sentence} (one seed: no spread)."
    if _is_within_spread(row, other):
        return f"{sentence}, which is within the spread of the seeds ({spread:.2f}): no difference is shown."
    if abs(difference) <= 2 * spread:
        return f"{sentence}, more than the spread of the seeds ({spread:.2f}) and less than twice it: a hint."
    verdict = "it helps here" if difference > 0 else "it does not help here"
    return f"{sentence}, more than twice the spread of the seeds ({spread:.2f}): {verdict}."


def _plot(groups: Sequence[Sequence[Outcome]], rows: Sequence[Summary], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 0.6 * len(rows) + 1.8), dpi=130, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, field, title in zip(panels, ("rank1", "mean_ap"), ("R@1 (%)", "mAP (%)"), strict=True):
        for place, (group, row) in enumerate(zip(groups, rows, strict=True)):
            values = [getattr(outcome, field) for outcome in group]
            axes.plot(values, [place] * len(values), "o", color=DOT, alpha=0.75, label="one run")
            mean = getattr(row, field)[0]
            axes.plot(mean, place, "|", color=MEAN, markersize=22, markeredgewidth=3, label="mean")
            axes.annotate(f"{mean:.1f}", (mean, place), (0, 14), textcoords="offset points", ha="center")
        axes.set_xlabel(f"{title}, text to image, test split")
        axes.set_ylim(len(rows) - 0.5, -0.7)
        axes.grid(axis="x", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(rows)), [row.title for row in rows])
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles[:2], labels[:2], loc="outside upper right", ncols=2, frameon=False)
    canvas.print_png(path)
