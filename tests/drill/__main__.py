"""The fault drill: `make drill`, or python -m tests.drill.

A small run of two processes on rendered persons is made once undisturbed. Then each fault is injected into
the same run by real means (signals, a full file system, damaged files), the same command resumes it, and its
outcome is compared with the undisturbed run bit for bit: weights, optimizer, random states, log and figures.
"""

import argparse
import contextlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.drill.faults import FAULTS, Fault
from tests.drill.subject import NoFaultError, Subject

MAX_ATTEMPTS = 5  # of one try, as long as the fault does not happen


@dataclass
class Row:
    """A line of the table."""

    fault: str
    tries: int = 0
    recovered: int = 0
    lost: list[str] = field(default_factory=list)


def inject(fault: Fault, subject: Subject, rng: random.Random) -> str:
    """Inject a fault into a fresh run, again if it did not happen; raises NoFaultError if it never does."""
    for _ in range(MAX_ATTEMPTS - 1):
        with contextlib.suppress(NoFaultError):
            subject.clean()
            return fault(subject, rng)
    subject.clean()
    return fault(subject, rng)


def attempt(row: Row, fault: Fault, subject: Subject, seed: int) -> None:
    """Inject a fault into a fresh run, and compare its outcome with the undisturbed one."""
    row.tries += 1
    began = time.monotonic()
    try:
        lost = inject(fault, subject, random.Random(seed))
        difference = subject.difference()
    except (AssertionError, NoFaultError, OSError, subprocess.SubprocessError) as error:
        subject.kill_all()
        lost, difference = "", str(error) or repr(error)
    row.recovered += not difference
    row.lost.append(lost if not difference else f"FAILED: {difference}")
    print(f"{row.fault}, {time.monotonic() - began:.0f} s: {row.lost[-1]}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, or 1 if the run did not recover from a fault."""
    parser = argparse.ArgumentParser(prog="python -m tests.drill", description=__doc__)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the moments of the faults")
    parser.add_argument("--only", nargs="+", choices=FAULTS, default=list(FAULTS), help="only these faults")
    parser.add_argument("--tries", type=int, help="of each fault; default: as many as its row says")
    parser.add_argument("--keep", action="store_true", help="keep the folder of the runs")
    flags = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="drill-"))
    print(f"seed {flags.seed}, runs in {folder}", flush=True)
    rows = []
    try:
        subject = Subject(folder)
        for number, name in enumerate(flags.only):
            fault, tries = FAULTS[name]
            rows.append(Row(name))
            for n in range(flags.tries or tries):
                attempt(rows[-1], fault, subject, flags.seed + 1000 * number + n)
    finally:
        if not flags.keep:
            shutil.rmtree(folder, ignore_errors=True)
    print(table(rows))
    return 0 if all(row.recovered == row.tries for row in rows) else 1


def table(rows: list[Row]) -> str:
    """The columns fault, tries, recovered, what was lost."""
    cells = [["fault", "tries", "recovered", "what was lost"]]
    for row in rows:
        lost = "; ".join(dict.fromkeys(row.lost))
        cells.append([row.fault, str(row.tries), str(row.recovered), lost])
    widths = [max(len(line[column]) for line in cells) for column in range(4)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) for line in cells)


if __name__ == "__main__":
    sys.exit(main())
