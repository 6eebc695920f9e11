"""Pictures of the ranked entries, and copies of their files."""

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from misc.process.logs import progress
from misc.report.contact_sheet import IMAGE_SIZE, Block, Cell, draw_contact_sheet
from misc.report.pictures import RULE
from misc.search.encoder import Encoder
from misc.search.explain import explain, overlay
from misc.search.ranking.answer import Result
from misc.search.ranking.results import Listing, numbers_of, printable, span_of
from misc.search.views import load_view
from options import UserError

logger = logging.getLogger(__name__)

MAX_DRAWN = 200  # images of a figure
MAX_NAME = 255  # bytes, on all common file systems
QUALITY = 95  # of JPEGs


def draw(listings: Sequence[Listing], out: Path) -> int:
    """Write a PNG with a block for each query: the query, and its images with rank, score and name. Draws at
    most `MAX_DRAWN` images, the same number of each query; returns how many are left out.
    """
    blocks, left_out = [], sum(len(listing.answer.results) for listing in listings)
    for listing in listings[:MAX_DRAWN]:
        results = listing.answer.results[: max(1, MAX_DRAWN // len(listings))]
        blocks.append(Block(listing.title, [_cell(listing, result) for result in results]))
        left_out -= len(results)
    draw_contact_sheet(blocks, out)
    return left_out


def _cell(listing: Listing, result: Result) -> Cell:
    image = _load(listing, result)
    if image is None:
        image = Image.new("RGB", (100, 240), RULE)
    image.thumbnail(IMAGE_SIZE, Image.Resampling.LANCZOS)  # hundreds of photos need gigabytes
    captions = [printable(result.path), *span_of(result), *numbers_of(result)]
    return Cell(image, f"{result.rank}.   {result.score:.4f}", captions)


def explain_all(listings: Sequence[Listing], encoder: Encoder, folder: Path) -> None:
    """Write QUERY-RANK.png of each image: the regions that its score for the first sentence depends on."""
    explained = [
        (number, listing, result, text)
        for number, listing in enumerate(listings, start=1)
        for result in listing.answer.results
        for text, _ in listing.query.texts[:1]
    ]
    for number, listing, result, text in progress(explained, "explaining"):
        image = _load(listing, result)
        if image is not None:
            overlay(image, explain(encoder, image, text)).save(folder / f"{number}-{result.rank}.png")


def _load(listing: Listing, result: Result) -> Image.Image | None:
    """What the encoder saw, or None if it can no longer be read, with a warning unless the file is gone."""
    if result.rank in listing.missing:
        return None
    index, truncated = listing.index, "accept"  # as the index did, if need be
    try:
        return load_view(index.image_root, result.path, truncated, margin=index.margin)
    except UserError as error:
        logger.warning(error)
        return None


def copy_images(listings: Sequence[Listing], folder: Path, crops: bool = False) -> None:
    """Copy the files to RANK-NAME in a folder, or QUERY-RANK-NAME if there are several queries, each once a
    query. With `crops`, save what the encoder saw of each person, as JPEGs RANK-STEM-TIME-BOX.jpg; a warning
    names those that can no longer be read.

    Raises:
        UserError: before any is copied, if one of these files exists; or if a file cannot be copied.
    """
    copies = list(_copies(listings, folder, crops))
    for _, _, target in copies:
        if os.path.lexists(target):
            raise UserError(
                f"--copy: '{folder}' has '{target.name}' already; name another folder: nothing is overwritten"
            )
    for listing, result, target in progress(copies, "copying"):
        source, view = listing.file_of(result), _load(listing, result) if crops else None
        try:
            if view is not None:
                with target.open("xb") as written:
                    view.save(written, "JPEG", quality=QUALITY)
            elif not crops:
                with source.open("rb") as read, target.open("xb") as written:
                    shutil.copyfileobj(read, written)
                shutil.copystat(source, target)
        except OSError as error:
            raise UserError(
                f"--copy: '{source}' cannot be copied to '{folder}' ({error.strerror or error})"
            ) from error


def _copies(listings: Sequence[Listing], folder: Path, crops: bool) -> Iterator[tuple[Listing, Result, Path]]:
    """What is copied, and where to."""
    for number, listing in enumerate(listings, start=1):
        results = listing.answer.results
        digits = len(str(len(results)))  # names sort by rank
        query = f"{number:0{len(str(len(listings)))}d}-" if len(listings) > 1 else ""
        copied: set[Path] = set()
        for result in results:
            source = listing.file_of(result)
            if result.rank in listing.missing or (source in copied and not crops):
                continue
            copied.add(source)
            prefix, ending = f"{query}{result.rank:0{digits}d}-", source.suffix
            if crops:
                ending = result.path.removeprefix(result.place.file).replace("/", "-") + ".jpg"
            yield listing, result, folder / (prefix + _shortened(source.stem, ending, MAX_NAME - len(prefix)))


def _shortened(stem: str, ending: str, limit: int) -> str:
    """The stem, cut so that the name has at most this many bytes, and the ending."""
    whole = os.fsencode(stem)
    cut = whole[: limit - len(os.fsencode(ending))]
    if cut != whole:
        cut = cut.decode("utf-8", "ignore").encode()  # no half of a character at the end
    return os.fsdecode(cut) + ending
