"""Reading scalars off the device without making it wait."""

import time
from typing import Any

import torch
from torch import Tensor

from misc import distributed


class HostCopy:
    """A scalar on its way to the host: sent off before the backward pass is queued and read after it.

    The copy waits for the forward pass alone, so the GPU works on while the host looks at the value.
    """

    def __init__(self, value: Tensor) -> None:
        self._value = value.detach()
        self._sent = None
        if value.is_cuda:
            self._value = torch.empty((), dtype=value.dtype, pin_memory=True).copy_(
                value.detach(), non_blocking=True
            )
            self._sent = torch.cuda.Event()
            self._sent.record()

    def read(self) -> float:
        """The value, waiting for it if it is still on its way."""
        if self._sent is not None:
            self._sent.synchronize()
        return self._value.item()


class Meter:
    """Running sums of a few steps' losses, on the device and detached: nothing waits until they are read.

    `report` names those that are no losses.
    """

    def __init__(self) -> None:
        self.steps = self.samples = 0
        self.report: list[str] = []
        self._sums: dict[str, Tensor] = {}
        self._start = time.perf_counter()

    def add(self, output: Any, num_samples: int) -> None:
        """Count one step of `num_samples` local samples."""
        self.steps += 1
        self.samples += num_samples
        self.report = list(output.report)
        for name, value in {"loss": output.total, **output.parts, **output.report}.items():
            self._sums[name] = self._sums.get(name, 0) + value.detach()

    def means(self) -> tuple[dict[str, float], float]:
        """Means over steps and processes by name, and the samples per second of all processes together."""
        means = distributed.mean_over_ranks(torch.stack(list(self._sums.values()))) / self.steps
        seconds = time.perf_counter() - self._start
        return dict(
            zip(self._sums, means.tolist(), strict=True)
        ), self.samples * distributed.world_size() / seconds
