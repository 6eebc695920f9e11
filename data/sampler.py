"""The order of training samples, and the worker processes that turn samples into batches."""

import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from data.datasets import seeded
from data.types import Batch
from misc.process.launch import share
from misc.process.libraries import quieten
from options import UserError

Item = TypeVar("Item")
Made = TypeVar("Made")  # a batch


class TrainSampler(Sampler[list[tuple[int, int]]]):
    """Yields each step's keys (epoch, index) for one rank, from one shuffle that the ranks share.

    Step s of an epoch is the shuffle's s-th slice of batch_size * world_size samples, and rank r has its r-th
    part: W ranks of B samples see, step by step, what one process of W * B sees. Of what is left for a last
    step, the parts are as even as possible; fewer than W samples cannot be split, and are dropped, but in a
    whole pass, in which each rank has all of them.

    Args:
        drop_last: drop the last step, too, where it is short.

    Raises:
        UserError: too few samples for a single step.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = True,
    ) -> None:
        self.num_samples, self.batch_size, self.seed = num_samples, batch_size, seed
        self.rank, self.world_size, self.drop_last = rank, world_size, drop_last
        self.step_size = batch_size * world_size
        self.epoch = self.first_step = 0
        self.is_whole = False
        if not len(self):
            raise UserError(
                f"data.batch_size: a step takes {self.step_size} samples ({batch_size} on each of "
                f"{world_size} processes), but the training split has {num_samples}. Lower it, "
                "or set data.drop_last=false"
                if drop_last
                else f"data.drop_last=false: the training split has {num_samples} samples, fewer than the "
                f"{world_size} processes; start fewer"
            )

    def set_epoch(self, epoch: int, first_step: int = 0, is_whole: bool = False) -> None:
        """Choose the shuffle of the next pass, the augmentation of its samples, and the step to begin at.

        Args:
            is_whole: with the last step, short or not, whatever `drop_last`.
        """
        self.epoch, self.first_step, self.is_whole = epoch, first_step, is_whole

    def __len__(self) -> int:
        num_steps, rest = divmod(self.num_samples, self.step_size)
        keeps_last = rest > 0 if self.is_whole else rest >= self.world_size and not self.drop_last
        return num_steps + keeps_last

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        generator = torch.Generator().manual_seed(seeded(self.seed, self.epoch).getrandbits(63))
        order = torch.randperm(self.num_samples, generator=generator).tolist()
        for step in range(self.first_step, len(self)):
            start = step * self.step_size
            keys = [(self.epoch, index) for index in order[start : start + self.step_size]]
            yield keys[share(len(keys), self.rank, self.world_size)]

    def uneven(self, step: int) -> int | None:
        """The number of samples of a step of the epoch on all ranks; None where each has as many."""
        number = min(self.step_size, self.num_samples - step * self.step_size)
        return number if number % self.world_size else None


class Loader(DataLoader[Made]):
    """A DataLoader that leaves the process's random state alone, and its workers' UserErrors as they are.

    PyTorch re-raises a worker's exception with the worker's whole traceback as its message. A UserError is
    one line for the user, so here it travels as a value in place of the batch, and is raised on arrival.
    """

    def __init__(
        self, samples: Dataset[Item], collate: Callable[[list[Item]], Made], **settings: object
    ) -> None:
        # Without a generator of its own a DataLoader draws from the global one, which dropout uses.
        super().__init__(
            _Batches(samples, collate),
            collate_fn=_identity,
            generator=torch.Generator(),
            worker_init_fn=_start_worker,
            **settings,
        )

    def __iter__(self) -> Iterator[Made]:
        return map(_raise_user_error, super().__iter__())


class TrainLoader(Loader[Batch]):
    """The loader of a `TrainSampler`: a batch of a step that is uneven knows the samples of all ranks."""

    def __iter__(self) -> Iterator[Batch]:
        steps = itertools.count(self.batch_sampler.first_step)
        return map(self._counted, steps, super().__iter__())

    def _counted(self, step: int, batch: Batch) -> Batch:
        return replace(batch, num_samples=self.batch_sampler.uneven(step))


class _Batches(Dataset[Made]):
    """Makes a batch of a list of keys, or the UserError that prevents it. Runs in the workers."""

    def __init__(self, samples: Dataset[Item], collate: Callable[[list[Item]], Made]) -> None:
        self.samples, self.collate = samples, collate

    def __len__(self) -> int:
        return len(self.samples)

    def __getitems__(self, keys: list[object]) -> Made | UserError:
        try:
            return self.collate([self.samples[key] for key in keys])
        except UserError as error:
            return error


def _raise_user_error(batch: Made | UserError) -> Made:
    if isinstance(batch, UserError):
        raise batch
    return batch


def _start_worker(_: int) -> None:
    """Let only its parent end a worker, which needs its batches, and not a signal to all, such as Ctrl-C."""
    quieten()  # again: a worker that is spawned starts from scratch
    for name in ("SIGINT", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo") and hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def _identity(batch: Made) -> Made:
    return batch
