"""The order of training samples, and the worker processes that turn samples into batches."""

import itertools
import os
import random
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from data.datasets import seeded
from data.types import Batch
from misc.process.launch import share
from misc.process.libraries import quieten
from options import UserError

Item = TypeVar("Item")
Made = TypeVar("Made")  # a batch
Key = tuple[int, ...]  # of a sample, as `TrainingSet` has it


class TrainSampler(Sampler[list[Key]]):
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
        num_steps, rest = divmod(self._num_drawn(), self.step_size)
        keeps_last = rest > 0 if self.is_whole else rest >= self.world_size and not self.drop_last
        return num_steps + keeps_last

    def __iter__(self) -> Iterator[list[Key]]:
        order = self._order()
        for step in range(self.first_step, len(self)):
            start = step * self.step_size
            keys = order[start : start + self.step_size]
            yield keys[share(len(keys), self.rank, self.world_size)]

    def uneven(self, step: int) -> int | None:
        """The number of samples of a step of the epoch on all ranks; None where each has as many."""
        number = min(self.step_size, self._num_drawn() - step * self.step_size)
        return number if number % self.world_size else None

    def _num_drawn(self) -> int:
        """The number of samples in `_order`."""
        return self.num_samples

    def _order(self) -> Sequence[Key]:
        """The keys of the epoch, one step after another."""
        generator = torch.Generator().manual_seed(seeded(self.seed, self.epoch).getrandbits(63))
        return KeySequence(self.epoch, torch.randperm(self.num_samples, generator=generator))


class KeySequence(Sequence[Key]):
    """(epoch, index) of each of the `indices`, made when they are looked up: there may be millions."""

    def __init__(self, epoch: int, indices: Tensor) -> None:
        self.epoch, self.indices = epoch, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, part: slice) -> list[Key]:
        return [(self.epoch, index) for index in self.indices[part].tolist()]


class IdentitySampler(TrainSampler):
    """A `TrainSampler` of steps with K samples of each of P = batch_size * world_size / K persons (ITSELF).

    In each epoch, the samples of a person are shuffled and cut into g = n // K groups; the n % K others wait
    for another epoch. Of n < K samples some are repeated, with another augmentation. The groups are drawn for
    the steps such that no step has two of a person. The steps of an epoch, as many in each, are the largest T
    with sum over the persons of min(g, T) >= P T: all that can be filled. A last, short one has the rest of
    that sum. A whole pass has every sample once, in the order of `TrainSampler`.

    Args:
        persons: the person of each sample.
        samples_per_identity: K.

    Raises:
        UserError: K does not divide `batch_size`, or there are fewer than P persons.
    """

    def __init__(
        self,
        persons: Sequence[int],
        samples_per_identity: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = True,
    ) -> None:
        size, self.group_size = batch_size * world_size, samples_per_identity
        if batch_size % self.group_size:
            raise UserError(
                f"data.samples_per_identity: {self.group_size} samples of each person do not fill "
                f"data.batch_size={batch_size}; choose a divisor of it, or a multiple as the batch size"
            )
        self.by_person: dict[int, list[int]] = {}
        for index, person in enumerate(persons):
            self.by_person.setdefault(person, []).append(index)
        self.groups_of_step = size // self.group_size
        if len(self.by_person) < self.groups_of_step:
            raise UserError(
                f"data.sampler=identity: a step takes {self.group_size} samples of each of "
                f"{self.groups_of_step} persons ({batch_size} samples on each of {world_size} processes), "
                f"but the training split has {len(self.by_person)} persons. Lower data.batch_size, or raise "
                "data.samples_per_identity"
            )
        self.num_full, self.num_rest = self._count()
        super().__init__(len(persons), batch_size, seed, rank, world_size, drop_last)

    def _count(self) -> tuple[int, int]:
        """T, the number of full steps, and the number of groups of a short one after them."""
        groups = [max(1, len(indices) // self.group_size) for indices in self.by_person.values()]
        num_full, total = -1, sum(groups)
        while num_full != total // self.groups_of_step:  # falls from an upper bound to T
            num_full = total // self.groups_of_step
            total = sum(min(number, num_full) for number in groups)
        return num_full, total % self.groups_of_step

    def _num_drawn(self) -> int:
        if self.is_whole:
            return super()._num_drawn()
        return self.num_full * self.step_size + self.num_rest * self.group_size

    def _order(self) -> Sequence[Key]:
        """In a round, each step gets a group. A person takes the next places of the round and, where these
        run out, the first ones of another round in steps that do not have the person yet.
        """
        if self.is_whole:
            return super()._order()
        draw = seeded(self.seed, self.epoch)
        steps: list[list[Key]] = [[] for _ in range(self.num_full + (self.num_rest > 0))]
        persons = draw.sample([*self.by_person], len(self.by_person))
        places, num_rounds = deque[int](), 0
        for person in persons:
            groups = self._groups(person, draw)
            if len(groups) > len(places) and num_rounds < self.groups_of_step:
                numbers = range(self.num_full + (num_rounds < self.num_rest))
                taken, later = set(places), draw.sample(numbers, len(numbers))
                places.extend(sorted(later, key=taken.__contains__))
                num_rounds += 1
            for group in groups[: len(places)]:
                steps[places.popleft()] += group
        return list(itertools.chain.from_iterable(steps))

    def _groups(self, person: int, draw: random.Random) -> list[list[Key]]:
        """The groups of a person in the epoch, at most one for each full step."""
        indices = draw.sample(self.by_person[person], len(self.by_person[person]))
        keys: list[Key] = [(self.epoch, index) for index in indices]
        for repetition in range(1, -(-self.group_size // len(indices))):
            keys += [(self.epoch, index, -repetition) for index in indices]
        number = min(self.num_full, len(keys) // self.group_size)
        return [keys[at : at + self.group_size] for at in range(0, number * self.group_size, self.group_size)]


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
