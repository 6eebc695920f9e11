"""The machine: its description, the memory of a process, its present speed of matrix products."""

import platform
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

import torch
from torch import Tensor

from misc.benchmark.report import Row
from misc.process.workers import cpu_name, memory_of_process, num_cores
from options import UserError

Product = tuple[int, int, int]  # rows, inputs, outputs of a linear layer
MIN_SECONDS = 0.1  # of a timed series of products


def describe(device: torch.device) -> Row:
    """The machine and the versions that the measurements belong to."""
    return {
        "cpu": cpu_name(),
        "cores": num_cores(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def peak_memory() -> int:
    """The peak resident memory of this process, in bytes.

    Raises:
        UserError: the system does not report it, as Windows.
    """
    if peak := memory_of_process():
        return peak
    raise UserError("misc.benchmark measures memory as Linux and macOS report it; use one of them")


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished its queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@torch.no_grad()
def matmul_peak(products: Sequence[Product], device: torch.device, precision: torch.dtype) -> float:
    """The FLOP/s of the fastest of the bare matrix products of these linear layers, forward and backward."""
    return max(rate for layer in products for rate in _rates(layer, device, precision))


def _rates(layer: Product, device: torch.device, precision: torch.dtype) -> Iterator[float]:
    rows, inputs, outputs = layer
    shapes = ((rows, inputs), (outputs, inputs), (rows, outputs))
    x, weight, grad = (torch.randn(*shape, device=device, dtype=precision) for shape in shapes)
    for product in (lambda: x @ weight.T, lambda: grad @ weight, lambda: grad.T @ x):
        yield 2 * rows * inputs * outputs * _calls_per_second(product, device)


def _calls_per_second(product: Callable[[], Tensor], device: torch.device) -> float:
    """Doubles the number of calls until they take `MIN_SECONDS`: shorter times are imprecise."""
    count = 1
    while True:
        began = time.perf_counter()
        for _ in range(count):
            product()
        synchronize(device)
        seconds = time.perf_counter() - began
        if seconds >= MIN_SECONDS:
            return count / seconds
        count *= 2
