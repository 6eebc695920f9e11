"""The layouts of Hugging Face's hub: a model folder, and the root of a cache with snapshots of models."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from options import UserError


def find_model(path: Path, model_type: str, complain: Callable[[str], UserError]) -> Path:
    """The folder with a model's `config.json`: `path`, or the current snapshot where it is a cache.

    Args:
        path: a model folder, the root of a cache with `models--ORG--NAME/snapshots/...` in it, or one of
            these `models--ORG--NAME`.
        model_type: of the models that count in a cache.
        complain: makes the error for a folder with this problem.

    Raises:
        UserError: no such model, or several.
    """
    if (path / "config.json").exists():
        return path
    places = ("models--*/snapshots/*/config.json", "snapshots/*/config.json")
    snapshots = [config.parent for place in places for config in sorted(path.glob(place))]
    found = [folder for folder in snapshots if read_config(folder).get("model_type") == model_type]
    if len({folder.parents[1] for folder in found}) > 1:
        names = ", ".join(sorted({folder.parents[1].name for folder in found}))
        raise complain(f"holds several models ({names}); name the snapshot folder of one")
    if not found:
        raise complain(
            f"holds neither a config.json nor models--*/snapshots of a model of type '{model_type}'"
        )
    return _current(found)


def read_config(folder: Path) -> dict[str, Any]:
    """The content of `config.json`; nothing where it cannot be read."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def _current(snapshots: list[Path]) -> Path:
    """The snapshot that refs/main names, or the newest."""
    reference = snapshots[0].parents[1] / "refs" / "main"
    if reference.exists():
        named = [folder for folder in snapshots if folder.name == reference.read_text().strip()]
        snapshots = named or snapshots
    return max(snapshots, key=lambda folder: folder.stat().st_mtime)
