"""The pictures of a run: `curves.png` (losses, rate, metrics), `ranking.png` (retrieved images)."""

import math
import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw, ImageFont, ImageOps

from data.images.decode import BadImageError, load_image

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Color = tuple[int, int, int]

# Sizes in pixels. A row of ten results is 1600 wide, the width of a common screen.
MARGIN, GAP, GROUP_GAP, ROW_GAP = 32, 12, 26, 18
CAPTION_WIDTH, HEADER_HEIGHT = 452, 36
CELL_WIDTH, CELL_HEIGHT, FRAME, LABEL_HEIGHT = 76, 184, 4, 28
TEXT_SIZE, LINE_HEIGHT, SMALL_SIZE, BADGE = 17, 25, 14, 16
COLUMN = CELL_WIDTH + 2 * FRAME
ROW_HEIGHT = CELL_HEIGHT + 2 * FRAME + LABEL_HEIGHT + ROW_GAP

PAPER, BLANK, RULE = (255, 255, 255), (240, 241, 243), (226, 229, 233)
INK, MUTED = (28, 32, 38), (104, 110, 120)
# Green and red differ in lightness too, which is visible with colour blindness, as are tick and cross.
RIGHT, WRONG, NEUTRAL = (20, 158, 92), (196, 40, 40), (150, 156, 165)

CJK = "\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef"
# What a line break may not split: a Chinese character or a word of another language, with its punctuation.
UNIT = re.compile(rf"\s*[（《「『【“]*(?:[{CJK}]|[^\s{CJK}]+)[，。、；：！？）》」』】”]*")

# The palette of Okabe and Ito, distinguishable with colour blindness.
LINE_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
AVERAGE = "average"


@dataclass(frozen=True)
class RankingRow:
    """A query and what it retrieved, best first: (image, is it the right person, cosine score) each."""

    caption: str
    query_image: Path
    results: Sequence[tuple[Path, bool, float]]


def draw_rankings(rows: Sequence[RankingRow], out: Path, top: int = 10) -> None:
    """Write a PNG with one row per query: the caption, the image it describes, the `top` best results.

    Right results have a green frame and a tick, wrong ones a red frame and a cross. An image that cannot
    be read becomes a grey cell with its file name. At top=10 the picture is 1600 pixels wide.
    """
    assert top > 0, top
    described_x = MARGIN + CAPTION_WIDTH + GROUP_GAP
    columns_x = [described_x + COLUMN + GROUP_GAP + rank * (COLUMN + GAP) for rank in range(top)]
    width = columns_x[-1] + COLUMN + MARGIN
    canvas = Image.new("RGB", (width, MARGIN + HEADER_HEIGHT + len(rows) * ROW_HEIGHT), PAPER)
    draw = ImageDraw.Draw(canvas)
    _draw_header(canvas, columns_x)
    for index, row in enumerate(rows):
        y = MARGIN + HEADER_HEIGHT + index * ROW_HEIGHT
        draw.line((MARGIN, y - ROW_GAP // 2, width - MARGIN, y - ROW_GAP // 2), RULE)
        max_lines = (ROW_HEIGHT - ROW_GAP) // LINE_HEIGHT
        for number, line in enumerate(fit_text(row.caption, caption_font(), CAPTION_WIDTH, max_lines)):
            draw.text((MARGIN, y + number * LINE_HEIGHT), line, INK, caption_font())
        _draw_cell(canvas, row.query_image, described_x, y, NEUTRAL, 1)
        label_y = y + ROW_HEIGHT - ROW_GAP - LABEL_HEIGHT // 2
        draw.text((described_x + COLUMN // 2, label_y), "described", MUTED, caption_font(SMALL_SIZE), "mm")
        for x, (path, is_right, score) in zip(columns_x, row.results, strict=False):
            _draw_cell(canvas, path, x, y, RIGHT if is_right else WRONG, FRAME)
            _draw_badged(canvas, x + COLUMN // 2, label_y, is_right, f"{score:.3f}", INK, "mm")
    canvas.save(out, format="PNG", compress_level=9)


@lru_cache
def caption_font(size: int = TEXT_SIZE) -> ImageFont.FreeTypeFont:
    """Noto Sans SC (SIL OFL 1.1): Chinese and Latin. Characters of other scripts are drawn as empty boxes."""
    with as_file(files("pylopdf_fonts_zh_cn") / "NotoSansSC-Regular.otf") as path:
        return ImageFont.truetype(str(path), size)


def fit_text(text: str, font: ImageFont.FreeTypeFont, width: float, max_lines: int) -> list[str]:
    """Break `text` into at most `max_lines` lines of at most `width` pixels; a cut text ends with "…".

    Chinese breaks between any two characters (not before a stop), other languages at spaces, and a word
    only where it is wider than a whole line.
    """
    lines, line = [], ""
    for unit in UNIT.findall(" ".join(text.split())):
        if len(lines) > max_lines:
            break
        if font.getlength((line + unit).strip()) <= width:
            line += unit
            continue
        lines += [line.strip()] if line.strip() else []
        line = unit.strip()
        while len(lines) <= max_lines and font.getlength(line) > width:
            start = _fitting_start(line, font, width)
            lines.append(start)
            line = line[len(start) :]
    lines += [line.strip()] if line.strip() else []
    if len(lines) > max_lines:
        remaining = width - font.getlength("…")
        lines[max_lines - 1 :] = [
            _fitting_start(lines[max_lines - 1], font, remaining).rstrip(" ,;，、") + "…"
        ]
    return lines


def _fitting_start(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    lengths = range(1, len(text) + 1)
    return text[: max(1, bisect_right(lengths, width, key=lambda length: font.getlength(text[:length])))]


def _draw_header(canvas: Image.Image, columns_x: Sequence[int]) -> None:
    draw, y, font = ImageDraw.Draw(canvas), MARGIN + 6, caption_font(SMALL_SIZE)
    for rank, x in enumerate(columns_x, start=1):
        draw.text((x + COLUMN // 2, y), str(rank), MUTED, font, "mm")
    _draw_badged(canvas, MARGIN, y, True, "right person", MUTED, "lm")
    _draw_badged(canvas, MARGIN + 130, y, False, "another person", MUTED, "lm")


def _draw_cell(canvas: Image.Image, path: Path, x: int, y: int, color: Color, frame: int) -> None:
    """Draw the image letterboxed, framed in `color`; the frame of any width ends at the image's edge."""
    size = (CELL_WIDTH, CELL_HEIGHT)
    outer = (x + FRAME - frame, y + FRAME - frame)
    box = (*outer, outer[0] + CELL_WIDTH + 2 * frame - 1, outer[1] + CELL_HEIGHT + 2 * frame - 1)
    ImageDraw.Draw(canvas).rectangle(box, color)
    try:
        image = load_image(path, truncated="accept")  # if it must not be, nothing is drawn at all
        cell = ImageOps.pad(image, size, Image.Resampling.LANCZOS, BLANK)
        cell = ImageOps.posterize(cell, 7)  # the eighth bit is noise, and a sixth of the file
    except BadImageError:
        cell = _name_cell(path.name, size)
    canvas.paste(cell, (x + FRAME, y + FRAME))


def _name_cell(name: str, size: tuple[int, int]) -> Image.Image:
    cell, font = Image.new("RGB", size, RULE), caption_font(SMALL_SIZE - 2)
    lines = fit_text(name, font, size[0] - 8, size[1] // 18)
    for number, line in enumerate(lines):
        y = size[1] / 2 + (number - (len(lines) - 1) / 2) * 18
        ImageDraw.Draw(cell).text((size[0] / 2, y), line, MUTED, font, "mm")
    return cell


def _draw_badged(
    canvas: Image.Image, x: int, y: int, is_right: bool, text: str, color: Color, anchor: str
) -> None:
    """Draw a tick or cross and `text` beside it, on the centre line y; anchor "lm": from x, "mm": about x."""
    font = caption_font(SMALL_SIZE)
    if anchor == "mm":
        x -= round(BADGE + 5 + font.getlength(text)) // 2
    mask = _badge_mask(is_right)
    canvas.paste(RIGHT if is_right else WRONG, (x, y - BADGE // 2), mask)
    ImageDraw.Draw(canvas).text((x + BADGE + 5, y), text, color, font, "lm")


@lru_cache
def _badge_mask(is_right: bool) -> Image.Image:
    """A disc with a tick or a cross cut out; scaled down from eight times the size, for smooth edges."""
    side = 8 * BADGE
    mask = Image.new("L", (side, side), 0)
    draw = ImageDraw.Draw(mask)
    draw.ellipse((0, 0, side - 1, side - 1), 255)
    tick = [[(0.27, 0.52), (0.44, 0.69), (0.74, 0.35)]]
    cross = [[(0.32, 0.32), (0.68, 0.68)], [(0.32, 0.68), (0.68, 0.32)]]
    for stroke in tick if is_right else cross:
        draw.line([(u * side, v * side) for u, v in stroke], 0, width=side // 8, joint="curve")
    return mask.resize((BADGE, BADGE), Image.Resampling.BOX)


def draw_curves(metrics_file: Path, out: Path) -> None:
    """Write a PNG of what `metrics.jsonl` logged: losses, learning rate, and R@1 and mAP of text to image.

    Of a step or an epoch logged twice (by a run killed and resumed) the later line counts.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from misc.process.logs import read_metrics  # imports torch, which data.check does without

    lines = read_metrics(metrics_file)
    steps = {line["step"]: line for line in lines if line["kind"] == "train"}
    evaluations = {(line["epoch"], line["split"]): line for line in lines if line["kind"] == "eval"}
    figure = Figure(figsize=(11, 7), dpi=145, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1)
    canvas = FigureCanvasAgg(figure)
    (losses, rate), (rank1, mean_ap) = figure.subplots(2, 2, sharex=True)
    _plot_training(losses, rate, [steps[step] for step in sorted(steps)])
    by_epoch = sorted(evaluations.values(), key=lambda line: line["epoch"])
    _plot_metric(rank1, by_epoch, "R1", "R@1, text to image (%)")
    _plot_metric(mean_ap, by_epoch, "mAP", "mAP, text to image (%)")
    for axes in figure.axes:
        _finish(axes)
    last = max([1.0, *(x for axes in figure.axes for line in axes.lines for x in line.get_xdata())])
    rank1.set_xlim(0, 1.02 * last)
    canvas.print_png(out)


def _plot_training(losses: "Axes", rate: "Axes", steps: Sequence[dict[str, Any]]) -> None:
    losses.set_title("losses", loc="left")
    rate.set_title("learning rate", loc="left")
    if not steps:
        return
    epochs = [line["step"] / line["steps_per_epoch"] for line in steps]
    marker = "o" if len(steps) == 1 else ""  # a line of one point is invisible
    rate.plot(epochs, [line["lr"] for line in steps], color=LINE_COLORS[0], marker=marker)
    rate.yaxis.set_major_formatter("{x:g}")
    losses.plot(epochs, [line["loss"] for line in steps], color="black", marker=marker, label="total")
    for name, color in _colored(name for line in steps for name in line["parts"]).items():
        values = [line["parts"].get(name, math.nan) for line in steps]
        losses.plot(epochs, values, color=color, marker=marker, linewidth=1.2, label=name)


def _plot_metric(axes: "Axes", evaluations: Sequence[dict[str, Any]], metric: str, title: str) -> None:
    """One line per split (its dash) and language (its colour); the average of several languages is black."""
    axes.set_title(title, loc="left")
    best = [line["epoch"] for line in evaluations if line["best"]]
    if best:
        axes.axvline(best[-1], color="0.4", linewidth=1.2, zorder=1.5, label=f"best: epoch {best[-1]}")
    colors = _colored(name for line in evaluations for name in line["languages"])
    if len(colors) > 1:
        colors[AVERAGE] = "black"
    points: dict[tuple[str, str], dict[int, float]] = {}
    for line in evaluations:
        for name, scores in (line["languages"] | {AVERAGE: line["average"]}).items():
            points.setdefault((name, line["split"]), {})[line["epoch"]] = scores["t2i"][metric]
    splits = list(dict.fromkeys(line["split"] for line in evaluations))
    for (name, split), values in points.items():
        if name in colors:
            dash, width = ("-", "--", ":", "-.")[splits.index(split) % 4], 2.2 if name == AVERAGE else 1.3
            style = {"color": colors[name], "linestyle": dash, "linewidth": width, "marker": "."}
            axes.plot(list(values), list(values.values()), label=f"{split} {name}", **style)
    if evaluations:
        axes.set_ylim(bottom=0)


def _colored(names: Iterable[str]) -> dict[str, str]:
    return {name: LINE_COLORS[i % len(LINE_COLORS)] for i, name in enumerate(dict.fromkeys(names))}


def _finish(axes: "Axes") -> None:
    axes.set_xlabel("epoch")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.tick_params(labelbottom=True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    if not axes.lines:
        axes.text(0.5, 0.5, "nothing logged yet", transform=axes.transAxes, ha="center", color="0.5")
        axes.set_yticks([])
    elif axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize="small", ncols=2)
