"""`index`: encode the images of a folder."""

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from misc.cli import Parser
from misc.search.storage.places import index_place

if TYPE_CHECKING:
    from misc.search.indexing.outcome import Update

logger = logging.getLogger(__name__)

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
    add("overrides", nargs="*", metavar="key.path=value", help="for example data.test_batch_size=64")


def run(flags: argparse.Namespace) -> int:
    """Create or update an index; one in Milvus by several processes, if torchrun starts them."""
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
        update = update_index(encoder, flags.image_root, flags.out, approximate, flags.prune, flags.exclude)
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
    report(update, str(flags.out), flags.prune)
    return 0


def report(update: "Update", index: str, prune: bool) -> None:
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
    logger.info(
        f"{index}: {update.total} images, {update.encoded} encoded, {update.missing} missing{hidden}"
        f"{dropped}, {update.kind} search"
    )
    if update.reduced:
        logger.info(f"{update.reduced} of them have more than {MAX_PIXELS:,} pixels: read at reduced size")
    if update.skipped:
        first = printable(min(update.skipped))
        logger.warning(f"{len(update.skipped)} skipped (first: {first}): see {update.listing}")
