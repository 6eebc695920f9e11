"""`query`: rank the entries of an index, images or people in photos and videos."""

import argparse
import math
import os
import re
from pathlib import Path

from misc.cli import Parser, path_text
from misc.search.commands.shared import add_index_argument
from options import UserError


def add_flags(parser: Parser) -> None:
    """The command line of `query`."""
    add_index_argument(parser)
    add = parser.add_argument
    add("sentences", nargs="*", metavar="SENTENCE", help="a query each, in any language of the model")
    add("-k", type=int, default=20, help="results per query (20)")
    add("--sentences", type=Path, metavar="FILE", dest="file", help="a text file with a sentence per line")
    several = {"action": "append", "default": []}
    weighted = {"nargs": 2, "metavar": ("TEXT", "WEIGHT"), **several}
    add("--also", **weighted, help="one more sentence of each query; the weight of SENTENCE is 1")
    images = {"type": Path, "metavar": "FILE", **several}
    add("--image", **images, help="an image as the query, or of each query; can be repeated")
    weight = {"type": float, "metavar": "W"}
    add("--image-weight", **weight, help="weight of the images beside the sentences, 0 to 1 (0.5)")
    texts = {"metavar": "TEXT", **several}
    add("--without", **texts, help="descriptions to avoid, divided by commas; can be repeated")
    paths = {"type": path_text, "metavar": "IMAGE", **several}
    add(
        "--like",
        **paths,
        help="an image or a person of the index, named as results are, to find more like it",
    )
    add("--unlike", **paths, help="the same, to find less like it; both can be repeated")
    add_filters(parser)
    add_outputs(parser)


def add_filters(parser: Parser) -> None:
    """The flags that name the images to rank; those that are given hold together."""
    add = parser.add_argument
    add("--folder", metavar="DIR", help="files below this folder of the image root, such as a camera's")
    add("--pattern", metavar="PATTERN", help="files of such a name, as '*.jpg'; with a /, of such a path")
    add("--since", metavar="TIME", help="images from 2024-05-06, or '2024-05-06 07:08', on")
    add("--until", metavar="TIME", help="images up to then; a date is the whole day")
    add("--hours", metavar="SPAN", help="images from such hours of a day, as 08:00-17:30 or 22:00-06:00")
    sizes = {"type": pixels, "metavar": "WxH"}
    add("--min-size", **sizes, help="at least this width and height, as 64x128; of people, of their boxes")
    add("--max-size", **sizes, help="at most this width and height")
    add("--min-score", type=float, metavar="S", help="images of at least this score")


def add_outputs(parser: Parser) -> None:
    """The flags that say what becomes of the ranking."""
    add = parser.add_argument
    add("--no-group", action="store_true", help="give each duplicate of an image a place of its own")
    add("--per-file", action="store_true", help="one result of a photo or video: the best of its people")
    to_file = {"type": path_text, "nargs": "?", "const": "-"}
    add("--json", **to_file, metavar="FILE.json", help="write JSON; to stdout without a name")
    add("--csv", **to_file, metavar="FILE.csv", help="write CSV; to stdout without a name")
    add("--files-only", action="store_true", help="print the files alone, one per line, for pipes")
    add("--null", action="store_true", help="with --files-only: end each with NUL, for xargs -0")
    add("--copy", type=Path, metavar="DIR", help="copy the files there, with their ranks in the names")
    add("--crops", action="store_true", help="with --copy: people alone, as the model saw them, as JPEGs")
    add("--figure", type=Path, metavar="FILE.png", help="draw the images with ranks, scores and names")
    add("--explain", type=Path, metavar="DIR", help="draw the regions that each score depends on")


def pixels(text: str) -> tuple[int, int]:
    """The type of a size, such as 64x128."""
    found = re.fullmatch(r"(\d{1,9})[x×](\d{1,9})", text, re.ASCII)
    if found is None:
        raise argparse.ArgumentTypeError(
            f"expected WIDTHxHEIGHT in pixels, such as 64x128, found {text!r:.40}"
        )
    return int(found[1]), int(found[2])


def run(flags: argparse.Namespace) -> int:
    """Rank the images for each query."""
    check_flags(flags)
    from misc.search.commands.asking import ask

    sentences = [*flags.sentences, *(read_sentences(flags.file) if flags.file else [])]
    if not (sentences or flags.also or flags.image or flags.like):
        raise UserError("query: expected a SENTENCE, --sentences FILE, --image FILE or --like IMAGE")
    return ask(flags, sentences)


def check_flags(flags: argparse.Namespace) -> None:
    """Raise UserError for invalid flags before a model is loaded."""
    if flags.k < 1:
        raise UserError(f"-k: expected at least 1, found {flags.k}")
    if flags.image_weight is not None and not 0 <= flags.image_weight <= 1:
        raise UserError(f"--image-weight: expected 0 to 1, found {flags.image_weight}")
    if flags.min_score is not None and not math.isfinite(flags.min_score):
        raise UserError(f"--min-score: expected a number, found {flags.min_score}")
    for text, weight in flags.also:
        check_weight(text, weight)
    for name in ("folder", "pattern", "since", "until", "hours"):
        if getattr(flags, name) == "":
            raise UserError(f"--{name}: its value is empty; fill it in or leave the flag out")
    to_stdout = [name for name in ("json", "csv") if getattr(flags, name) == "-"]
    to_stdout += ["files-only"] if flags.files_only else []
    if len(to_stdout) > 1:
        raise UserError(
            f"--{to_stdout[0]} and --{to_stdout[1]}: only one of them can be written to stdout; name a file"
        )
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


def check_weight(text: str, weight: str) -> None:
    """Raise UserError unless `--also` has a weight."""
    try:
        is_weight = 0 < float(weight) < math.inf
    except ValueError:
        is_weight = False
    if not is_weight:
        raise UserError(f"--also: expected a weight above 0 behind '{text}', found '{weight}'")


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
