"""Reading scalars off the device without making it wait."""

import time
from typing import Any

import torch
from torch import Tensor

from misc.process import distributed


class HostCopy:
    """A scalar on its way to the host: sent off when a step is queued, and read when the next one is.

    The copy waits for its step alone, so the GPU works on while the host looks at the value.
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
        self.report: list[str] = []
        self._sums: dict[str, Tensor] = {}
        self._steps = self._samples = 0
        self._start = time.perf_counter()

    def add(self, output: Any, num_samples: int, was_made: Tensor) -> None:
        """Count one step of `num_samples` local samples.

        Args:
            was_made: scalar, false for a step that was skipped: its losses count for nothing.
        """
        self._steps += 1
        self._samples += num_samples
        self.report = list(output.report)
        values = {"loss": output.total, **output.parts, **output.report}
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0) + torch.where(was_made, value.detach().float(), 0.0)
        self._sums["made"] = self._sums.get("made", 0) + was_made.float()

    def means(self) -> dict[str, float]:
        """Means over the steps that were made, and over the processes, by name."""
        sums = distributed.mean_over_ranks(torch.stack(list(self._sums.values())))
        *means, _ = (sums / sums[-1].clamp(min=1.0)).tolist()
        return dict(zip([name for name in self._sums if name != "made"], means, strict=True))

    def speed(self) -> tuple[float, float]:
        """Samples per second of all processes together and seconds per step, as this process counted."""
        seconds = time.perf_counter() - self._start
        return self._samples * distributed.world_size() / seconds, seconds / self._steps

    def state_dict(self) -> dict[str, Any]:
        """The sums of this rank, for a checkpoint."""
        return {"report": self.report, "sums": {name: value.cpu() for name, value in self._sums.items()}}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Go on from the sums that `state_dict` returned."""
        self.report = list(state["report"])
        self._sums = {name: value.to(device) for name, value in state["sums"].items()}
