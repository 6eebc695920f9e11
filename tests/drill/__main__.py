"""The fault drill: `make drill`, or python -m tests.drill.

A small run of two processes on rendered persons is made once undisturbed. Then each fault is done to the same
run by real means (signals, a full file system, damaged files), the same command goes on, and what it comes to
is compared with the undisturbed run to the last bit: weights, optimiser, random states, log and figures.
"""

import argparse
import contextlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.drill.faults import FAULTS  # noqa: E402
from tests.drill.subject import NoFaultError, Subject  # noqa: E402

AGAIN = 5  # times that a try is made in which the fault did not happen
Fault = Callable[[Subject, random.Random], str]


@dataclass
class Row:
    """A line of the table."""

    fault: str
    tries: int = 0
    recovered: int = 0
    lost: list[str] = field(default_factory=list)


def do(fault: Fault, subject: Subject, rng: random.Random) -> str:
    """Do a fault, once more where it did not happen; raises NoFaultError where it does not at all."""
    for _ in range(AGAIN - 1):
        with contextlib.suppress(NoFaultError):
            return fault(subject, rng)
    return fault(subject, rng)


def attempt(row: Row, fault: Fault, subject: Subject, seed: int) -> None:
    """Do a fault to a fresh run, and see whether it comes to the undisturbed end."""
    row.tries += 1
    began = time.monotonic()
    try:
        lost = do(fault, subject, random.Random(seed))
        difference = subject.difference()
    except (AssertionError, NoFaultError, OSError, subprocess.SubprocessError) as error:
        subject.kill_all()
        lost, difference = "", str(error) or repr(error)
    row.recovered += not difference
    row.lost.append(lost if not difference else f"FAILED: {difference}")
    print(f"{row.fault}, {time.monotonic() - began:.0f} s: {row.lost[-1]}", flush=True)


def main() -> int:
    """Run the command line; returns the exit status: 0, or 1 where a fault was not survived."""
    parser = argparse.ArgumentParser(prog="python -m tests.drill", description=__doc__)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the moments of the faults")
    parser.add_argument("--only", nargs="+", choices=FAULTS, default=list(FAULTS), help="these faults alone")
    parser.add_argument("--keep", action="store_true", help="keep the folder of the runs")
    flags = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="drill-"))
    print(f"seed {flags.seed}, runs in {folder}", flush=True)
    rows = []
    try:
        subject = Subject(folder)
        for number, name in enumerate(flags.only):
            fault, tries = FAULTS[name]
            rows.append(Row(name))
            for n in range(tries):
                attempt(rows[-1], fault, subject, flags.seed + 1000 * number + n)
    finally:
        if not flags.keep:
            shutil.rmtree(folder, ignore_errors=True)
    print(table(rows))
    return 0 if all(row.recovered == row.tries for row in rows) else 1


def table(rows: list[Row]) -> str:
    """Fault - tries - recovered - what was lost."""
    cells = [["fault", "tries", "recovered", "what was lost"]]
    for row in rows:
        lost = "; ".join(dict.fromkeys(row.lost))
        cells.append([row.fault, str(row.tries), str(row.recovered), lost])
    widths = [max(len(line[column]) for line in cells) for column in range(4)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) for line in cells)


if __name__ == "__main__":
    sys.exit(main())
