"""When checkpoints are written, and what happens when the disk takes none."""

import logging
import time
from pathlib import Path
from typing import Any

from torch import Tensor

from misc.checkpoint import LAST, save_checkpoint
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
        self._unwritten: list[tuple[dict[str, Any], bool]] = []
        self._newest: int | None = None

    def save(self, state: dict[str, Any], is_best: bool) -> None:
        """Write the state, after a best one that is still to be written."""
        self.period.start()
        best = [held for held in self._unwritten if held[1] and not is_best]
        self._unwritten = [*best, (state, is_best)]
        if not self._try():  # training goes on and changes the tensors
            self._unwritten = [(_on_host(held) if best else held, best) for held, best in self._unwritten]

    def _try(self) -> bool:
        while self._unwritten:
            state, is_best = self._unwritten[0]
            try:
                save_checkpoint(state, self.folder, is_best, self._keep)
            except OSError as error:
                reason = error.strerror or str(error)
                logger.warning(
                    f"the checkpoint of step {state['step']} could not be written to '{self.folder}' "
                    f"({reason}): the run goes on, {self.newest()}"
                )
                return False
            self._newest = state["step"]
            self._unwritten.pop(0)
        return True

    def newest(self) -> str:
        """Which checkpoint there is to go on from, in words."""
        if self._newest is None:
            return f"the checkpoints in '{self.folder}' are as they were when the run began"
        return f"the last checkpoint is '{self.folder / LAST}' of step {self._newest}"

    def finish(self) -> None:
        """See that the last checkpoint is on the disk, waiting a few minutes for room.

        Raises:
            UserError: there is none.
        """
        for _ in range(LAST_TRIES):
            if self._try():
                return
            time.sleep(PAUSE)
        raise UserError(
            f"output.dir: '{self.folder}' takes no checkpoint, so the end of this run is lost; "
            f"{self.newest()}: make room and go on with --resume"
        )


def _on_host(state: Any) -> Any:
    """A copy of a state that nothing changes, in the host's memory."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return type(state)((key, _on_host(value)) for key, value in state.items())
    return [_on_host(value) for value in state] if isinstance(state, list) else state
