"""`index`: encode the images of a folder."""

import argparse
import logging
from pathlib import Path

from misc.cli import Parser

logger = logging.getLogger(__name__)


def add_flags(parser: Parser) -> None:
    """The command line of `index`."""
    add = parser.add_argument
    add("checkpoint", type=Path, metavar="CHECKPOINT", help="checkpoint_best.pth of a run, or other weights")
    add("image_root", type=Path, metavar="IMAGE_ROOT", help="folder of the images, searched recursively")
    add("--out", type=Path, required=True, metavar="INDEX", help="folder of the index, new or to be updated")
    add("--config", type=Path, metavar="FILE", help="options in place of those saved in the checkpoint")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--exact", action="store_true", help="compare with every image, whatever their number")
    kind.add_argument("--approximate", action="store_true", help="IVF-PQ, the default above a million images")
    add("--prune", action="store_true", help="remove the images whose files are away from the index")
    exclude = {"action": "append", "default": [], "metavar": "PATTERN"}
    add("--exclude", **exclude, help="leave out files and folders by name, or by path; can be repeated")
    add("overrides", nargs="*", metavar="key.path=value", help="for example data.test_batch_size=64")


def run(flags: argparse.Namespace) -> int:
    """Create or update an index."""
    from data.images.decode import MAX_PIXELS
    from misc.process.logs import start_logging
    from misc.search.encoder import load_encoder
    from misc.search.indexing.update import SKIPPED, update_index
    from misc.search.ranking.results import printable

    start_logging()
    approximate = True if flags.approximate else False if flags.exact else None
    encoder = load_encoder(flags.checkpoint, flags.config, flags.overrides)
    try:
        update = update_index(encoder, flags.image_root, flags.out, approximate, flags.prune, flags.exclude)
    except KeyboardInterrupt:
        logger.info("interrupted; run the same command to resume")
        return 130  # as shells report after Ctrl-C
    logger.info(
        f"{flags.out}: {update.found} found = {update.kept} kept + {update.moved} moved + "
        f"{update.copied} copied + {update.new} new + {update.changed} changed + {update.num_skipped} skipped"
        + (f" + {update.num_excluded} excluded" if update.num_excluded else "")
    )
    hidden = f" ({update.hidden} of them excluded)" if update.hidden else ""
    dropped = f", {update.dropped} dropped" if flags.prune else ""
    logger.info(
        f"{flags.out}: {update.total} images, {update.encoded} encoded, {update.missing} missing{hidden}"
        f"{dropped}, {update.kind} search"
    )
    if update.reduced:
        logger.info(f"{update.reduced} of them have more than {MAX_PIXELS:,} pixels: read at reduced size")
    if update.skipped:
        first = printable(min(update.skipped))
        logger.warning(f"{len(update.skipped)} skipped (first: {first}): see {flags.out / SKIPPED}")
    return 0
