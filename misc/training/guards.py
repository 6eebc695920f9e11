"""What can go wrong with the numbers of a step and the images of a batch, without an exception."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from misc.process import distributed
from misc.training.meters import HostCopy
from options import UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Step:
    """A step whose gradient's fate is still on its way to the host."""

    name: str
    was_bad: HostCopy
    total: Tensor
    parts: dict[str, Tensor]
    norm: Tensor
    indices: Tensor


class NumberGuard:
    """Watches for gradients that are not finite. The step is then not made (the optimiser is told on the
    device); the host hears of it one step later, so that no GPU waits, and stops the run or counts it.

    Args:
        allowed: steps that may be skipped.
        image_names: sample indices -> the files of their images.
        newest_checkpoint: says which there is to go on from; rank 0, which writes them, is believed.

    Attributes:
        skipped: how many were.
    """

    def __init__(
        self,
        allowed: int,
        image_names: Callable[[Sequence[int]], list[str]],
        newest_checkpoint: Callable[[], str],
    ) -> None:
        self.allowed, self.image_names, self.newest_checkpoint = allowed, image_names, newest_checkpoint
        self.skipped = 0
        self._last: _Step | None = None

    def watch(self, name: str, was_bad: Tensor, output: Any, norm: Tensor, indices: Tensor) -> None:
        """Take note of a step; `was_bad`, a scalar that is true where it was not made, is alike on all ranks.

        Args:
            name: of the step, for messages.
        """
        parts = {part: value.detach() for part, value in output.parts.items()}
        self._last = _Step(name, HostCopy(was_bad), output.total.detach(), parts, norm, indices)

    def settle(self) -> None:
        """Look at the step noted last, on all ranks at once.

        Raises:
            UserError: it went wrong, and no more may be skipped.
        """
        step, self._last = self._last, None
        if step is None or not step.was_bad.read():
            return
        self.skipped += 1
        parts = ", ".join(f"{name} {value.item():.4g}" for name, value in step.parts.items())
        is_at_fault = not step.total.isfinite().item()
        reports = distributed.gather_objects((is_at_fault, parts, self.image_names(step.indices.tolist())))
        reports = [report for report in reports if report[0]] or reports  # else a gradient alone overflowed
        names = [name for _, _, of_rank in reports for name in of_rank]
        if distributed.is_main():
            logger.error("images of the batch: %s", ", ".join(names))
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        problem = (
            f"the loss or its gradient is not finite at {step.name} ({reports[0][1]}, gradient norm "
            f"{step.norm.item():.4g}), images {', '.join(names[:4])}{more}: this step was not made"
        )
        if self.skipped > self.allowed:
            newest = distributed.broadcast_object(self.newest_checkpoint())
            raise UserError(
                f"{problem}. {newest}. Try a lower schedule.lr, schedule.clip_grad_norm or "
                "misc.precision=fp32, or pass over such steps with schedule.skip_nonfinite"
            )
        if distributed.is_main():
            logger.warning("%s; %d of at most %d skipped", problem, self.skipped, self.allowed)


class BadImages:
    """The training images that could not be read, of all ranks.

    Args:
        check: called with all of them; raises UserError when they are too many.
    """

    def __init__(self, check: Callable[[Sequence[str]], None]) -> None:
        self._check, self.names = check, []
        self._new: list[str] = []

    def add(self, names: Sequence[str]) -> None:
        """Take note of a batch's."""
        self._new += [name for name in names if name not in self.names and name not in self._new]

    def settle(self) -> list[str]:
        """Share them between the ranks, on all at once; returns those that are new to all.

        Raises:
            UserError: they are too many.
        """
        shared = {name for names in distributed.gather_objects(self._new) for name in names}
        new, self._new = sorted(shared - set(self.names)), []
        self.names += new
        if new:
            self._check(self.names)
        return new
