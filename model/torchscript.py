"""Reads the weights out of a TorchScript archive, OpenAI's format, with nothing in it executed.

The archive is a zip: `NAME/data.pkl` pickles a tree of modules, `NAME/data/KEY` holds a tensor's numbers.
`torch.jit.load` would compile the code beside them; here a restricted unpickler rebuilds the tensors and
takes modules for bags of fields. Every other global in the pickle is refused.
"""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

DTYPES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
}


def is_torchscript(path: Path) -> bool:
    """Whether the file is a zip with TorchScript's table of constants, which `torch.save` does not write."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """Parameters and buffers by their dotted names, in the types they are stored in.

    Raises:
        pickle.UnpicklingError: the pickle names a global that weights do not need ("GLOBAL module.name").
        Exception: of whatever kind the zip and pickle modules raise on a damaged file.
    """
    with zipfile.ZipFile(path) as archive:
        pickles = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
        root = _WeightsUnpickler(archive, pickles[0]).load()
    tensors: dict[str, Tensor] = {}
    _collect(root, "", tensors)
    return tensors


class _Module:
    """Stands in for any TorchScript module: its fields are tensors, submodules and plain attributes."""

    fields: dict[str, Any]

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.fields = state


def _collect(module: _Module, prefix: str, tensors: dict[str, Tensor]) -> None:
    for name, value in module.fields.items():
        if isinstance(value, Tensor):
            tensors[prefix + name] = value
        elif isinstance(value, _Module):
            _collect(value, f"{prefix}{name}.", tensors)


class _WeightsUnpickler(pickle.Unpickler):
    """Calls nothing but its own three methods, whatever the pickle asks for."""

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        super().__init__(io.BytesIO(archive.read(name)))
        self.archive, self.folder = archive, name.removesuffix("data.pkl") + "data/"

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return _Module
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self.rebuild_tensor
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if module == "torch.jit._pickle":
            return self.first
        raise pickle.UnpicklingError(f"GLOBAL {module}.{name} is refused")

    def persistent_load(self, pid: tuple[str, torch.dtype, str, str, int]) -> Tensor:
        """The whole storage that the pickle refers to, as a flat tensor."""
        _, dtype, key, _, _ = pid
        return torch.frombuffer(bytearray(self.archive.read(self.folder + key)), dtype=dtype)

    def rebuild_tensor(
        self, storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object
    ) -> Tensor:
        """A view of the storage; torch refuses one that reaches beyond its end."""
        return storage.as_strided(size, stride, offset)

    def first(self, value: Any, *_: object) -> Any:
        """What TorchScript's typed lists and type tags wrap: no weights, so their type does not matter."""
        return value
