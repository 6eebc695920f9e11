"""Layouts of the Hugging Face hub: a model folder, and the root of a cache with snapshots of models."""

import contextlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from misc.process.sniff import describe_file
from model.weights.shapes import bad_weights
from options import UserError

WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the first, if there are both
OPEN_CLIP_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
CONFIG, OPEN_CLIP_CONFIG = "config.json", "open_clip_config.json"
ENDINGS = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")


def find_model(path: Path, model_type: str, bad_folder: Callable[[str], UserError]) -> Path:
    """The folder with a model's `config.json`: `path`, or the current snapshot where it is a cache.

    Args:
        path: a model folder, the root of a cache with `models--ORG--NAME/snapshots/...` in it, or one of
            these `models--ORG--NAME`.
        model_type: only models of this type count in a cache.
        bad_folder: makes the error for a folder with this problem.

    Raises:
        UserError: no such model, or several.
    """
    if any((path / name).exists() for name in (CONFIG, OPEN_CLIP_CONFIG)):
        return path
    places = ("models--*/snapshots/*", "snapshots/*")
    snapshots = [folder for place in places for folder in sorted(path.glob(place))]
    found = [folder for folder in snapshots if _is_of_type(folder, model_type)]
    if len({folder.parents[1] for folder in found}) > 1:
        names = ", ".join(sorted({folder.parents[1].name for folder in found}))
        raise bad_folder(f"holds several models ({names}); give the snapshot folder of one")
    if not found:
        raise bad_folder(
            f"holds neither a config.json nor models--*/snapshots of a model of type '{model_type}'"
            f"{_what_is_there(path)}"
        )
    return _current(found)


def _is_of_type(folder: Path, model_type: str) -> bool:
    if (folder / CONFIG).exists():
        return read_config(folder).get("model_type") == model_type
    return model_type == "clip" and (folder / OPEN_CLIP_CONFIG).exists()


def is_of_open_clip(folder: Path) -> bool:
    """Whether a model folder is one of open_clip alone: those on the hub are often of transformers too."""
    has_theirs = any(os.path.lexists(folder / form) for name in WEIGHTS for form in (name, _index(name)))
    return (folder / OPEN_CLIP_CONFIG).exists() and not (has_theirs and (folder / CONFIG).exists())


def read_config(folder: Path, name: str = CONFIG) -> dict[str, Any]:
    """The content of a configuration; {} if it cannot be read."""
    try:
        config = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def weight_files(folder: Path, names: Sequence[str] = WEIGHTS) -> list[Path]:
    """The files with a model's tensors: one, or the shards that an index lists; safetensors first.

    Raises:
        UserError: no such file, an index that cannot be read, or a file that it lists and that is not there.
    """
    files = _listed_files(folder, names)
    if missing := [file for file in files if not file.exists()]:
        what = "is a link to nothing" if missing[0].is_symlink() else "does not exist"
        problem = f"lacks {len(missing)} of the {len(files)} files that its index lists: '{missing[0].name}'"
        raise bad_weights(folder, f"{problem} {what}; download it again")
    return files


def _listed_files(folder: Path, names: Sequence[str] = WEIGHTS) -> list[Path]:
    """The files of `weight_files`, which may be missing."""
    for name in names:
        index = folder / _index(name)
        if os.path.lexists(folder / name):
            return [folder / name]
        if index.exists():
            try:
                parts = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
                return [folder / part for part in sorted(parts)]
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                what = describe_file(index)
                problem = f"is not an index of weights: it is {what}, without a 'weight_map' of files"
                raise bad_weights(index, problem) from error
    raise bad_weights(folder, f"holds neither {' nor '.join(names)}{_what_is_there(folder)}")


def _what_is_there(folder: Path) -> str:
    """The files that may hold weights, for an error."""
    names = sorted(file.name for file in folder.iterdir() if file.suffix in ENDINGS)
    return f"; it has {', '.join(names[:4])}: give one of them" if names else ""


def download_weights(hub_id: str, cache_dir: str | Path | None) -> Path:
    """The snapshot folder of a model of the hub, with its weight files; cached files are not downloaded.

    Raises:
        FileNotFoundError: no weights there, or no network. Whatever else the hub's library raises.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import EntryNotFoundError

    for name in (form for weights in WEIGHTS for form in (weights, _index(weights))):
        with contextlib.suppress(EntryNotFoundError):
            folder = Path(hf_hub_download(hub_id, name, cache_dir=cache_dir)).parent
            for file in _listed_files(folder):
                hf_hub_download(hub_id, file.name, cache_dir=cache_dir)
            return folder
    raise FileNotFoundError(f"the hub has neither {' nor '.join(WEIGHTS)}, or there is no network")


def _index(weights: str) -> str:
    return f"{weights}.index.json"


def _current(snapshots: list[Path]) -> Path:
    """The snapshot that refs/main names, or the newest."""
    reference = snapshots[0].parents[1] / "refs" / "main"
    if reference.exists():
        named = [folder for folder in snapshots if folder.name == reference.read_text().strip()]
        snapshots = named or snapshots
    return max(snapshots, key=lambda folder: folder.stat().st_mtime)
