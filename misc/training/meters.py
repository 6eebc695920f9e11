"""Reading scalars from the device without blocking it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from misc.checkpoints.components import State
from misc.process import distributed
from misc.process.workers import memory_of_process
from model.tbps import LossOutput

COUNT = "made"  # the number of steps among the sums of a meter; checkpoints have it under this name


def _now() -> np.ndarray:
    """The wall clock and the CPU time of this process, in seconds."""
    return np.array([time.perf_counter(), time.process_time()])


def peak_memory(device: torch.device) -> int:
    """The most bytes that the tensors on a GPU have held, or that this process has held."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return memory_of_process()


class HostCopy:
    """A tensor that is being copied to the host: started when a step is queued, read after the next one is.

    The copy waits for its own step only, so the GPU works on the next one while the host reads the value.
    """

    def __init__(self, value: Tensor) -> None:
        self._value, self._sent = value.detach(), None
        if value.is_cuda:
            pinned = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
            self._value = pinned.copy_(self._value, non_blocking=True)
            self._sent = torch.cuda.Event()
            self._sent.record()

    def tensor(self) -> Tensor:
        """The tensor, waiting until it is copied."""
        if self._sent is not None:
            self._sent.synchronize()
        return self._value

    def read(self) -> float:
        """The number in it."""
        return self.tensor().item()


class Meter:
    """Running sums of the losses of a few steps, detached, on the device: reading them waits, adding not.

    Attributes:
        steps: number of steps added.
        report: the names of the values that are not losses.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.reset()

    def reset(self) -> None:
        """Start again from zero steps and seconds."""
        self.report: list[str] = []
        self._sums: dict[str, Tensor] = {}
        self.steps = self._samples = 0
        self._spent, self._began = np.zeros(2), _now()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let the clocks run meanwhile, for the steps; they stand still outside."""
        self._began = _now()
        try:
            yield
        finally:
            self._spent += _now() - self._began

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the running clocks meanwhile, for what comes between two steps: a record, a checkpoint."""
        self._spent += _now() - self._began
        try:
            yield
        finally:
            self._began = _now()

    def add(self, output: LossOutput, num_samples: float, counts: Tensor) -> None:
        """Add one step of `num_samples` a process; `counts`, a scalar, is false where it was skipped."""
        self.steps += 1
        self._samples += num_samples
        self.report = list(output.report)
        for name, value in {"loss": output.total, **output.parts, **output.report}.items():
            self._sums[name] = self._sums.get(name, 0) + torch.where(counts, value.detach().float(), 0.0)
        self._sums[COUNT] = self._sums.get(COUNT, 0) + counts.float()

    def means(self) -> dict[str, float]:
        """Means over the steps that count, and over the processes, by name. Collective."""
        sums = distributed.mean_over_ranks(torch.stack(list(self._sums.values())))
        *means, _ = (sums / sums[-1].clamp(min=1.0)).tolist()
        return dict(zip([name for name in self._sums if name != COUNT], means, strict=True))

    def cost(self) -> dict[str, float]:
        """What the steps took by the clocks of this process: "seconds", "cpu_seconds" (of all its threads,
        not of loader workers), "samples_per_second" of all processes together, and "peak_bytes", the most
        memory that this process has held so far: on a GPU that of its tensors, else all of it.
        """
        seconds, cpu_seconds = (self._spent + _now() - self._began).tolist()
        rate = self._samples * distributed.world_size() / seconds
        cost = {"samples_per_second": rate, "seconds": seconds, "cpu_seconds": cpu_seconds}
        return cost | {"peak_bytes": peak_memory(self._device)}

    def state_dict(self) -> State:
        """The sums of this rank, while the clocks are stopped."""
        sums = {name: value.cpu() for name, value in self._sums.items()}
        spent = {"steps": self.steps, "samples": self._samples, "spent": self._spent.tolist()}
        return {"report": self.report, "sums": sums, **spent}

    def load_state_dict(self, state: State) -> None:
        """Continue from these sums."""
        self.report = list(state["report"])
        self._sums = {name: value.to(self._device) for name, value in state["sums"].items()}
        if "spent" in state:  # older checkpoints do not have it
            self.steps, self._samples = state["steps"], state["samples"]
            self._spent = np.array(state["spent"])
