"""What stands in for the objects of a pickle: tensors for tensors, plain dicts and numbers for theirs, and an
object that does nothing for what says nothing about weights. Whatever else a pickle asks for is refused.
"""

import copy
import math
import pickle
import re
import sys
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

DTYPES = {
    "FloatStorage": torch.float32, "HalfStorage": torch.float16, "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}  # fmt: skip
# Harmless objects that programs save beside weights, such as their arguments: `Inert` stands in for them.
HARMLESS = {
    "argparse": "Namespace",
    "builtins": "bool bytearray bytes complex dict float frozenset int list object range set slice str tuple"
    " Ellipsis",
    "collections": "Counter deque",
    "copyreg": "_reconstructor",
    "datetime": "date datetime time timedelta timezone",
    "decimal": "Decimal",
    "fractions": "Fraction",
    "numpy": "bool bool_ float16 float32 float64 int16 int32 int64 int8 ndarray str_ uint16 uint32 uint8",
    "numpy._core.multiarray": "_reconstruct",
    "numpy._core.numeric": "_frombuffer",
    "numpy.core.multiarray": "_reconstruct",
    "numpy.core.numeric": "_frombuffer",
    "deepspeed.utils.tensor_fragment": "fragment_address",
    "pathlib": "Path PosixPath PurePath PurePosixPath PureWindowsPath WindowsPath",
    "random": "Random",
    "torch": "Size Tensor device strided contiguous_format channels_last preserve_format",
    "torch.serialization": "_get_layout",
    "torch.torch_version": "TorchVersion",
    "time": "struct_time",
    "types": "SimpleNamespace",
    "typing": "Any Dict List Mapping Optional Sequence Tuple Union",
    "uuid": "UUID",
}
HARMLESS["__builtin__"] = HARMLESS["builtins"] + " long unicode xrange"  # Python 2's name, in protocol 2
HARMLESS["copy_reg"] = HARMLESS["copyreg"]
HARMLESS["pathlib._local"] = HARMLESS["pathlib"]  # since Python 3.13
# numpy's random generators, whose names changed with its versions, and its types; pickled optimisers.
HARMLESS_NAMES = re.compile(
    r"numpy\.random\.(_\w+|bit_generator|mtrand)\.\w+|numpy\.dtypes\.\w+DType"
    r"|torch\.(optim|amp|cuda\.amp)(\.\w+)*\.[A-Z]\w*"
)
# The packages whose functions and classes a malicious file would use.
KNOWN_PACKAGES = {*sys.stdlib_module_names, *("__builtin__", "copy_reg", "torch", "numpy", "torchvision")}


class RefusedError(pickle.UnpicklingError):
    """A pickle names a global that no weights need."""


class Items(dict):
    """Stands in for OrderedDict, EasyDict and defaultdict: neither their attributes nor a default say
    anything that their items do not. Copied, it is a plain dict.
    """

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(rows for rows in arguments if isinstance(rows, list | dict)))

    def __setstate__(self, state: object) -> None:
        pass

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[Any, Any]:
        return {key: copy.deepcopy(value, memo) for key, value in self.items()}


class Module(dict):
    """Stands in for any TorchScript module: its fields are tensors, submodules and plain attributes."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.update(state)


class Inert:
    """Stands in for an object that says nothing about weights; it keeps nothing that it is given."""

    def __new__(cls, *_: object, **__: object) -> "Inert":
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def append(self, value: object) -> None:
        pass

    extend = add = append

    def __deepcopy__(self, _: dict[int, Any]) -> "Inert":
        return self


class _Number:
    """Stands in for numpy's dtype: "f8" and its like, and the order of the bytes."""

    def __init__(self, kind: str, *_: object) -> None:
        self.kind, self.order = kind, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]

    def __deepcopy__(self, _: dict[int, Any]) -> "_Number":
        return self


class Storage(NamedTuple):
    """Stands in for a storage: all of its numbers."""

    flat: Tensor


class View(NamedTuple):
    """Stands in for a tensor while the pickle is read, which could give a tensor another state: torch before
    2.6 lets it look beyond its storage then. Copied, it is the tensor.
    """

    tensor: Tensor

    def __deepcopy__(self, _: dict[int, Any]) -> Tensor:
        return self.tensor


class _Calls:
    """What pickles may call. They are methods, for a pickle could set the defaults of a function; and not the
    unpickler's, whose memory would hold itself for good.
    """

    def rebuild_tensor(
        self, storage: Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object
    ) -> View:
        """A view of the storage. torch's own check of its bounds overflows before 2.6."""
        count, available = math.prod(size), storage.flat.numel()
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if min((offset, *size, *stride)) < 0 or count > available or (count and last >= available):
            raise pickle.UnpicklingError("a tensor is larger than its numbers")
        return View(storage.flat.as_strided(size, stride, offset))

    def rebuild_typed(self, _: object, __: object, arguments: tuple[Any, ...], *___: object) -> View:
        """A tensor with attributes, without them."""
        return self.rebuild_tensor(*arguments)

    def first(self, value: Any, *_: object) -> Any:
        """The tensor in a parameter, the list in TorchScript's typed ones: their type does not matter."""
        return value

    def number(self, dtype: _Number, raw: bytes) -> Any:
        """A numpy scalar as a plain number."""
        return np.frombuffer(raw, dtype.order + dtype.kind).item()

    def encode(self, text: str, _: str) -> bytes:
        """Bytes, which the second protocol of pickle writes as the text of these characters."""
        return text.encode("latin1")


CALLS = _Calls()
KNOWN = {
    "collections.OrderedDict": Items,
    "collections.defaultdict": Items,
    "easydict.EasyDict": Items,
    "torch._utils._rebuild_tensor_v2": CALLS.rebuild_tensor,
    "torch._utils._rebuild_parameter": CALLS.first,
    "torch._utils._rebuild_parameter_with_state": CALLS.first,
    "torch._tensor._rebuild_from_type_v2": CALLS.rebuild_typed,
    "numpy.dtype": _Number,
    "numpy.core.multiarray.scalar": CALLS.number,
    "numpy._core.multiarray.scalar": CALLS.number,  # since numpy 2
    "_codecs.encode": CALLS.encode,
} | {f"torch.{name}": dtype for name, dtype in DTYPES.items()}
KNOWN |= {f"{module}.{name}": Inert for module, names in HARMLESS.items() for name in names.split()}
KNOWN |= {str(value): Inert for value in vars(torch).values() if isinstance(value, torch.dtype)}


def stand_in(module: str, name: str) -> Any:
    """What stands in for a global of a pickle, by its name alone: nothing is imported.

    Raises:
        RefusedError: nothing does.
    """
    full = f"{module}.{name}"
    if module.startswith("__torch__"):
        return Module
    if module == "torch.jit._pickle":
        return CALLS.first
    if full in KNOWN:
        return KNOWN[full]
    if HARMLESS_NAMES.fullmatch(full) or _is_class_of_a_project(module, name):
        return Inert
    is_model = module.startswith("torch.nn.")
    advice = "; it holds a pickled model, where the model's state_dict() is expected" if is_model else ""
    raise RefusedError(f"it asks for '{full}', which no weights need{advice}")


def _is_class_of_a_project(module: str, name: str) -> bool:
    """Whether a global looks like a class of some project's own, such as that of its configuration."""
    return module.split(".")[0] not in KNOWN_PACKAGES and re.fullmatch(r"_?[A-Z]\w*", name) is not None
