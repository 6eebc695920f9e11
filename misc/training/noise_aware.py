"""Noise-aware masking (NAM, arXiv 2405.04940): what an epoch finds of the tokens, kept for the next one."""

import secrets

import torch
from torch import Tensor

from data.columns.mismatches import Mismatches
from data.types import Batch
from misc.checkpoints.components import State
from misc.process import distributed
from misc.training.meters import HostCopy
from options import UserError


class MismatchRecorder:
    """Gathers the mismatch of each step's tokens over the processes; rank 0 writes it, a step later, so that
    the device is not waited for. The files are on the disk before a checkpoint is.
    """

    def __init__(self, files: Mismatches) -> None:
        self._files, self._epoch = files, 0
        self._last: list[HostCopy] = []  # indices and mismatch of a step
        self._is_resumed = False

    def begin(self, epoch: int, done: int) -> None:
        """Open an epoch, of which so many steps are done. Collective.

        Raises:
            UserError: a file that it needs is missing, damaged, or of another run.
        """
        self._epoch = epoch
        if not self._files.run:
            if self._is_resumed:
                raise UserError(
                    "experiment.mask_captions=noise-aware: the run of the checkpoint was without it, so that "
                    "no mismatch of the tokens is known; set what that run had, or start another from its "
                    "weights"
                )
            self._files.run = distributed.broadcast_object(secrets.token_hex(8))
        if epoch:
            self._files.check(epoch - 1)
        if not done and distributed.is_main():
            self._files.start(epoch)
        distributed.wait_for_all()
        self._files.check(epoch)

    @torch.no_grad()
    def add(self, batch: Batch, mismatch: Tensor) -> None:
        """Note the local rows of a step, (B, text_length). Collective."""
        own = batch.indices.to(mismatch.device, non_blocking=True), mismatch
        of_all = [distributed.gather_with_gradient(rows, batch.num_samples) for rows in own]
        if distributed.is_main():
            self._write()
            self._last = [HostCopy(rows) for rows in of_all]

    def flush(self) -> None:
        """Write what is noted, and wait until it is on the disk."""
        if distributed.is_main():
            self._write()
            self._last = []
            self._files.flush(self._epoch)

    def _write(self) -> None:
        if not self._last:
            return
        indices, mismatch = (rows.tensor() for rows in self._last)
        try:
            self._files.write(self._epoch, indices.tolist(), mismatch.numpy())
        except OSError as error:
            path = self._files.path(self._epoch)
            raise UserError(f"output.dir: '{path}' cannot be written ({error.strerror})") from error

    def state_dict(self) -> State:
        """Whose files belong to the checkpoint."""
        return {"run": self._files.run}

    def load_state_dict(self, state: State) -> None:
        """Continue with these files; {}: the run had none."""
        self._files.run, self._is_resumed = state.get("run", ""), True
