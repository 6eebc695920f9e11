"""What programs wrap around a state dict: entries of a file, and parts of the tensors' names."""

import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from model.weights.shapes import bad_weights

logger = logging.getLogger(__name__)
# The usual names of the entry with the weights, the first one first; averages of weights come last of all.
USUAL = ("model", "state_dict", "model_state_dict", "module", "net", "network", "weights", "params")
AVERAGE = re.compile(r"ema(?![a-z])|average|avg|shadow|swa|teacher|momentum")
MAX_DEPTH = 3  # of entries in entries
# What wrappers of modules add anywhere in a name: torch.compile, DistributedDataParallel and its relatives.
PARTS = {
    *("_orig_mod", "module", "_module", "_forward_module"),
    *("_fsdp_wrapped_module", "_fpw_module", "_checkpoint_wrapped_module"),
}
TOWER = re.compile(r"((?:[^.]+\.)*?)(?:visual|vision_model)\.")  # with what stands before it


def find_state_dict(path: Path, content: Mapping[str, Any], again: bool = False) -> Mapping[str, Any] | None:
    """The state dict among the entries of a file; None where the file is one itself. Of several, the first by
    `USUAL`; the others, which are other weights, are named in a warning unless they were named before.
    """
    if _has_dotted_tensors(content):
        return None
    found = _state_dicts(content, "", MAX_DEPTH)
    if not found:
        return next((content[name] for name in USUAL if isinstance(content.get(name), dict)), None)
    taken, *others = sorted(found, key=_preference)
    if others and not again:
        logger.warning(
            "weights '%s': its entry '%s' is used; not used: %s. To use another, save it in a file by itself",
            *(path, taken, ", ".join(f"'{name}'" for name in others)),
        )
    return found[taken]


def _state_dicts(content: Mapping[str, Any], prefix: str, depth: int) -> dict[str, Mapping[str, Any]]:
    """The entries that hold tensors under dotted names, by their own dotted names."""
    found = {}
    for key, value in content.items():
        if not isinstance(value, dict):
            continue
        if _has_dotted_tensors(value):
            found[f"{prefix}{key}"] = value
        elif depth > 1:
            found |= _state_dicts(value, f"{prefix}{key}.", depth - 1)
    return found


def _has_dotted_tensors(entries: Mapping[str, Any]) -> bool:
    return any(isinstance(tensor, Tensor) and "." in str(name) for name, tensor in entries.items())


def _preference(name: str) -> tuple[bool, int]:
    first = name.split(".")[0]
    return bool(AVERAGE.search(name.lower())), USUAL.index(first) if first in USUAL else len(USUAL)


def without_wrappers(name: str) -> str:
    """The name without the parts that wrappers of modules add."""
    return ".".join(part for part in name.split(".") if part not in PARTS)


def plain_names(path: Path, names: Iterable[str], again: bool = False) -> dict[str, str]:
    """{name in the file: name without what wrappers add}: their parts anywhere, and before the towers any
    prefix. What is removed is logged, unless it was logged before.

    Raises:
        UserError: there are towers under several prefixes, so several models.
    """
    plain = {name: without_wrappers(name) for name in names}
    prefixes = sorted({match[1] for name in plain.values() if (match := TOWER.match(name))})
    if len(prefixes) > 1:
        listed = ", ".join(f"'{prefix}'" for prefix in prefixes)
        raise bad_weights(path, f"holds several models, whose names begin with {listed}; save one alone")
    prefix = prefixes[0] if prefixes else ""
    removed = sorted({part for name in plain for part in name.split(".") if part in PARTS})
    if prefix not in ("", "clip."):  # the names in our own checkpoints
        removed.append(prefix.removesuffix("."))
    if removed and not again:
        logger.info("%s: removed from the names of its tensors: %s", path, ", ".join(removed))
    outer = prefix[: prefix.rstrip(".").rfind(".") + 1]  # heads stand beside the module with the towers
    return {name: short.removeprefix(prefix).removeprefix(outer) for name, short in plain.items()}
