"""`index`: encode the images of a folder."""

import argparse
import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from misc.cli import Parser, path_text
from misc.search.storage.places import index_place
from options import UserError

if TYPE_CHECKING:
    from misc.search.indexing.outcome import Update
    from misc.search.indexing.people import People

logger = logging.getLogger(__name__)

OF_PEOPLE = ("detector", "boxes", "whole", "min_score", "min_height", "max_overlap", "margin", "every")
MAX_MINUTES = 7 * 24 * 60  # that a machine waits for the others, whose shares can take longer


def add_flags(parser: Parser) -> None:
    """The command line of `index`."""
    add = parser.add_argument
    add("checkpoint", type=Path, metavar="CHECKPOINT", help="checkpoint_best.pth of a run, or other weights")
    add("image_root", type=Path, metavar="IMAGE_ROOT", help="folder of the images, searched recursively")
    out = "folder of the index, new or to be updated; or milvus:http://HOST:PORT/NAME, or NAME.db"
    add("--out", type=index_place, required=True, metavar="INDEX", help=out)
    add("--config", type=Path, metavar="FILE", help="options in place of those saved in the checkpoint")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--exact", action="store_true", help="compare with every image, whatever their number")
    kind.add_argument("--approximate", action="store_true", help="IVF-PQ, the default above a million images")
    add("--prune", action="store_true", help="remove the images whose files are away from the index")
    exclude = {"action": "append", "default": [], "metavar": "PATTERN"}
    add("--exclude", **exclude, help="leave out files and folders by name, or by path; can be repeated")
    add_people_flags(parser)
    add("overrides", nargs="*", metavar="key.path=value", help="for example data.test_batch_size=64")


def add_people_flags(parser: Parser) -> None:
    """How the people of an index of people are found."""
    add = parser.add_argument
    add("--people", action="store_true", help="an entry for each person in a photo or a video")
    add(
        "--detector",
        type=path_text,
        metavar="DETECTOR",
        help="hog (the default), a model folder, or a hub id",
    )
    boxes = "your own boxes: FILE.json (COCO), FILE.csv, FILE.txt (MOT), or a folder of MOT"
    add("--boxes", type=Path, metavar="PATH", help=boxes)
    add(
        "--whole",
        action="store_true",
        help="entries for whole photos, too, not only for those without people",
    )
    add(
        "--min-score",
        type=float,
        metavar="S",
        help="least score of a box (hog: 0.4, others: 0.5, yours: none)",
    )
    add("--min-height", type=float, metavar="PIXELS", help="least height of a box (32, yours: 1)")
    overlap = "largest overlap (intersection over union) with a better box (0.5, yours: 1)"
    add("--max-overlap", type=float, metavar="SHARE", help=overlap)
    margin = "share of a box that is encoded around it, on each side (0)"
    add("--margin", type=float, metavar="SHARE", help=margin)
    add("--every", type=float, metavar="SECONDS", help="of a video, between two frames (1)")


def run(flags: argparse.Namespace) -> int:
    """Create or update an index; one in Milvus by several processes, if torchrun starts them."""
    check_people_flags(flags)
    import torch

    from misc.process import distributed
    from misc.process.logs import start_logging
    from misc.search.encoder import load_encoder
    from misc.search.indexing.update import update_index

    start_logging()
    distributed.start(torch.device("cpu"), timeout_minutes=MAX_MINUTES)
    approximate = True if flags.approximate else False if flags.exact else None
    try:
        encoder = load_encoder(flags.checkpoint, flags.config, flags.overrides)
        people = people_of(flags, str(encoder.device)) if flags.people else None
        exclude = flags.exclude
        update = update_index(encoder, flags.image_root, flags.out, approximate, flags.prune, exclude, people)
        distributed.wait_for_all()
    except KeyboardInterrupt:
        distributed.announce_end()
        logger.info("interrupted; run the same command to resume")
        return 130  # as shells report after Ctrl-C
    except Exception:
        distributed.announce_end()
        raise
    finally:
        distributed.stop()
    report(update, str(flags.out), flags.prune, flags.people)
    return 0


def check_people_flags(flags: argparse.Namespace) -> None:
    """Raise UserError for invalid flags before a model is loaded."""
    from misc.detection.boxes import check_limits

    values = {name: getattr(flags, name) for name in OF_PEOPLE}
    given = [name for name, value in values.items() if value is not None and value is not False]
    if given and not flags.people:
        raise UserError(f"--{given[0].replace('_', '-')}: expected --people beside it; or leave it out")
    if flags.boxes and flags.detector:
        raise UserError("--boxes: your boxes take the place of a detector; leave out one of the two")
    if flags.margin is not None and not 0 <= flags.margin <= 2:
        raise UserError(f"--margin: expected 0 to 2, found {flags.margin}")
    if flags.every is not None and not 0 < flags.every < math.inf:
        raise UserError(f"--every: expected seconds above 0, found {flags.every}")
    check_limits(flags.min_score, flags.min_height, flags.max_overlap)


def people_of(flags: argparse.Namespace, device: str) -> "People":
    """How the people of the index are found; raises UserError if the detector or the boxes cannot be used."""
    from misc.detection.boxes import ALL, Limits
    from misc.detection.detectors import HOG, load_detector
    from misc.search.indexing.boxes import GivenBoxes
    from misc.search.indexing.people import People

    limits = ALL if flags.boxes else Limits()
    named = {name: getattr(flags, name) for name in ("min_score", "min_height", "max_overlap")}
    limits = replace(limits, **{name: value for name, value in named.items() if value is not None})
    given = GivenBoxes(flags.boxes) if flags.boxes else None
    detector = None if given else load_detector(flags.detector or HOG, device)
    others = {name: getattr(flags, name) for name in ("margin", "every") if getattr(flags, name) is not None}
    return People(detector, given, limits, whole=flags.whole, **others)


def report(update: "Update", index: str, prune: bool, has_people: bool) -> None:
    """Log what an update has done."""
    from data.images.decode import MAX_PIXELS
    from misc.search.ranking.results import printable

    logger.info(
        f"{index}: {update.found} found = {update.kept} kept + {update.moved} moved + "
        f"{update.copied} copied + {update.new} new + {update.changed} changed + {update.num_skipped} skipped"
        + (f" + {update.num_excluded} excluded" if update.num_excluded else "")
    )
    hidden = f" ({update.hidden} of them excluded)" if update.hidden else ""
    dropped = f", {update.dropped} dropped" if prune else ""
    total = f"{update.total} {'photos and videos' if has_people else 'images'}"
    entries = f" with {update.entries} entries" if has_people else ""
    logger.info(
        f"{index}: {total}{entries}, {update.encoded} encoded, {update.missing} missing{hidden}{dropped}, "
        f"{update.kind} search"
    )
    if update.reduced:
        logger.info(f"{update.reduced} of them have more than {MAX_PIXELS:,} pixels: read at reduced size")
    if update.skipped:
        first = printable(min(update.skipped))
        logger.warning(f"{len(update.skipped)} skipped (first: {first}): see {update.listing}")
