"""Layouts of the Hugging Face hub: a model folder, and the root of a cache with snapshots of models."""

import contextlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from misc.process.failures import reason_of
from misc.process.sniff import describe_file
from model.weights.shapes import bad_weights
from options import UserError

WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the first, if there are both
OPEN_CLIP_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
CONFIG, OPEN_CLIP_CONFIG = "config.json", "open_clip_config.json"
TOKENIZERS = ("tokenizer.json", "vocab.txt", "sentencepiece.bpe.model", "spiece.model", "tokenizer.model")
SMALL_FILES = ("*.json", "*.txt", "*.model")
ENDINGS = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")


def find_model(path: Path, model_types: Sequence[str], bad_folder: Callable[[str], UserError]) -> Path:
    """The folder with a model's `config.json`: `path`, or the current snapshot where it is a cache.

    Args:
        path: a model folder, the root of a cache with `models--ORG--NAME/snapshots/...` in it, or one of
            these `models--ORG--NAME`.
        model_types: only models of these types count in a cache.
        bad_folder: makes the error for a folder with this problem.

    Raises:
        UserError: no such model, or several.
    """
    if any((path / name).exists() for name in (CONFIG, OPEN_CLIP_CONFIG)):
        return path
    places = ("models--*/snapshots/*", "snapshots/*")
    snapshots = [folder for place in places for folder in sorted(path.glob(place))]
    found = [folder for folder in snapshots if _is_of_type(folder, model_types)]
    if len({folder.parents[1] for folder in found}) > 1:
        names = ", ".join(sorted({folder.parents[1].name for folder in found}))
        raise bad_folder(f"holds several models ({names}); give the snapshot folder of one")
    if not found:
        raise bad_folder(
            f"holds neither a config.json nor models--*/snapshots of a model of type "
            f"{' or '.join(map(repr, model_types))}"
            f"{_what_is_there(path)}"
        )
    return _current(found)


def _is_of_type(folder: Path, model_types: Sequence[str]) -> bool:
    if (folder / CONFIG).exists():
        return read_config(folder).get("model_type") in model_types
    return "clip" in model_types and (folder / OPEN_CLIP_CONFIG).exists()


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


def find_snapshot(hub_id: str, cache_dir: str | Path | None) -> Path:
    """The snapshot folder of a model of the hub, with its configuration, weights and tokenizer.

    A complete one in the cache is used without asking the hub; of another, what it lacks is downloaded.

    Raises:
        FileNotFoundError: files that the cache lacks, with no network; or none of these files on the hub.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.utils import LocalEntryNotFoundError

    missing = ["config.json"]
    with contextlib.suppress(LocalEntryNotFoundError):
        folder = Path(snapshot_download(hub_id, cache_dir=cache_dir, local_files_only=True))
        if not (missing := _missing_files(folder)):
            return folder
    try:  # one request without retries, which would take half a minute where there is no network
        names = [file.rfilename for file in HfApi().model_info(hub_id, timeout=5).siblings]
    except Exception as error:  # of the network, raised by several libraries in many ways
        raise FileNotFoundError(f"the cache lacks {', '.join(missing)}; {error}") from error
    weights = next((name for name in WEIGHTS if name in names or _index(name) in names), None)
    if weights is None:
        raise FileNotFoundError(f"the hub has neither {' nor '.join(WEIGHTS)} of it")
    stem, ending = os.path.splitext(weights)
    wanted = [*SMALL_FILES, weights if weights in names else f"{stem}-*{ending}"]
    return Path(snapshot_download(hub_id, cache_dir=cache_dir, allow_patterns=wanted))


def download_file(repository: str, names: Sequence[str], cache_dir: str | Path | None) -> Path:
    """The first of these files of a repository of the hub, from its cache or downloaded.

    Raises:
        UserError: not in the cache, and not to be downloaded.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    for name in names:
        cached = try_to_load_from_cache(repository, name, cache_dir=cache_dir)
        if isinstance(cached, str):
            return Path(cached)
    name = first_on_the_hub(repository, names, cache_dir)
    return Path(hf_hub_download(repository, name, cache_dir=cache_dir))


def first_on_the_hub(repository: str, names: Sequence[str], cache_dir: str | Path | None) -> str:
    """The first of the names that the hub has. Raises UserError: none, or no network."""
    from huggingface_hub import HfApi

    try:  # one request without retries, which would take half a minute where there is no network
        there = {file.rfilename for file in HfApi().model_info(repository, timeout=5).siblings}
        problem = "the hub has no such file"
    except Exception as error:  # of the network, raised by several libraries in many ways
        there, problem = set(), reason_of(error)[:120]
    if found := [name for name in names if name in there]:
        return found[0]
    cache = f" --cache-dir {cache_dir}" if cache_dir else ""
    raise UserError(
        f"model.backbone=open_clip: {' or '.join(names)} of '{repository}' is not in the hub's cache and "
        f"cannot be downloaded ({problem}); on a machine with a network: huggingface-cli download "
        f"{repository}{cache}"
    )


def cached_snapshot(hub_id: str, cache_dir: str | Path | None) -> Path | None:
    """The snapshot of a repository in the hub's cache. By its id, a tokenizer without a config.json beside it
    is not found there when the network is off.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, cache_dir=cache_dir, local_files_only=True))
    except (OSError, ValueError):  # not there, or no id
        return None


def _missing_files(folder: Path) -> list[str]:
    """What a snapshot in the cache lacks of a configuration, weights and a tokenizer."""
    missing = [] if (folder / CONFIG).exists() else [CONFIG]
    try:
        weight_files(folder)
    except UserError:
        missing.append(WEIGHTS[0])
    if not any((folder / name).exists() for name in TOKENIZERS):
        missing.append(TOKENIZERS[0])
    return missing


def _index(weights: str) -> str:
    return f"{weights}.index.json"


def _current(snapshots: list[Path]) -> Path:
    """The snapshot that refs/main names, or the newest."""
    reference = snapshots[0].parents[1] / "refs" / "main"
    if reference.exists():
        named = [folder for folder in snapshots if folder.name == reference.read_text().strip()]
        snapshots = named or snapshots
    return max(snapshots, key=lambda folder: folder.stat().st_mtime)
