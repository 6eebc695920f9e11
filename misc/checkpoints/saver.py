"""When checkpoints are written, and what happens when the disk takes none."""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from misc.checkpoints.checkpoint import LAST, save_best, save_last
from misc.process import distributed
from options import UserError

logger = logging.getLogger(__name__)

LAST_TRIES, PAUSE = 20, 15.0  # after the last epoch, and the seconds between them


class Period:
    """The time between two checkpoints inside an epoch: steps, "N minutes", or None for no end."""

    def __init__(self, period: int | str | None) -> None:
        self._steps = period if isinstance(period, int) else None
        self._seconds = 60 * float(period.split()[0]) if isinstance(period, str) else None
        self.start()

    def start(self) -> None:
        """Begin to count the time."""
        self._began = time.monotonic()

    def is_over(self, step: int) -> bool:
        """Whether a checkpoint is due after the step of this number, counted from 1."""
        if self._steps is not None:
            return step % self._steps == 0
        return self._seconds is not None and time.monotonic() - self._began >= self._seconds


class Saver:
    """Writes the checkpoints of a run, on rank 0. A write that fails does not end it: the next one may do.

    The weights of the best epoch are held in memory until they are on the disk.

    Args:
        period: `log.checkpoint_period`.
        keep: `log.keep_checkpoints`.
    """

    def __init__(self, folder: Path, period: int | str | None, keep: int) -> None:
        self.folder, self.period, self._keep = folder, Period(period), keep
        self._best: dict[str, Any] | None = None  # those that are still to be written
        self._last: dict[str, Any] | None = None
        self._newest: int | None = None

    def save(self, state: dict[str, Any], is_best: bool) -> None:
        """Write the state as the last, before that also as the best, or a best one still to be written."""
        self.period.start()
        self._last = state
        if is_best:
            self._best = state
        self._try()
        if self._best is state:  # training goes on and changes the tensors
            self._best = self._last = _on_host(state)

    def share(self) -> None:
        """Let all ranks know of the newest checkpoint: none goes on while rank 0 still writes it."""
        self._newest = distributed.broadcast_object(self._newest)

    def _try(self) -> bool:
        """Write what is held; the best one first, so that where a kill comes between the two it is there."""
        if self._best:
            if self._is_written(save_best, self._best):
                self._best = None
            elif self._best is self._last:  # the last one is of the same step: it can find this epoch again
                return False
        if self._last and self._is_written(save_last, self._last, self._keep):
            self._newest, self._last = self._last["step"], None
        return self._best is None and self._last is None

    def _is_written(self, save: Callable[..., None], state: dict[str, Any], *more: int) -> bool:
        try:
            save(state, self.folder, *more)
        except OSError as error:
            reason = error.strerror or str(error)
            logger.warning(
                f"the checkpoint of step {state['step']} could not be written to '{self.folder}' "
                f"({reason}): the run goes on, {self.newest()}"
            )
            return False
        return True

    def newest(self) -> str:
        """Which checkpoint there is to go on from, in words."""
        if self._newest is None:
            return f"the checkpoints in '{self.folder}' are as they were when the run began"
        return f"the last checkpoint is '{self.folder / LAST}' of step {self._newest}"

    def what_is_left(self, step: int) -> str:
        """Where a run that ends after this step goes on from, in words."""
        return f"saved in '{self.folder}'" if step == self._newest else self.newest()

    def finish(self) -> None:
        """See on all ranks that the checkpoints are on the disk, waiting a few minutes for room.

        Raises:
            UserError: they are not.
        """
        for _ in range(LAST_TRIES):
            if distributed.broadcast_object(self._try()):  # each time: no rank waits for longer than a pause
                return
            time.sleep(PAUSE)
        raise UserError(
            f"output.dir: '{self.folder}' takes no checkpoint, so the end of this run is lost; "
            f"{distributed.broadcast_object(self.newest())}: make room and go on with --resume auto"
        )


def _on_host(state: Any) -> Any:
    """A copy of a state that nothing changes, in the host's memory."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return type(state)((key, _on_host(value)) for key, value in state.items())
    return [_on_host(value) for value in state] if isinstance(state, list) else state
