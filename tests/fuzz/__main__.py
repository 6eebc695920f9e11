"""Feed the programs hostile inputs: python -m tests.fuzz [--inputs 2000] [--processes 50] [--seed 0]

Every input ends with exit status 0, or with 2 and one line `error: ...` on stderr (data.check also with 1).
Anything else is a fault: a traceback, a hang, a file outside the output folder. Prints a row for each kind,
then the faults; the exit status is 1 if there are any.
"""

import argparse
import math
import os
import re
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
from tqdm import tqdm

from tests.fuzz.goods import make_goods
from tests.fuzz.guard import run_case
from tests.fuzz.kinds import SHARES, draw_cases, strategies

NUMBER = re.compile(r"0x[0-9a-f]+|\d+|fuzz-\w+")  # faults that differ only in these count as the same


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=2000, help="inputs run in this process (2000)")
    parser.add_argument("--processes", type=int, default=50, help="inputs run as processes of their own (50)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=list(SHARES), metavar="KIND")
    parser.add_argument("--good", type=Path, help="folder of the good inputs, created if missing")
    return parser.parse_args()


def run_all(flags: argparse.Namespace, good: Path) -> int:
    """Run every kind; returns the number of faults."""
    rows: dict[str, Counter[str]] = {}
    faults: dict[str, list[str]] = {}
    shares = {kind: SHARES[kind] for kind in flags.only}
    for as_process, total in ((False, flags.inputs), (True, flags.processes)):
        for kind, strategy in strategies(good).items():
            if kind not in shares or not total:
                continue
            count = math.ceil(total * shares[kind] / sum(shares.values()))
            name = f"{kind}, processes" if as_process else kind
            row, started = rows.setdefault(name, Counter()), time.monotonic()
            cases = draw_cases(strategy, count, flags.seed + as_process)
            for case in tqdm(cases, desc=name, disable=not sys.stderr.isatty()):
                outcome = run_case(case, good, as_process)
                row["inputs"] += 1
                row[f"status {outcome.status}"] += 1
                row["faults"] += bool(outcome.faults)
                for fault in outcome.faults:
                    faults.setdefault(NUMBER.sub("0", fault[:160]), []).append(f"{name}: {case}\n    {fault}")
            row["seconds"] = round(time.monotonic() - started)
    print_table(rows)
    for same in sorted(faults.values(), key=len, reverse=True):
        print(f"\n{len(same)} x {same[0]!s:.4000}")
    return len(faults)


def print_table(rows: dict[str, Counter[str]]) -> None:
    """A row for each kind, and the total."""
    columns = ("inputs", "status 0", "status 1", "status 2", "faults", "seconds")
    print(f"{'kind':28}" + "".join(f"{column:>10}" for column in columns))
    for name, row in {**rows, "all": sum(rows.values(), Counter())}.items():
        print(f"{name:28}" + "".join(f"{row[column]:10,}" for column in columns))


def main() -> int:
    """Run the command line; returns the exit status: 0, or 1 if there were faults."""
    flags = parse()
    os.environ["HF_HUB_OFFLINE"] = "1"  # read on import of the library
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="fuzz-good-") as folder:
        good = (flags.good or Path(folder)).resolve()
        if not (good / "run").exists():
            good.mkdir(parents=True, exist_ok=True)
            make_goods(good)
        return min(1, run_all(flags, good))


if __name__ == "__main__":
    sys.exit(main())
