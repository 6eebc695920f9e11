"""`query`: rank the images of an index."""

import argparse
import logging
import os
import sys
from pathlib import Path

from misc.cli import Parser, path_text
from misc.search.commands.shared import add_index_argument
from options import UserError

logger = logging.getLogger(__name__)


def add_flags(parser: Parser) -> None:
    """The command line of `query`."""
    add_index_argument(parser)
    add = parser.add_argument
    add("sentences", nargs="*", metavar="SENTENCE", help="a query each, in any language of the model")
    add("-k", type=int, default=20, help="images per query (20)")
    add("--sentences", type=Path, metavar="FILE", dest="file", help="a text file with a sentence per line")
    add("--image", type=Path, metavar="FILE", help="an image as the query, or combined with each sentence")
    weight = {"type": float, "metavar": "W"}
    add("--image-weight", **weight, help="weight of the image beside a sentence, 0 to 1 (0.5)")
    without = {"action": "append", "default": [], "metavar": "TEXT"}
    add("--without", **without, help="a description to avoid; can be repeated")
    to_file = {"type": path_text, "nargs": "?", "const": "-"}
    add("--json", **to_file, metavar="FILE.json", help="write JSON; to stdout without a name")
    add("--csv", **to_file, metavar="FILE.csv", help="write CSV; to stdout without a name")
    add("--figure", type=Path, metavar="FILE.png", help="draw the images with ranks, scores and names")
    add("--explain", type=Path, metavar="DIR", help="draw the regions that each score depends on")


def run(flags: argparse.Namespace) -> int:
    """Rank the images for each query."""
    check_flags(flags)
    from data.images.decode import load_image
    from misc.process.csv_file import ENCODING
    from misc.process.durable import make_folder
    from misc.search.index import Index
    from misc.search.ranking.queries import Query, descriptions
    from misc.search.ranking.results import as_csv, as_json, draw, explain_all, find, table

    sentences = [*flags.sentences, *(read_sentences(flags.file) if flags.file else [])]
    if not sentences and flags.image is None:
        raise UserError("query: expected a SENTENCE, --sentences FILE or --image FILE")
    if flags.explain:
        make_folder(flags.explain, "--explain")
    index = Index.open(flags.index)
    image = load_image(flags.image, index.truncated) if flags.image else None
    weight = 0.5 if flags.image_weight is None else flags.image_weight
    images = ((image, weight if sentences else 1.0),) if image else ()
    without = descriptions(flags.without)
    texts = [((text, 1 - weight if image else 1.0),) for text in sentences]
    queries = [Query(each, images, without) for each in texts or [()]]
    if flags.image_weight is not None and (image is None or not sentences):
        logger.warning("--image-weight has no effect without both a sentence and --image")
    if flags.explain and not sentences:
        logger.warning(
            "--explain has no effect without a sentence: it shows what the score of one depends on"
        )
    encoder = index.load_encoder(flags.checkpoint)
    answers = find(index, encoder, queries, flags.k, flags.image)
    if "-" not in (flags.json, flags.csv):
        print(table(answers))
    write(flags.json, "--json", as_json(answers))
    write(flags.csv, "--csv", as_csv(answers), ENCODING)
    if flags.figure:
        draw(answers, index, flags.figure)
    if flags.explain:
        explain_all(answers, index, encoder, flags.explain)
    missing = {result.image for answer in answers for result in answer.results if result.missing}
    if missing:
        logger.warning(f"{len(missing)} of the images no longer exist; run the index command again")
    if not index.header.complete:
        logger.warning(
            f"{len(index.paths)} images are in the index so far: an index run goes on, or was interrupted"
        )
    return 0


def check_flags(flags: argparse.Namespace) -> None:
    """Raise UserError for invalid flags before a model is loaded."""
    if flags.k < 1:
        raise UserError(f"-k: expected at least 1, found {flags.k}")
    if flags.image_weight is not None and not 0 <= flags.image_weight <= 1:
        raise UserError(f"--image-weight: expected 0 to 1, found {flags.image_weight}")
    if flags.json == flags.csv == "-":
        raise UserError("--json and --csv: only one of them can be written to stdout; name a file")
    for name, suffix in (("json", ".json"), ("csv", ".csv"), ("figure", ".png")):
        file = getattr(flags, name)
        if file is None or file == "-":
            continue
        if Path(file).suffix.lower() != suffix:
            raise UserError(
                f"--{name}: expected a file name in {suffix}, found '{file}'; sentences come first"
            )
        if not os.access(Path(file).absolute().parent, os.W_OK):
            raise UserError(f"--{name}: '{file}' cannot be written; name a file in a writable folder")


def read_sentences(file: Path) -> list[str]:
    """The lines of a text file that are not blank; raises UserError if there is none."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--sentences: '{file}' cannot be read as UTF-8 text ({error})") from error
    sentences = [line.strip() for line in lines if line.strip()]
    if not sentences:
        raise UserError(f"--sentences: '{file}' has no sentence; write one per line")
    return sentences


def write(target: str | None, flag: str, text: str, encoding: str = "utf-8") -> None:
    """Write to a file, or to stdout if the target is "-", in UTF-8 without a mark."""
    if target == "-":
        sys.stdout.write(text.encode("utf-8", "backslashreplace").decode())
    elif target:
        try:
            Path(target).write_text(text, encoding=encoding, errors="surrogateescape")
        except OSError as error:
            raise UserError(f"{flag}: '{target}' cannot be written ({error.strerror})") from error
