"""The logs of a run: the console, log.txt, metrics.jsonl, TensorBoard scalars."""

import contextlib
import json
import logging
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tqdm import tqdm

from misc.process import distributed
from misc.process.durable import write_text

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

logger = logging.getLogger(__name__)
T = TypeVar("T")
_HANDLERS: list[logging.Handler] = []  # of this module, at the root logger


def progress(steps: Iterable[T], title: str) -> Iterable[T]:
    """The same steps, with a progress bar on rank 0's terminal that disappears at the end."""
    visible = distributed.is_main() and sys.stderr.isatty()
    return tqdm(steps, desc=title, leave=False, disable=not visible)


def start_logging() -> None:
    """Let rank 0 log to standard output, the others only errors: their warnings repeat those of rank 0."""
    stop_logging()
    logging.getLogger().setLevel(logging.INFO if distributed.is_main() else logging.ERROR)
    console = logging.StreamHandler(sys.stdout)
    console.setFormatter(logging.Formatter("%(message)s"))
    _add(console)
    # Keeps what is logged before the run has a folder.
    _add(MemoryHandler(capacity=10_000, flushLevel=logging.CRITICAL + 1, flushOnClose=False))
    logging.captureWarnings(True)


def log_to(folder: Path) -> None:
    """Let rank 0 also append to `log.txt`, which a resumed run continues."""
    early = [handler for handler in _HANDLERS if isinstance(handler, MemoryHandler)]
    if distributed.is_main():
        file = _LogFile(folder / "log.txt", encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        for handler in early:
            handler.setTarget(file)
            handler.flush()
        _add(file)
    for handler in early:
        _remove(handler)


def stop_logging() -> None:
    """Close what `start_logging` and `log_to` have opened. Handlers of others stay as they are."""
    for handler in tuple(_HANDLERS):
        _remove(handler)
    logging.captureWarnings(False)


def _add(handler: logging.Handler) -> None:
    _HANDLERS.append(handler)
    logging.getLogger().addHandler(handler)


def _remove(handler: logging.Handler) -> None:
    _HANDLERS.remove(handler)
    logging.getLogger().removeHandler(handler)
    handler.close()


class _LogFile(logging.FileHandler):
    """A log file whose write errors, as on a full disk, print no traceback; the console has all messages."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 -- logging's name
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


class RunLog:
    """metrics.jsonl and TensorBoard scalars of one run; on ranks other than 0 it writes nothing.

    A full disk does not end the run: the lines are written later, TensorBoard's scalars are left out. Lines
    after `step` and `epoch`, the numbers of those that are done, are an interrupted run's, and are removed.
    """

    def __init__(self, folder: Path, step: int, epoch: int) -> None:
        self._path, self._board_folder = folder / "metrics.jsonl", folder / "tensorboard"
        self._pending: list[dict[str, Any]] = []
        self._board: SummaryWriter | None = None
        if distributed.is_main():
            count, done = {"eval": "epoch"}, {"step": step, "epoch": epoch}
            records = read_metrics(self._path) if self._path.exists() else []
            kept = [
                record
                for record in records
                if record[name := count.get(record["kind"], "step")] <= done[name]
            ]
            write_text(self._path, _lines(kept))

    def write(self, record: dict[str, Any]) -> None:
        """Append one record, with its `kind` and `step`, and its numbers to TensorBoard.

        Kinds: "train"; "eval"; "division", with the step that comes after it.
        """
        if not distributed.is_main():
            return
        self._pending.append(record)
        try:
            self._write_pending()
            self._draw(record)
        except OSError as error:
            logger.warning("writing '%s' failed (%s): the run continues", self._path.parent, error.strerror)

    def _write_pending(self) -> None:
        _append(self._path, _lines(self._pending))
        self._pending = []

    def _draw(self, record: dict[str, Any]) -> None:
        if self._board is None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(self._board_folder), purge_step=record["step"])
        prefix = record.get("split", record["kind"])
        try:
            for name, value in _scalars(record, prefix):
                self._board.add_scalar(name, value, record["step"])
        except OSError:  # its writer thread has ended, and with it this file
            self._board = None
            raise

    def close(self) -> None:
        """Write the lines that are still pending, and close TensorBoard's file."""
        if self._pending:
            try:
                self._write_pending()
            except OSError as error:
                count, reason = len(self._pending), error.strerror
                logger.warning("the last lines of '%s' are lost: %d (%s)", self._path, count, reason)
        if self._board is not None:
            with contextlib.suppress(OSError):
                self._board.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a `metrics.jsonl`, without the damaged ones, which a warning names by their lines.

    A kill may cut the last line off: without its end it is left out silently.
    """
    *lines, last = path.read_bytes().split(b"\n")
    records = {number: _record(line) for number, line in enumerate(lines, start=1) if line}
    damaged = ", ".join(str(number) for number, record in records.items() if record is None)
    if damaged:
        logger.warning("'%s': damaged, and left out: line %s", path, damaged)
    return [record for record in (*records.values(), _record(last)) if record is not None]


def _record(line: bytes) -> dict[str, Any] | None:
    """The record of a line; None where it is not one that a run writes."""
    try:
        record = json.loads(line)
        if record["kind"] == "train":
            numbers = [1 / record["steps_per_epoch"], *(record[name] for name in ("step", "lr", "loss"))]
            numbers += record["parts"].values()
        elif record["kind"] == "eval" and record["split"] in ("val", "test"):
            figures = [record["average"], *record["languages"].values()]
            numbers = [of_language["t2i"][name] for of_language in figures for name in ("R1", "mAP")]
            numbers += [record["epoch"], record["best"]]
        elif record["kind"] == "division":
            numbers = [record[name] for name in ("epoch", "step", "noisy_share")]
        else:
            return None
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError):
        return None
    return record if all(isinstance(number, int | float) for number in numbers) else None


def _lines(records: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def _append(path: Path, text: str) -> None:
    """Append a text completely or, with an OSError, not at all."""
    size = path.stat().st_size
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError:
        os.truncate(path, size)
        raise


def _scalars(record: dict[str, Any], prefix: str) -> list[tuple[str, float]]:
    numbers = []
    for name, value in record.items():
        if isinstance(value, dict):
            numbers += _scalars(value, f"{prefix}/{name}")
        elif isinstance(value, int | float) and name not in ("step", "steps_per_epoch", "best"):
            numbers.append((f"{prefix}/{name}", value))
    return numbers
