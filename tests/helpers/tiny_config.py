"""The configuration of a run that is over in a moment, for the tests, the drill and the fuzzing."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

MODEL = {"clip_pretrained": None, "lock_patch_embedding": False, "patch_size": 16, "image_layers": 1}
MODEL |= {"image_heads": 2, "text_layers": 1, "text_heads": 2}


def write_config(path: Path, people: Path, width: int, **changes: Mapping[str, Any]) -> Path:
    """Write the simplified recipe for towers and an embedding of `width`, on rendered `people`.

    Args:
        changes: {section: {option: value}}, over or beside what stands here.
    """
    data = {"annotation_file": str(people), "image_root": str(people / "imgs"), "image_size": [64, 32]}
    options: dict[str, Any] = {
        "misc": {"device": "cpu"},
        "schedule": {"lr": 1e-3},
        "model": MODEL | dict.fromkeys(("image_width", "text_width", "embed_dim"), width),
        "data": data | {"test_batch_size": 32, "num_workers": 0},
        "log": {"print_period": 2},
    }
    for section, values in changes.items():
        options[section] = options.get(section, {}) | dict(values)
    base = Path(__file__).parents[2] / "config" / "s.config.yaml"
    path.write_text(yaml.safe_dump({"base": str(base), **options}), encoding="utf-8")
    return path


def without_val(people: Path, copy: Path) -> list[str]:
    """The options of a copy of `people` that has no val split."""
    shutil.copytree(people, copy)
    for path in copy.glob("val_*"):
        path.unlink()
    return [f"data.annotation_file={copy}", f"data.image_root={copy}/imgs"]


def write_tiny(path: Path, people: Path, out: Path) -> Path:
    """Write the configuration of two epochs into the folder `out`."""
    changes = {"schedule": {"epoch": 2}, "data": {"batch_size": 16}, "output": {"dir": str(out)}}
    return write_config(path, people, width=16, **changes)
