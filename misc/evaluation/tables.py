"""The metrics of an evaluation as aligned text."""

from collections.abc import Mapping

from misc.evaluation.scenes import METRICS as SCENE_METRICS
from misc.metrics import METRICS, Results

DIRECTIONS = {"t2i": "text to image", "i2t": "image to text"}


def metrics_table(results: Results) -> str:
    """The figures of an evaluation as aligned text, a row for each language and direction.

    Figures in "rows", such as re-ranking's, come below under their names.
    """
    lines = [_header(24), *_lines(results)]
    if number := results.get("num_undescribed"):
        lines.append(f"{number} images of the gallery have no captions and are no queries")
    for language, msd in results.get("msd", {}).items():
        figures_of = f"{msd['mSD']:.2f} (by the published calculator {msd['mSD_published']:.2f})"
        lines.append(f"{language:8s}text to image   mSD {figures_of}")
    lines += _scene_lines(results)
    for name, figures in results.get("rows", {}).items():
        lines += [name, *_lines(figures)]
    return "\n".join(lines)


def summary_table(sets: Mapping[str, Results]) -> str:
    """Text to image, averaged over the languages: a row for each test set and each of its "rows"."""
    rows = {}
    for name, results in sets.items():
        rows[name] = results["average"]["t2i"]
        rows |= {f"{name}, {row}": r["average"]["t2i"] for row, r in results.get("rows", {}).items()}
    width = max(24, 2 + max(map(len, rows)))
    return "\n".join([_header(width), *(f"{name:{width}s}{_numbers_of(row)}" for name, row in rows.items())])


def _lines(results: Results) -> list[str]:
    rows = list(results["languages"].items())
    if len(rows) > 1:
        rows.append(("average", results["average"]))
    return [
        f"{language:8s}{words:16s}{_numbers_of(figures[direction])}"
        for language, figures in rows
        for direction, words in DIRECTIONS.items()
    ]


def _scene_lines(results: Results) -> list[str]:
    """Of full-scene search: a row for each language, gallery, and kind of boxes."""
    lines = []
    for language, galleries in results.get("scenes", {}).items():
        for gallery, kinds in galleries.items():
            for kind, figures in kinds.items():
                name = f"{language:8s}{gallery}, {kind} boxes"
                lines.append(f"{name:40s}{''.join(f'{figures[name]:8.2f}' for name in SCENE_METRICS)}")
    if not lines:
        return []
    names = (name.replace("R", "R@") if name[0] == "R" else name for name in SCENE_METRICS)
    return [f"{'full scenes, text to person':40s}{''.join(f'{name:>8s}' for name in names)}", *lines]


def _header(width: int) -> str:
    names = (name.replace("R", "R@") if name[0] == "R" else name for name in METRICS)
    return " " * width + "".join(f"{name:>8s}" for name in names)


def _numbers_of(figures: dict[str, float]) -> str:
    return "".join(f"{figures[name]:8.2f}" for name in METRICS)
