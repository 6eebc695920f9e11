"""Files that run something as a careless reader opens them."""

import os
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn


class Creates:
    """Pickled, and unpickled by a careless reader, it makes the folder of this name."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


class _Writes(nn.Module):
    def __init__(self, path: str) -> None:
        super().__init__()
        self.weight, self.path = nn.Parameter(torch.ones(2)), path

    @torch.jit.export
    def __getstate__(self) -> tuple[Tensor, str, bool]:
        return self.weight, self.path, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[Tensor, str, bool]) -> None:
        self.weight, self.path, self.training = state
        torch.save(self.weight, self.path)


def torchscript_that_writes(path: Path, marker: Path) -> Path:
    """An archive of which `torch.jit.load` writes the file `marker`. Before 2.6 `torch.load` hands archives
    to it, with `weights_only` too (CVE-2025-32434).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates TorchScript
        torch.jit.script(_Writes(str(marker))).save(str(path))
    return path
