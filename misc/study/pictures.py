"""The pictures of a study: every run of each recipe, and what wrong captions cost."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

DOT, MEAN = "#0072B2", "#D55E00"  # of Okabe and Ito's palette, for colour-blind readers
LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"


def draw_runs(
    titles: Mapping[str, str],
    sets: Mapping[str, str],
    values: Mapping[tuple[str, str], Sequence[float]],
    path: Path,
) -> None:
    """A dot for each run, a panel for each set that recipes are trained on.

    Args:
        titles: of the recipes, by name.
        sets: titles of the sets, by name.
        values: R@1 of the runs by (set, recipe).
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3 + 4 * len(sets), 0.55 * len(titles) + 1.6), dpi=130, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(sets), sharey=True, squeeze=False)[0]
    for axes, (set_name, title) in zip(panels, sets.items(), strict=True):
        for place, name in enumerate(titles):
            if found := values[set_name, name]:
                axes.plot(found, [place] * len(found), "o", color=DOT, alpha=0.75, label="one run")
                mean = statistics.mean(found)
                axes.plot(mean, place, "|", color=MEAN, markersize=20, markeredgewidth=3, label="mean")
                axes.annotate(f"{mean:.1f}", (mean, place), (0, 12), textcoords="offset points", ha="center")
        axes.set_xlabel(f"R@1 (%), text to image, {title}")
        axes.set_ylim(len(titles) - 0.5, -0.7)
        axes.grid(axis="x", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(titles)), list(titles.values()))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles[:2], labels[:2], loc="outside upper right", ncols=2, frameon=False)
    canvas.print_png(path)


def draw_noise(lines: Mapping[str, Mapping[float, Sequence[float]]], title: str, path: Path) -> None:
    """R@1 of each recipe by the share of wrong captions: the mean of its runs, and their range.

    Args:
        lines: {recipe: {share: R@1 of its runs}}.
        title: of the set.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=130, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    for number, (name, values) in enumerate(lines.items()):
        if not values:
            continue
        shares = [100 * share for share in values]
        means = [statistics.mean(found) for found in values.values()]
        ends = [(mean - min(f), max(f) - mean) for mean, f in zip(means, values.values(), strict=True)]
        style = {"color": LINES[number % len(LINES)], "marker": MARKERS[number % len(MARKERS)]}
        axes.errorbar(shares, means, yerr=list(zip(*ends, strict=True)), label=name, capsize=3, **style)
    axes.set_xlabel("wrong captions in training (%)")
    axes.set_ylabel(f"R@1 (%), text to image, {title}")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, bbox_to_anchor=(1.01, 1), loc="upper left")
    canvas.print_png(path)
