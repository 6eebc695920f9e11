"""`serve`: a web page on this machine."""

import argparse
import logging
from pathlib import Path

from misc.cli import Parser
from misc.search.commands.shared import add_index_argument

logger = logging.getLogger(__name__)


def add_flags(parser: Parser) -> None:
    """The command line of `serve`."""
    add_index_argument(parser)
    add = parser.add_argument
    add("--port", type=int, default=7860, help="port on 127.0.0.1 (7860); 0: any free one")
    add(
        "--annotations",
        type=Path,
        metavar="FILE",
        help="mark the correct images by this data set's test split",
    )
    add("--images", type=Path, metavar="DIR", help="image root of the annotations, if not that of the index")
    add("--browse", action="store_true", help="open the page in a browser")


def run(flags: argparse.Namespace) -> int:
    """Serve a web page until Ctrl-C."""
    from misc.search.index import Index
    from misc.search.truth import load_ground_truth
    from misc.search.web.server import serve as serve_page

    index = Index.open(flags.index)
    encoder = index.load_encoder(flags.checkpoint)
    truth = None
    if flags.images and not flags.annotations:
        logger.warning("--images has no effect without --annotations")
    if flags.annotations:
        truth = load_ground_truth(index, flags.annotations, flags.images)
    serve_page(index, encoder, flags.port, truth, flags.browse)
    return 0
