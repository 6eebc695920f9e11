"""A picture of some images with their captions."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageOps

from misc.report.pictures import (
    BLANK,
    GAP,
    HEADER_HEIGHT,
    INK,
    MARGIN,
    MUTED,
    PAPER,
    SMALL_SIZE,
    caption_font,
    fit_text,
)

# Pixels; four cells are as wide as a common screen.
COLUMNS, TEXT_WIDTH, IMAGE_SIZE, LINE_HEIGHT, NUM_LINES = 4, 264, (100, 240), 20, 12


@dataclass(frozen=True)
class Cell:
    """One image; `label` says where it is from, `captions` has one for each language."""

    image: Image.Image
    label: str
    captions: Sequence[str]


@dataclass(frozen=True)
class Block:
    """Cells below a title; "": none."""

    title: str
    cells: Sequence[Cell]


def draw_contact_sheet(blocks: Sequence[Block], out: Path) -> None:
    """Write a PNG of the blocks, one below the other, their cells four to a row: the image on the left, its
    label and captions beside it.
    """
    width, height = IMAGE_SIZE[0] + GAP + TEXT_WIDTH + GAP, IMAGE_SIZE[1] + GAP
    titles = [HEADER_HEIGHT if block.title else 0 for block in blocks]
    heights = [
        title + -(-len(block.cells) // COLUMNS) * height for title, block in zip(titles, blocks, strict=True)
    ]
    canvas = Image.new("RGB", (2 * MARGIN + COLUMNS * width, 2 * MARGIN + sum(heights)), PAPER)
    top = MARGIN
    for block, title, block_height in zip(blocks, titles, heights, strict=True):
        for line in fit_text(block.title, caption_font(), COLUMNS * width, 1) if title else ():
            ImageDraw.Draw(canvas).text((MARGIN, top), line, INK, caption_font())
        for index, cell in enumerate(block.cells):
            _draw(canvas, cell, MARGIN + index % COLUMNS * width, top + title + index // COLUMNS * height)
        top += block_height
    canvas.save(out, format="PNG", compress_level=9)


def _draw(canvas: Image.Image, cell: Cell, x: int, y: int) -> None:
    draw, font = ImageDraw.Draw(canvas), caption_font(SMALL_SIZE)
    canvas.paste(ImageOps.pad(cell.image, IMAGE_SIZE, Image.Resampling.LANCZOS, BLANK), (x, y))
    lines = [(line, MUTED) for line in fit_text(cell.label, font, TEXT_WIDTH, 2)]
    max_lines = max(1, (NUM_LINES - len(lines)) // max(1, len(cell.captions)))
    for caption in cell.captions:
        lines += [(line, INK) for line in fit_text(caption, font, TEXT_WIDTH, max_lines)]
    for number, (line, color) in enumerate(lines[:NUM_LINES]):
        draw.text((x + IMAGE_SIZE[0] + GAP, y + number * LINE_HEIGHT), line, color, font)
