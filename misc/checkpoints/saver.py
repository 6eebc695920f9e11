"""When checkpoints are written, and what happens while the disk is full."""

import logging
import time
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from misc.checkpoints.components import State
from misc.checkpoints.read import LAST
from misc.checkpoints.write import save_best, save_last
from misc.process import distributed
from options import UserError

logger = logging.getLogger(__name__)

LAST_TRIES, PAUSE = 20, 15.0  # after the last epoch, and the seconds between them


class Period:
    """The time between two checkpoints inside an epoch: steps, "N minutes", or None: no checkpoint inside."""

    def __init__(self, period: int | str | None) -> None:
        self._steps = period if isinstance(period, int) else None
        self._seconds = 60 * float(period.split()[0]) if isinstance(period, str) else None
        self.start()

    def start(self) -> None:
        """Start the clock."""
        self._began = time.monotonic()

    def is_over(self, step: int) -> bool:
        """Whether a checkpoint is due after the step of this number, counted from 1."""
        if self._steps is not None:
            return step % self._steps == 0
        return self._seconds is not None and time.monotonic() - self._began >= self._seconds


class Saver:
    """Writes the checkpoints of a run, on rank 0. A failed write does not end the run: a later one may work.

    The weights of the best epoch are kept in memory until they are on the disk. `period` and `keep` are the
    options `log.checkpoint_period` and `log.keep_checkpoints`.
    """

    def __init__(self, folder: Path, period: int | str | None, keep: int) -> None:
        self.folder, self.period, self._keep = folder, Period(period), keep
        self._best: State | None = None  # the states that are not written yet
        self._last: State | None = None
        self._newest: int | None = None

    def save(self, state: State, is_best: bool) -> None:
        """Write the state as the last one; before that as the best, or a best one not written yet."""
        self.period.start()
        self._last = state
        if is_best:
            self._best = state
        self._try()
        if self._best is state:  # training continues and changes the tensors
            self._best = self._last = _on_host(state)

    def share(self) -> None:
        """Tell all ranks of the newest checkpoint, so that they wait for it. Collective."""
        self._newest = distributed.broadcast_object(self._newest)

    def _try(self) -> bool:
        """Write what is pending, the best one first: a kill in between must not lose it."""
        if self._best:
            if self._is_written(save_best, self._best):
                self._best = None
            elif self._best is self._last:  # a last one without its best would lose this epoch
                return False
        if self._last and self._is_written(save_last, self._last, self._keep):
            self._newest, self._last = self._last["step"], None
        return self._best is None and self._last is None

    def _is_written(self, save: Callable[..., None], state: State, *more: int) -> bool:
        try:
            save(state, self.folder, *more)
        except OSError as error:
            reason = error.strerror or str(error)
            logger.warning(
                f"the checkpoint of step {state['step']} could not be written to '{self.folder}' "
                f"({reason}): the run continues, {self.newest()}"
            )
            return False
        return True

    def newest(self) -> str:
        """A description of the checkpoint to resume from."""
        if self._newest is None:
            return f"the checkpoints in '{self.folder}' are unchanged since the run began"
        return f"the last checkpoint is '{self.folder / LAST}' of step {self._newest}"

    def status(self, step: int) -> str:
        """A description of what a run that ends after this step resumes from."""
        return f"saved in '{self.folder}'" if step == self._newest else self.newest()

    def finish(self) -> None:
        """Wait until the checkpoints are on the disk, a few minutes where it is full. Collective.

        Raises:
            UserError: they still are not.
        """
        for _ in range(LAST_TRIES):
            if distributed.broadcast_object(self._try()):  # in each pass: a collective must not time out
                return
            time.sleep(PAUSE)
        raise UserError(
            f"output.dir: no checkpoint can be written to '{self.folder}', so the end of this run is lost; "
            f"{distributed.broadcast_object(self.newest())}: free some space and resume with --resume auto"
        )


def _on_host(state: object) -> object:
    """A copy of a state in the host's memory."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return type(state)((key, _on_host(value)) for key, value in state.items())
    return [_on_host(value) for value in state] if isinstance(state, list) else state
