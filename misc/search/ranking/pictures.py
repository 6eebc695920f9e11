"""Pictures of the ranked images, and copies of their files."""

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from data.images.decode import load_image
from misc.process.logs import progress
from misc.report.contact_sheet import IMAGE_SIZE, Block, Cell, draw_contact_sheet
from misc.report.pictures import RULE
from misc.search.encoder import Encoder
from misc.search.explain import explain, overlay
from misc.search.ranking.answer import Result
from misc.search.ranking.results import Listing, printable
from options import UserError

MAX_DRAWN = 200  # images of a figure
MAX_NAME = 255  # bytes, on all common file systems


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
    copies = [f"+{len(result.duplicates)} duplicates"] if result.duplicates else []
    return Cell(image, f"{result.rank}.   {result.score:.4f}", [printable(result.path), *copies])


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
    """The image, or None if it can no longer be read."""
    try:
        return load_image(listing.file_of(result), truncated="accept")  # as the index did, if need be
    except UserError:
        return None


def copy_images(listings: Sequence[Listing], folder: Path) -> None:
    """Copy the images to RANK-NAME in a folder, or QUERY-RANK-NAME if there are several queries. Raises
    UserError, before it copies any, if one of these files exists, or if a file cannot be copied.
    """
    pairs = list(_copies(listings, folder))
    for _, target in pairs:
        if os.path.lexists(target):
            raise UserError(
                f"--copy: '{folder}' has '{target.name}' already; name another folder: nothing is overwritten"
            )
    for source, target in progress(pairs, "copying"):
        try:
            with source.open("rb") as read, target.open("xb") as written:
                shutil.copyfileobj(read, written)
            shutil.copystat(source, target)
        except OSError as error:
            raise UserError(
                f"--copy: '{source}' cannot be copied to '{folder}' ({error.strerror})"
            ) from error


def _copies(listings: Sequence[Listing], folder: Path) -> Iterator[tuple[Path, Path]]:
    """The file and its copy, for each image that exists."""
    for number, listing in enumerate(listings, start=1):
        results = listing.answer.results
        digits = len(str(len(results)))  # names sort by rank
        query = f"{number:0{len(str(len(listings)))}d}-" if len(listings) > 1 else ""
        for result in results:
            if result.rank not in listing.missing:
                source = listing.file_of(result)
                prefix = f"{query}{result.rank:0{digits}d}-"
                yield source, folder / (prefix + _shortened(source, MAX_NAME - len(prefix)))


def _shortened(file: Path, limit: int) -> str:
    """The name of the file, with a shorter stem if it is longer than this many bytes."""
    stem, suffix = os.fsencode(file.stem), os.fsencode(file.suffix)
    stem = stem[: limit - len(suffix)]
    if stem != os.fsencode(file.stem):
        stem = stem.decode("utf-8", "ignore").encode()  # no half of a character at the end
    return os.fsdecode(stem + suffix)
