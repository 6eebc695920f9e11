"""The output of a benchmark: its table, its JSON, and the comparison of two runs."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from options import UserError

Row = Mapping[str, Any]  # JSON
COLUMNS = (
    *(("part", 20), ("seconds", 9), ("throughput", 22), ("peak memory", 13), ("beyond weights", 15)),
    *(("FLOP each", 11), ("of peak", 9), ("nominal", 9), ("matmul peak", 16), ("", 0)),
)
COMPARED = (("part", 20), ("before", 12), ("now", 12), ("ratio", 8), ("by peaks", 10), ("memory", 8), ("", 0))


def header(columns: Sequence[tuple[str, int]] = COLUMNS) -> str:
    """The first line of a table: text is aligned left, numbers right."""
    return _line([name for name, _ in columns], columns)


def table_row(name: str, row: Row) -> str:
    """The line of a part that was measured, was skipped or failed."""
    if "items" not in row:
        return f"{name:20}{row['why']}"
    cells = [
        name,
        f"{row['seconds']:.4g}",
        f"{row['throughput']:.4g} {row['unit']}/s",
        _scaled(row["peak_memory"], 1e9, "GB"),
        _scaled(row["beyond_memory"], 1e9, "GB"),
        _scaled(row["flops_per_item"], 1e9, "G"),
        _scaled(row["peak_share"], 0.01, "%"),
        _scaled(row["nominal_peak_share"], 0.01, "%"),
        _scaled(row["matmul_peak"], 1e9, "GFLOP/s"),
        row["note"],
    ]
    return _line(cells, COLUMNS)


def _scaled(value: float | None, by: float, unit: str) -> str:
    return "-" if value is None else f"{value / by:.{1 if abs(value / by) >= 10 else 3}f} {unit}"


def _line(cells: Sequence[str], columns: Sequence[tuple[str, int]]) -> str:
    first, *middle, last = zip(cells, columns, strict=True)
    return f"{first[0]:{first[1][1]}}" + "".join(f"{cell:>{w}}" for cell, (_, w) in middle) + f"  {last[0]}"


def write_report(path: Path, machine: Row, settings: Row, parts: Mapping[str, Row]) -> None:
    """Save the results so far: {"machine": ..., "settings": ..., "parts": {name: row of `measure`}}."""
    report = {"machine": machine, "settings": settings, "parts": parts}
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False, default=str) + "\n", encoding="utf-8")


def read_report(path: Path) -> dict[str, Any]:
    """What `write_report` wrote; the baselines of older reports, "plain.", get their present names. Raises
    UserError for no such file, or another kind of file.
    """
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"--compare: expected the --out of an earlier run, found '{path}', which is not readable as JSON "
            f"({error})"
        ) from error
    if not isinstance(report, dict) or not isinstance(report.get("parts"), dict):
        raise UserError(f"--compare: expected the --out of an earlier run, found other JSON in '{path}'")
    current = {name.replace("plain.", "baseline.", 1): row for name, row in report["parts"].items()}
    return report | {"parts": current}


def comparison(before: Mapping[str, Row], now: Mapping[str, Row]) -> list[str]:
    """The lines of a table that compares throughput with an earlier report, for the parts in both.

    The ratio is now / before; "by peaks" divides each by the matrix-multiply peak measured beside it, which
    cancels the load of the machine; memory: now / before, of a training step that beyond model and optimiser.
    """
    lines = [header(COMPARED)]
    for name, new in now.items():
        old = before.get(name, {})
        if "items" not in old or "items" not in new:
            continue
        ratio = new["throughput"] / old["throughput"]
        memory = None
        for key in ("peak_memory", "beyond_memory"):
            if new[key] and old[key]:
                memory = new[key] / old[key]
        same = all(old[key] == new[key] for key in ("items", "unit", "precision", "flops_per_item"))
        cells = [
            name,
            f"{old['throughput']:.4g}",
            f"{new['throughput']:.4g}",
            f"{ratio:.3f}",
            f"{ratio * old['matmul_peak'] / new['matmul_peak']:.3f}",
            "-" if memory is None else f"{memory:.3f}",
            f"{new['unit']}/s" if same else f"{new['unit']}/s, different work",
        ]
        lines.append(_line(cells, COMPARED))
    return lines
