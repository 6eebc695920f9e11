"""Large annotations are read once: their columns are kept beside them, for all processes and later runs."""

import contextlib
import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from data.columns.records import Records, with_facts
from data.columns.splits import Columns
from data.images.decode import is_hidden
from misc.process.durable import alone, replacing, write_text

logger = logging.getLogger(__name__)

FOLDER = ".columns"  # beside the annotations
MIN_BYTES = 32 << 20  # of annotations: smaller ones are read in a second

Found = dict[str, Columns]  # {split: {language: records}}
Line = list[str | int]  # [logger, level, message]
Stamp = list[list[str | int]]  # [name, size, time of change in nanoseconds] of each annotation file


def stored(path: Path, request: Sequence[object], read: Callable[[], Found]) -> Found:
    """What `read` makes of the annotations at `path`, mapped from files where these are large.

    The files are used while the annotations, by name, size and time of change, and the code that reads them
    are the same. What reading logged is logged again. One process reads, others wait for it; where the folder
    cannot be written to, each one reads for itself.

    Args:
        request: what else `read` depends on, as JSON takes it.
    """
    stamp = _stamp(path)
    if sum(size for _, size, _ in stamp) < MIN_BYTES:
        return read()
    folder = (path if path.is_dir() else path.parent) / FOLDER
    key = hashlib.sha256(json.dumps([path.name, *request]).encode()).hexdigest()[:16]
    state = {"annotations": stamp, "code": _code()}
    entry = folder / f"{key}.json"
    if (found := _load(entry, state)) is not None:
        return found
    try:
        folder.mkdir(exist_ok=True)
        with alone(folder / f"{key}.lock"):
            if (found := _load(entry, state)) is not None:
                return found  # another process read them meanwhile
            logger.info("reading '%s'; its columns are kept in '%s', for later runs", path, folder)
            with _heard() as lines:
                found = read()
            _save(entry, state, found, lines)
    except OSError as error:
        logger.warning("'%s' cannot be written (%s): all runs read '%s' again", folder, error.strerror, path)
        return read()
    return _load(entry, state, quietly=True) or found


def _stamp(path: Path) -> Stamp:
    """Of the file, or of those in a folder and in its folder `data`, where releases have theirs."""
    if not path.is_dir():
        files, folder = [path], path.parent
    else:
        each = (file for place in (path, path / "data") if place.is_dir() for file in place.iterdir())
        files, folder = sorted(file for file in each if file.is_file() and not is_hidden(file.name)), path
    return [
        [file.relative_to(folder).as_posix(), (status := file.stat()).st_size, status.st_mtime_ns]
        for file in files
    ]


def _code() -> str:
    """A digest of the modules that read annotations."""
    room = Path(__file__).parents[1]
    files = (file for folder in (".", "columns", "readers") for file in sorted(room.glob(f"{folder}/*.py")))
    sources = (file.read_bytes() for file in files)
    return hashlib.sha256(b"\0".join(sources)).hexdigest()


@contextlib.contextmanager
def _heard() -> Iterator[list[Line]]:
    """What the modules of `data` log meanwhile."""
    lines: list[Line] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append([record.name, record.levelno, record.getMessage()])

    listener = Listener()
    root = logging.getLogger("data")
    root.addHandler(listener)
    try:
        yield lines
    finally:
        root.removeHandler(listener)


def _save(entry: Path, state: dict[str, object], found: Found, lines: list[Line]) -> None:
    """Write the files, then the entry that names them, and remove those of an earlier state."""
    version = hashlib.sha256(json.dumps(state).encode()).hexdigest()[:16]
    files: dict[str, dict[str, list[str | int]]] = {}
    for split, by_language in found.items():
        files[split] = {}
        for number, (language, records) in enumerate(by_language.items()):
            file = entry.with_name(f"{entry.stem}-{version}-{split}-{number}.arrow")
            with replacing(file) as stream:
                table = with_facts(records)
                with pa.ipc.new_file(stream, table.schema) as writer:
                    writer.write_table(table)
            files[split][language] = [file.name, file.stat().st_size]
    write_text(entry, json.dumps({**state, "log": lines, "files": files}))
    for old in entry.parent.glob(f"{entry.stem}-*.arrow"):
        if f"-{version}-" not in old.name:
            old.unlink(missing_ok=True)


def _load(entry: Path, state: dict[str, object], quietly: bool = False) -> Found | None:
    """None where there is no entry, or one of another state, or a file is not as it was written.

    Args:
        quietly: do not log again what reading logged.
    """
    try:
        content = json.loads(entry.read_text(encoding="utf-8"))
        if {name: content[name] for name in state} != state:
            return None
        found: Found = {}
        for split, by_language in content["files"].items():
            if any(entry.with_name(name).stat().st_size != size for name, size in by_language.values()):
                return None
            found[split] = {
                language: Records.open(entry.with_name(name), language)
                for language, (name, _) in by_language.items()
            }
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        return None
    for name, level, message in () if quietly else content["log"]:
        logging.getLogger(name).log(level, "%s", message)
    return found
