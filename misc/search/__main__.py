"""Search a folder of images by description: python -m misc.search COMMAND ...

Commands:
    index CHECKPOINT IMAGE_ROOT --out INDEX    encode the images of a folder; again: those of new content
    query INDEX "a woman in a red coat"        rank the images: table, JSON, CSV, figure
    serve INDEX                                a web page on this machine

python -m misc.search COMMAND --help lists the flags of a command.
"""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from misc.cli import Parser, exit_status, path_text
from options import UserError

logger = logging.getLogger(__name__)


def add_index_flags(parser: Parser) -> None:
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
    add("overrides", nargs="*", metavar="key.path=value", help="for example data.test_batch_size=64")


def run_index(flags: argparse.Namespace) -> int:
    """Create or update an index."""
    from misc.process.logs import start_logging
    from misc.search.encoder import load_encoder
    from misc.search.results import printable
    from misc.search.update import SKIPPED, update_index

    start_logging()
    approximate = True if flags.approximate else False if flags.exact else None
    encoder = load_encoder(flags.checkpoint, flags.config, flags.overrides)
    try:
        update = update_index(encoder, flags.image_root, flags.out, approximate, flags.prune)
    except KeyboardInterrupt:
        logger.info("interrupted; run the same command to resume")
        return 130  # as shells report after Ctrl-C
    logger.info(
        f"{flags.out}: {update.found} found = {update.kept} kept + {update.moved} moved + "
        f"{update.copied} copied + {update.new} new + {update.changed} changed + {update.num_skipped} skipped"
    )
    dropped = f", {update.dropped} dropped" if flags.prune else ""
    logger.info(
        f"{flags.out}: {update.total} images, {update.encoded} encoded, {update.missing} missing{dropped}, "
        f"{update.kind} search"
    )
    if update.skipped:
        first = printable(min(update.skipped))
        logger.warning(f"{len(update.skipped)} cannot be read (first: {first}): see {flags.out / SKIPPED}")
    return 0


def add_index_argument(parser: Parser) -> None:
    """The arguments that `query` and `serve` share."""
    add = parser.add_argument
    add("index", type=Path, metavar="INDEX", help="folder written by `index`")
    add("--checkpoint", type=Path, metavar="FILE", help="the weights of the index, if they were moved")


def add_query_flags(parser: Parser) -> None:
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


def run_query(flags: argparse.Namespace) -> int:
    """Rank the images for each query."""
    check_query_flags(flags)
    from data.images.decode import load_image
    from misc.process.csv_file import ENCODING
    from misc.process.durable import make_folder
    from misc.search.index import Index
    from misc.search.queries import Query
    from misc.search.results import as_csv, as_json, draw, explain_all, find, table

    sentences = [*flags.sentences, *(read_sentences(flags.file) if flags.file else [])]
    if not sentences and flags.image is None:
        raise UserError("query: expected a SENTENCE, --sentences FILE or --image FILE")
    if flags.explain:
        make_folder(flags.explain, "--explain")
    index = Index.open(flags.index)
    image = load_image(flags.image, index.truncated) if flags.image else None
    weight = 0.5 if flags.image_weight is None else flags.image_weight
    queries = [Query(text, image, tuple(flags.without), weight) for text in sentences or [None]]
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


def add_serve_flags(parser: Parser) -> None:
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


def run_serve(flags: argparse.Namespace) -> int:
    """Serve a web page until Ctrl-C."""
    from misc.search.index import Index
    from misc.search.page import serve
    from misc.search.truth import load_ground_truth

    index = Index.open(flags.index)
    encoder = index.load_encoder(flags.checkpoint)
    truth = None
    if flags.images and not flags.annotations:
        logger.warning("--images has no effect without --annotations")
    if flags.annotations:
        truth = load_ground_truth(index, flags.annotations, flags.images)
    serve(index, encoder, flags.port, truth, flags.browse)
    return 0


def check_query_flags(flags: argparse.Namespace) -> None:
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


COMMANDS: dict[str, tuple[Callable[[Parser], None], Callable[[argparse.Namespace], int]]] = {
    "index": (add_index_flags, run_index),
    "query": (add_query_flags, run_query),
    "serve": (add_serve_flags, run_serve),
}


def parse(arguments: Sequence[str]) -> tuple[Callable[[argparse.Namespace], int], argparse.Namespace]:
    """The command to run and its flags; a parser of its own allows flags between positional arguments."""
    parser = Parser(prog="python -m misc.search", description=__doc__)
    parser.add_argument("command", choices=COMMANDS)
    command = parser.parse_args(arguments[:1]).command
    add_flags, run = COMMANDS[command]
    parser = Parser(prog=f"python -m misc.search {command}", description=run.__doc__)
    add_flags(parser)
    return run, parser.parse_intermixed_args(arguments[1:])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 130 after Ctrl-C, or 2 for a user error."""

    def command() -> int:
        run, flags = parse(sys.argv[1:] if arguments is None else arguments)
        return run(flags)

    return exit_status(command)


if __name__ == "__main__":
    sys.exit(main())
