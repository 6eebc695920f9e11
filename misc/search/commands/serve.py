"""`serve`: a web page for an index."""

import argparse
import getpass
import logging
import os
import sys
from pathlib import Path

from misc.cli import Parser
from misc.search.commands.shared import add_index_argument
from options import UserError

logger = logging.getLogger(__name__)

PASSWORD = "SEARCH_PASSWORD"  # an environment variable


def add_flags(parser: Parser) -> None:
    """The command line of `serve`."""
    add_index_argument(parser)
    add = parser.add_argument
    add("--port", type=int, default=7860, help="port (7860); 0: any free one")
    add("--host", default="127.0.0.1", help="address to listen on (127.0.0.1); others need a password")
    add(
        "--password-file",
        type=Path,
        metavar="FILE",
        help=f"its first line is the password, otherwise ${PASSWORD}, otherwise it is asked for",
    )
    add("--allow-host", action="append", default=[], metavar="NAME", help="a name of this server")
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
    from misc.search.web.page import Page
    from misc.search.web.server import is_loopback, serve

    password = read_password(flags.password_file, is_needed=not is_loopback(flags.host))
    index = Index.open(flags.index)
    encoder = index.load_encoder(flags.checkpoint)
    truth = None
    if flags.images and not flags.annotations:
        logger.warning("--images has no effect without --annotations")
    if flags.annotations:
        truth = load_ground_truth(index, flags.annotations, flags.images)
    if not is_loopback(flags.host):
        logger.warning(
            f"--host {flags.host}: password and images travel unencrypted; where others can listen, put a "
            "server with TLS in front"
        )
    page = Page(index, encoder, truth)
    serve(page, flags.port, flags.browse, flags.host, password, flags.allow_host)
    return 0


def read_password(file: Path | None, is_needed: bool) -> str | None:
    """The password from a file, the environment or the terminal, in this order; None: there is none. Raises
    UserError if one is needed and there is none.
    """
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--password-file: '{file}' cannot be read as UTF-8 text ({error})") from error
        return lines[0] if lines else ""
    if PASSWORD in os.environ:
        return os.environ[PASSWORD]
    if not is_needed:
        return None
    if not sys.stdin.isatty():
        raise UserError(
            f"--host: other machines can reach this address, so that a password is needed; set {PASSWORD}, "
            "or write it into a file and name that with --password-file"
        )
    return getpass.getpass("Password of the page: ")
