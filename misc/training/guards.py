"""What goes wrong in a step without an exception: non-finite numbers, unreadable images."""

import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from misc.checkpoints.components import Best, State
from misc.checkpoints.run_folder import BAD_IMAGES
from misc.process import distributed
from misc.process.durable import write_text
from misc.training.meters import HostCopy
from model.tbps import LossOutput
from options import UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Step:
    """A step whose outcome is still being copied to the host."""

    name: str
    is_bad: HostCopy
    total: Tensor
    parts: dict[str, Tensor]
    norm: Tensor
    indices: Tensor


@dataclass
class NonFiniteGuard:
    """Watches for gradients that are not finite.

    The optimizer skips such a step on the device. The host reads the outcome one step later, so that the GPU
    does not wait, and stops the run or counts the step.

    Attributes:
        allowed, skipped: how many steps may be skipped, and how many were.
        image_names: sample indices -> the files of their images.
        newest_checkpoint: describes the one to resume from; rank 0's answer counts, since it writes them.
    """

    allowed: int
    image_names: Callable[[Sequence[int]], list[str]]
    newest_checkpoint: Callable[[], str]
    skipped: int = 0
    _last: _Step | None = None

    def watch(self, name: str, is_bad: Tensor, output: LossOutput, norm: Tensor, indices: Tensor) -> None:
        """Note a step of that name; `is_bad`, a scalar, is true where it was skipped, alike on all ranks."""
        parts = {part: value.detach() for part, value in output.parts.items()}
        self._last = _Step(name, HostCopy(is_bad), output.total.detach(), parts, norm, indices)

    def check(self) -> None:
        """Look at the step noted last. Collective.

        Raises:
            UserError: it was skipped, and no more may be.
        """
        step, self._last = self._last, None
        if step is None or not step.is_bad.read():
            return
        self.skipped += 1
        parts = ", ".join(f"{name} {value.item():.4g}" for name, value in step.parts.items())
        is_at_fault = not step.total.isfinite().item()
        reports = distributed.gather_objects((is_at_fault, parts, self.image_names(step.indices.tolist())))
        reports = [report for report in reports if report[0]] or reports  # none: the gradient overflowed
        names = [name for _, _, of_rank in reports for name in of_rank]
        if distributed.is_main():
            logger.error("images of the batch: %s", ", ".join(names))
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        problem = (
            f"the loss or its gradient is not finite at {step.name} ({reports[0][1]}, gradient norm "
            f"{step.norm.item():.4g}), images {', '.join(names[:4])}{more}: skipped this step"
        )
        if self.skipped > self.allowed:
            newest = distributed.broadcast_object(self.newest_checkpoint())
            raise UserError(
                f"{problem}. {newest}. Try a lower schedule.lr, schedule.clip_grad_norm or "
                "misc.precision=fp32, or skip such steps with schedule.skip_nonfinite"
            )
        if distributed.is_main():
            logger.warning("%s; %d of at most %d skipped", problem, self.skipped, self.allowed)

    def state_dict(self) -> dict[str, int]:
        """The number of skipped steps."""
        return {"skipped_steps": self.skipped}

    def load_state_dict(self, state: State) -> None:
        """Continue to count from there."""
        self.skipped = state["skipped_steps"]


def is_over(patience: int | None, epoch: int, best: Best) -> bool:
    """Whether there was no better epoch for `patience` epochs; rank 0 decides for all. Collective."""
    waited = epoch - best["epoch"] if best else 0
    ends = distributed.broadcast_object(patience is not None and waited >= patience)
    if ends:
        logger.info(f"no better epoch for {waited}: training ends (schedule.patience)")
    return ends


class BadImages:
    """The training images of all ranks that cannot be read; `check` raises UserError if they are too many."""

    def __init__(self, check: Callable[[Sequence[str]], None]) -> None:
        self._check, self.names = check, []
        self._new: list[str] = []

    def add(self, names: Sequence[str]) -> None:
        """Note those of a batch."""
        self._new += [name for name in names if name not in self.names and name not in self._new]

    def share(self, folder: Path) -> None:
        """Exchange them between the ranks, and log and list the new ones in `folder`. Collective.

        Raises:
            UserError: they are too many.
        """
        shared = {name for names in distributed.gather_objects(self._new) for name in names}
        new, self._new = sorted(shared - set(self.names)), []
        if not new:
            return
        self.names += new
        self._check(self.names)
        logger.warning("skipped, cannot be read: %s", ", ".join(new))
        if distributed.is_main():
            with contextlib.suppress(OSError):  # a full disk; the log has them, too
                write_text(folder / BAD_IMAGES, "".join(name + "\n" for name in self.names))

    def state_dict(self) -> dict[str, list[str]]:
        """The files."""
        return {"bad_images": self.names}

    def load_state_dict(self, state: State) -> None:
        """Continue with these files."""
        self.names = list(state["bad_images"])
