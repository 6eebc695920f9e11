"""What `query` does once its flags are checked: ask the index, and write the answers."""

import argparse
import logging
import os
import sys
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from data.images.decode import load_image
from misc.process.csv_file import ENCODING
from misc.process.durable import make_folder
from misc.search.index import Index
from misc.search.ranking.filters import Filters
from misc.search.ranking.pictures import MAX_DRAWN, copy_images, draw, explain_all
from misc.search.ranking.queries import Query, descriptions
from misc.search.ranking.results import Listing, as_csv, as_json, file_list, find, table
from options import UserError

NAMED = 5  # people of a file, in a message

logger = logging.getLogger(__name__)

FILTERS = ("folder", "pattern", "since", "until", "hours", "min_size", "max_size")


def ask(flags: argparse.Namespace, sentences: Sequence[str]) -> int:
    """Answer each sentence, or the one query without, and write the answers in each form asked for."""
    with naming_flags():
        filters = Filters(**{name: getattr(flags, name) for name in FILTERS if getattr(flags, name)})
    for flag in ("explain", "copy"):
        if folder := getattr(flags, flag):
            make_folder(folder, f"--{flag}")
    index = Index.open(flags.index)
    with naming_flags():
        index.select(filters)  # before the model is loaded
    queries = queries_of(flags, sentences, index)
    warn_of_flags(flags, queries[0], index)
    encoder = index.load_encoder(flags.checkpoint)
    ranking = {"k": flags.k, "filters": filters, "min_score": flags.min_score}
    ranking |= {"group": not flags.no_group, "per_file": flags.per_file}
    names = [str(file) for file in flags.image]
    listings, warnings = find(index, encoder, queries, **ranking, image_names=names)
    output(flags, listings)
    if flags.explain:
        explain_all(listings, encoder, flags.explain)
    for warning in [*warnings, *states(index, listings)]:
        logger.warning(warning)
    return 0


@contextmanager
def naming_flags() -> Iterator[None]:
    """Name the flag where a `UserError` begins with the name of a filter."""
    try:
        yield
    except UserError as error:
        name = str(error).partition(":")[0]
        raise UserError(f"--{error}" if name.replace("-", "_") in FILTERS else str(error)) from error


def queries_of(flags: argparse.Namespace, sentences: Sequence[str], index: Index) -> list[Query]:
    """A query for each sentence, or one without; raises UserError for a weight or an image that is none."""
    also = [(text, float(weight)) for text, weight in flags.also]
    images = [load_image(file, index.truncated) for file in flags.image]
    for_images = 0.5 if flags.image_weight is None else flags.image_weight
    more, less = ([id_of(index, path, flag) for path in getattr(flags, flag)] for flag in ("like", "unlike"))
    queries = []
    for own in [[(text, 1.0)] for text in sentences] or [[]]:
        texts = [*own, *also]
        if texts and images:
            total = sum(weight for _, weight in texts)
            texts = [(text, (1 - for_images) * weight / total) for text, weight in texts]
        image_weight = (for_images if texts else 1.0) / max(1, len(images))
        parts = tuple(texts), tuple((image, image_weight) for image in images)
        queries.append(Query(*parts, descriptions(flags.without), tuple(more), tuple(less)))
    return queries


def id_of(index: Index, path: str, flag: str) -> int:
    """The id of an entry that the user names as results do, or by a path of the file system; in an index of
    people also by the name of its file, if that has no other one.
    """
    for candidate in (path, os.path.relpath(path, index.image_root)):
        rows = rows_of(index, os.path.normpath(candidate))
        if len(rows) == 1:
            return int(index.ids[rows.start])
        if rows:
            names = [f"'{index.paths[row]}'" for row in rows[:NAMED]] + ["..."] * (len(rows) > NAMED)
            raise UserError(f"--{flag}: '{path}' has {len(rows)} people; name one of {', '.join(names)}")
    raise UserError(
        f"--{flag}: '{path}' is not an image of the index; name it as results do, relative to "
        f"'{index.image_root}'"
    )


def rows_of(index: Index, path: str) -> range:
    """The row of an entry, or else those of a file; none if there is neither."""
    row = bisect_left(index.paths, path)
    if index.paths[row : row + 1] == [path]:
        return range(row, row + 1)
    # What begins with "x/" lies between "x/" and "x0": 0 is the character behind /.
    start, stop = (bisect_left(index.paths, path + end) for end in "/0")
    is_file = start < stop and index.place(start).file == path
    return range(start, stop) if is_file else range(0)


def output(flags: argparse.Namespace, listings: Sequence[Listing]) -> None:
    """Write the answers in each form that was asked for."""
    if flags.copy:  # first: it refuses to overwrite files
        copy_images(listings, flags.copy, flags.crops and listings[0].index.has_people)
    if flags.files_only:
        print_bytes(file_list(listings, "\0" if flags.null else "\n"))
    elif "-" not in (flags.json, flags.csv):
        print_bytes(f"{table(listings)}\n".encode(sys.stdout.encoding or "utf-8", "backslashreplace"))
    if flags.json:
        write(flags.json, "--json", as_json(listings))
    if flags.csv:
        write(flags.csv, "--csv", as_csv(listings), ENCODING)
    if flags.figure and (left_out := draw(listings, flags.figure)):
        logger.warning(
            f"--figure: {left_out} images are left out: it shows at most {MAX_DRAWN}, of each query as many"
        )


def warn_of_flags(flags: argparse.Namespace, query: Query, index: Index) -> None:
    """Log a warning for each flag that has no effect beside the others."""
    if flags.image_weight is not None and not (query.images and query.texts):
        logger.warning("--image-weight has no effect without both a sentence and --image")
    if flags.explain and not query.texts:
        logger.warning(
            "--explain has no effect without a sentence: it shows what the score of one depends on"
        )
    if flags.null and not flags.files_only:
        logger.warning("--null has no effect without --files-only")
    if flags.crops and not flags.copy:
        logger.warning("--crops has no effect without --copy")
    for name in ("per_file", "crops"):
        if getattr(flags, name) and not index.has_people:
            flag = name.replace("_", "-")
            logger.warning(f"--{flag} has no effect: the index has whole images, no people in them")


def states(index: Index, listings: Sequence[Listing]) -> list[str]:
    """What the user should know of the images."""
    warnings = []
    missing = {each.file_of(r) for each in listings for r in each.answer.results if r.rank in each.missing}
    if missing:
        warnings.append(f"{len(missing)} of the files no longer exist; run the index command again")
    if not index.header.complete:
        number = f"{len(index.paths)} {'entries' if index.has_people else 'images'}"
        warnings.append(f"{number} are in the index so far: an index run goes on, or was interrupted")
    if not listings[0].answer.matching:
        warnings.append("no image passes the filters")
    return warnings


def write(target: str, flag: str, text: str, encoding: str = "utf-8") -> None:
    """Write to a file, or to stdout if the target is "-", in UTF-8 without a mark."""
    if target == "-":
        print_bytes(text.encode("utf-8", "backslashreplace"))
        return
    try:
        Path(target).write_text(text, encoding=encoding, errors="surrogateescape")
    except OSError as error:
        raise UserError(f"{flag}: '{target}' cannot be written ({error.strerror})") from error


def print_bytes(content: bytes) -> None:
    """Write to stdout, unless the program that reads it has ended, as `head` does."""
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # Python flushes it once more at the end
