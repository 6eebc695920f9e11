"""Reads files of `torch.save` without executing anything: a restricted unpickler for three layouts.

`torch.save` writes a zip: `NAME/data.pkl` pickles the objects, `NAME/data/KEY` holds a tensor's numbers.
TorchScript archives (OpenAI's format) have the same layout, with a tree of modules as objects. Before
torch 1.6 a file was a sequence of pickles followed by the numbers.

`torch.load(weights_only=True)` reads neither TorchScript nor the released files of TBPS-CLIP, which hold an
EasyDict and numpy's numbers, and before torch 2.6 a crafted file got past it (CVE-2025-32434): nothing here
calls it.
"""

import copy
import io
import mmap
import os
import pickle
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from model.weights.stand_ins import Module, Storage, stand_in

OLD_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a file from before torch 1.6
ReadStorage = Callable[[str, torch.dtype, int], Tensor]  # (key, type, count) -> a flat tensor


def read_pickled(path: Path) -> Any:
    """What `torch.save` wrote, as dicts, lists, numbers and CPU tensors; of a TorchScript archive the
    parameters and buffers by their dotted names. Numbers keep their types. Tensors of a zip are views of the
    file: whoever keeps them copies them.

    Raises:
        RefusedError: the pickle names a global that weights do not need.
        Exception: of whatever kind the zip and pickle modules raise on a damaged file.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):  # reading a device or a pipe may never end
        raise OSError("not a regular file")
    if zipfile.is_zipfile(path):
        content = _read_zip(path)
    else:
        with path.open("rb") as file:
            content = _read_old(file)
    content = copy.deepcopy(content)  # without the stand-ins
    return dict(_named_tensors(content, "")) if isinstance(content, Module) else content


def damaged_entry(path: Path) -> str | None:
    """The first entry of a zip whose checksum does not match; raises as `read_pickled` does."""
    with zipfile.ZipFile(path) as archive:
        return archive.testzip()


def _read_zip(path: Path) -> Any:
    """The numbers are memory-mapped: those of the optimiser, two thirds of a checkpoint, stay on disk."""
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    with zipfile.ZipFile(path) as archive:
        roots = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
        folder = roots[0].removesuffix("data.pkl") + "data/"

        def find(name: str) -> zipfile.ZipInfo:
            entry = archive.getinfo(name)
            if entry.compress_type != zipfile.ZIP_STORED:  # what torch writes has the size of its file
                raise zipfile.BadZipFile("torch compresses nothing")
            return entry

        def read_storage(key: str, dtype: torch.dtype, _: int) -> Tensor:
            """All numbers of an entry, where they lie in the file."""
            entry = find(folder + key)
            count = entry.file_size // dtype.itemsize
            if count == 0:
                return torch.empty(0, dtype=dtype)
            # An entry's own header is 30 bytes, the last four the lengths of two fields that follow it.
            lengths = struct.unpack_from("<2H", mapped, entry.header_offset + 26)
            start = entry.header_offset + 30 + sum(lengths)
            return torch.frombuffer(mapped, dtype=dtype, count=count, offset=start)

        return _Unpickler(io.BytesIO(archive.read(find(roots[0]))), read_storage).load()


def _read_old(file: BinaryIO) -> Any:
    """Pickles of a magic number, a version, the machine, the objects and the storages' keys, then of each
    storage its count in eight bytes and its numbers.
    """
    storages: dict[str, Tensor] = {}

    def read_storage(key: str, dtype: torch.dtype, count: int) -> Tensor:
        """Room for numbers that come after the pickles."""
        if key not in storages:
            storages[key] = torch.empty(count, dtype=dtype)
        return storages[key]

    magic, _, _, content, keys = (_Unpickler(file, read_storage).load() for _ in range(5))
    if magic != OLD_MAGIC or sorted(keys) != sorted(storages):
        raise pickle.UnpicklingError("not a file of torch.save")
    for key in keys:
        count, numbers = int.from_bytes(file.read(8), "little"), storages[key].view(torch.uint8).numpy()
        if count != storages[key].numel() or file.readinto(numbers) != numbers.nbytes:
            raise EOFError("the numbers end too early")
    return content


def _named_tensors(module: Module, prefix: str) -> list[tuple[str, Tensor]]:
    named = []
    for name, value in module.items():
        if isinstance(value, Tensor):
            named.append((prefix + name, value))
        elif isinstance(value, Module):
            named += _named_tensors(value, f"{prefix}{name}.")
    return named


class _Reader:
    """A file without `readinto`: CPython frees a byte array that is cut short while that still fills it, and
    complains on standard error.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.read, self.readline = file.read, file.readline


class _Unpickler(pickle.Unpickler):
    """Makes the classes above and calls the methods, whatever the pickle asks for."""

    def __init__(self, file: BinaryIO, read_storage: ReadStorage) -> None:
        super().__init__(_Reader(file))
        self.read_storage = read_storage

    def find_class(self, module: str, name: str) -> Any:
        """What stands in for a global; raises RefusedError where nothing does."""
        return stand_in(module, name)

    def persistent_load(self, pid: tuple[Any, ...]) -> Storage:
        """The storage that the pickle refers to."""
        kind, dtype, key, _, count, *view = pid
        if kind != "storage" or any(view):
            raise pickle.UnpicklingError("a storage is expected")
        return Storage(self.read_storage(key, dtype, count))
