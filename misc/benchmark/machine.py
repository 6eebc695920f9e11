"""The machine: what it is, what memory a process took, how fast it multiplies matrices at the moment."""

import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from misc.process.workers import num_cores

Product = tuple[int, int, int]  # rows, inputs, outputs of a linear layer
STATUS = Path("/proc/self/status")


def describe(device: torch.device) -> dict[str, Any]:
    """What a table of figures must be read with."""
    return {
        "cpu": _cpu_name(),
        "cores": num_cores(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def peak_memory() -> int:
    """The most memory that this process has held, in bytes.

    Linux's own count where there is one: `getrusage` of a child begins with what its parent held.
    """
    if STATUS.exists():
        (peak,) = (line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(peak.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class MatmulPeak:
    """Measures how many FLOP/s the machine reaches in bare matrix products, the fastest of a few kinds.

    Args:
        products: linear layers of the sizes that the work beside it really uses; each is measured forward
            and in both products of its backward pass.
    """

    def __init__(self, products: Sequence[Product], device: torch.device, precision: torch.dtype) -> None:
        self.products, self.device, self.precision = products, device, precision

    @torch.no_grad()
    def __call__(self) -> float:
        """FLOP/s at this moment. Its matrices are gone afterwards: they are none of the work's memory."""
        return max(rate for sizes in self.products for rate in self._rates(*sizes))

    def _rates(self, rows: int, inputs: int, outputs: int) -> Iterator[float]:
        like = {"device": self.device, "dtype": self.precision}
        x, weight = torch.randn(rows, inputs, **like), torch.randn(outputs, inputs, **like)
        grad = torch.randn(rows, outputs, **like)
        for product in (lambda: x @ weight.T, lambda: grad @ weight, lambda: grad.T @ x):
            yield 2 * rows * inputs * outputs * self._calls_a_second(product)

    def _calls_a_second(self, product: Callable[[], Tensor], least: float = 0.1) -> float:
        """Calls in a row, as many as take `least` seconds: a shorter time says little."""
        count = 1
        while True:
            began = time.perf_counter()
            for _ in range(count):
                product()
            synchronize(self.device)
            seconds = time.perf_counter() - began
            if seconds >= least:
                return count / seconds
            count *= 2
