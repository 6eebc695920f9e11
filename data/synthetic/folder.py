"""The folder of a set: its manifest tells what is in it, and which files of an earlier set may go."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from options import UserError

MANIFEST = "synthetic.json"
GENERATOR = "data.synthetic"


def claim(out: Path, wanted: dict[str, Any], owned: Iterable[str]) -> None:
    """Make the folder `out`, remove the files of an earlier set, and note which set is being written.

    Args:
        owned: the files that a set has, as patterns below `out`; no other file is removed.

    Raises:
        UserError: `out` holds other files, or another kind of set, or is not a folder.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--out: expected a folder, found the file '{out}'; name another place")
    if out.exists() and any(out.iterdir()):
        earlier = read_manifest(out)
        if earlier is None:
            raise UserError(
                f"--out: '{out}' holds files but no synthetic set (its {MANIFEST}); "
                "name an empty or new folder"
            )
        if ("scenes" in earlier) != ("scenes" in wanted):
            kind = "scenes" if "scenes" in earlier else "images of single persons"
            raise UserError(f"--out: '{out}' holds a set of {kind}; name another folder")
        for pattern in owned:
            for file in out.glob(pattern):
                file.unlink()
    out.mkdir(parents=True, exist_ok=True)
    (out / MANIFEST).write_text(json.dumps(manifest(wanted, False)))


def complete(out: Path, wanted: dict[str, Any]) -> None:
    """Note that all files of a set are there."""
    (out / MANIFEST).write_text(json.dumps(manifest(wanted, True), indent=1) + "\n")


def manifest(wanted: dict[str, Any], is_complete: bool) -> dict[str, Any]:
    """The content of the manifest of a set with these parameters."""
    return {"generator": GENERATOR, **wanted, "complete": is_complete}


def read_manifest(out: Path) -> dict[str, Any] | None:
    """The manifest of the synthetic set in `out`, or None."""
    found = read_json(out / MANIFEST)
    return found if isinstance(found, dict) and found.get("generator") == GENERATOR else None


def read_json(path: Path) -> object:
    """The content of the file, or None if it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
