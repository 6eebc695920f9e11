"""Checkpoints and weights in every container, with damaged bytes or with entries replaced."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor

from model.weights.pickles import read_pickled
from tests.fuzz.cases import Case, Made
from tests.fuzz.wild import damaged_file, scalars, texts

CONTAINERS = (
    *("run/checkpoint_last.pth", "archive.pt", "plain.pt", "old.pt", "released.pth"),
    "safetensors/model.safetensors",
)
SPLICED = ("run/checkpoint_last.pth", "run/checkpoint_last.pth", "plain.pt", "released.pth")
FOLDER = ("config.json", "model.safetensors")
CONFIG = ("--config", "@GOOD/config.yaml", "--output-dir", "@BOX/out")
USES: dict[str, tuple[str, tuple[str, ...]]] = {
    "evaluate": ("main", (*CONFIG, "--evaluate", "@BOX/weights")),
    "resume": ("main", (*CONFIG, "--resume", "@BOX/weights", "schedule.epoch=2")),
    "auto": ("main", (*CONFIG, "--resume", "auto", "schedule.epoch=2")),
    "pretrained": ("main", (*CONFIG, "model.clip_pretrained=@BOX/weights", "schedule.epoch=1")),
    "export": ("misc.export", ("@BOX/weights", "@BOX/out/exported", "--format", "safetensors")),
    "index": ("misc.search", ("index", "@BOX/weights", "@GOOD/images", "--out", "@BOX/out/index")),
    "query": ("misc.search", ("query", "@GOOD/index", "a man", "--checkpoint", "@BOX/weights")),
}
Change = tuple[str, int, Any]  # its kind, a number that selects the entry, the value
SHAPES = ((), (0,), (1,), (8,), (8, 8), (1, 8), (3, 2, 1), (10**6,), (0, 10**9))
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.uint8)


@st.composite
def weight_cases(draw: DrawFn, good: Path) -> Case:
    """A damaged, spliced or strange file of weights, used in one of the ways that read weights."""
    kind = draw(st.sampled_from(("damaged", "damaged", "damaged", "spliced", "spliced", "folder", "strange")))
    use = draw(st.sampled_from(("evaluate", "evaluate", "resume", *USES)))
    program, arguments = USES[use]
    name = "out/checkpoint_last.pth" if use == "auto" else "weights"
    if kind == "damaged":
        container = draw(st.sampled_from(CONTAINERS))
        size = (good / container).stat().st_size
        files: dict[str, Any] = {name: draw(damaged_file(container, size))}
    elif kind == "spliced":
        container = draw(st.sampled_from(SPLICED))
        changes = draw(st.lists(_change(), min_size=1, max_size=3))
        form = draw(st.sampled_from(("zip", "zip", "old", "safetensors")))
        files = {name: Made(f"{container} as {form} with {changes}", _splicer(container, form, changes))}
    elif kind == "folder":
        name = f"{name}/" if use != "auto" else "out/checkpoint_last.pth/"
        files = {name + part: (good / "huggingface" / part).read_bytes() for part in FOLDER}
        part = draw(st.sampled_from(FOLDER))
        files[name + part] = draw(damaged_file(f"huggingface/{part}", len(files[name + part])))
    else:
        files = {name: draw(st.one_of(st.binary(max_size=100), st.sampled_from(STRANGE)))}
    return Case(program, arguments, files)


STRANGE = (
    *(b"", b"PK\x05\x06" + bytes(18), b"\x80\x02.", b"\x80\x04N.", b"{" * 20, bytes(8) + b"{}"),
    *(b"\x02" + bytes(7) + b"{}", b"\xff" * 8 + b"{}", b"(" * 100_000 + b".", b"I" + b"9" * 5000 + b"\n."),
    b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b".",
    b"cos\nsystem\n(S'touch @BOX/harm'\ntR.",
    b"\x80\x02cbuiltins\neval\nq\x00X\x01\x00\x00\x001\x85R.",
    *(b"\x8c\x01a\x94\x93.", b"\x80\x04\x8a\xff" + b"\xff" * 255 + b".", b"\x80\x04B\xff\xff\xff\x7fx."),
    b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7fx.",
)


def _change() -> st.SearchStrategy[Change]:
    fills = st.sampled_from((0.0, 1.0, float("nan"), float("inf"), 1e30))
    tensors = st.builds(_Tensor, st.sampled_from(SHAPES), st.sampled_from(DTYPES), fills)
    holders = ([], {}, (), [[]], {"a": {}}, {1: 2}, {"model": 3}, [1, 2], {"image_size": ["x", {}]})
    kinds = st.sampled_from(("set", "set", "set", "drop", "rename", "add"))
    values = st.one_of(scalars(), tensors, st.sampled_from(holders), texts())
    return st.tuples(kinds, st.integers(0, 10**6), values)


@dataclass(frozen=True)
class _Tensor:
    """The description of a tensor, so that a case prints short."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    fill: float

    def tensor(self) -> Tensor:
        fill = self.fill if self.dtype.is_floating_point else 1
        return torch.full(self.shape, fill, dtype=self.dtype)


def _splicer(container: str, form: str, changes: list[Change]) -> Callable[[Path, Path], object]:
    def write(path: Path, good: Path) -> None:
        content = read_pickled(good / container)
        for kind, number, value in changes:
            value = value.tensor() if isinstance(value, _Tensor) else value
            _apply(content, kind, number, value)
        _save(content, form, path)

    return write


def _apply(content: Any, kind: str, number: int, value: Any) -> None:
    """Change an entry; `number` selects both its depth and its key."""
    holder = content
    for _ in range(number % 4):
        inner = list(holder.values()) if isinstance(holder, dict) else holder
        inner = [item for item in inner if isinstance(item, dict | list) and item]
        if not inner:
            break
        holder = inner[number // 7 % len(inner)]
    keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
    if not keys:
        return
    key = keys[number // 3 % len(keys)]
    if kind == "set":
        holder[key] = value
    elif kind == "drop":
        del holder[key]
    elif isinstance(holder, dict):
        holder[str(value)[:50]] = holder.pop(key) if kind == "rename" else value


def _save(content: Any, form: str, path: Path) -> None:
    if form == "safetensors":
        is_dict = isinstance(content, dict)
        model = content.get("model", content) if is_dict else {}
        tensors = {
            str(name).encode("utf-8", "replace").decode(): tensor.contiguous().clone()
            for name, tensor in (model.items() if isinstance(model, dict) else ())
            if isinstance(tensor, Tensor)
        }
        options = repr(content.get("options") if is_dict else None).replace("'", '"')
        safetensors.torch.save_file(tensors, path, metadata={"options": options})
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
