"""The order of training samples that are read from shards."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from data.datasets import seeded
from data.sampler import Key, KeySequence, TrainSampler

Numbers = npt.NDArray[np.int64]


class ShardSampler(TrainSampler):
    """A `TrainSampler` that goes through shards in the order of their samples, shuffled within a window.

    In each epoch, the shards are shuffled and put one after another, and what they hold is cut into
    `num_streams` streams. In a stream, each sample moves back by at most `window` / `num_streams` places, as
    in a shuffle buffer of that size. Each step takes the next samples of every stream, as many of each (to
    one): the order is a function of the seed and the epoch alone, and where the number of streams is a
    multiple of that of ranks, no two ranks read the same stream.

    Args:
        shards: (N,) the number of the shard of each sample, those of a shard in the order of its file.
        window: samples, in all streams together.
        prepare: called with the numbers of shards, at least `window` samples before their first is taken.
    """

    def __init__(
        self,
        shards: Numbers,
        window: int,
        num_streams: int,
        prepare: Callable[[Sequence[int]], None],
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = True,
    ) -> None:
        super().__init__(len(shards), batch_size, seed, rank, world_size, drop_last)
        self.shards, self.window, self.num_streams, self.prepare = shards, window, num_streams, prepare
        self.shift = window / num_streams
        self.by_shard, self.sizes = np.argsort(shards, kind="stable"), np.bincount(shards).tolist()

    def __iter__(self) -> Iterator[list[Key]]:
        upcoming, seen = deque[list[Key]](), set[int]()
        for keys in super().__iter__():
            numbers = sorted(set(self.shards[[key[1] for key in keys]].tolist()) - seen)
            if numbers:
                self.prepare(numbers)
                seen.update(numbers)
            upcoming.append(keys)
            if len(upcoming) * self.step_size > self.window:
                yield upcoming.popleft()
        yield from upcoming

    def _order(self) -> Sequence[Key]:
        generator = torch.Generator().manual_seed(seeded(self.seed, self.epoch).getrandbits(63))
        of_shards = torch.from_numpy(self.by_shard).split(self.sizes)
        shuffled = torch.randperm(len(of_shards), generator=generator).tolist()
        samples = torch.cat([of_shards[number] for number in shuffled])
        num_full, rest = divmod(len(samples), self.step_size)
        order = torch.empty_like(samples)
        whole, last = order.split([num_full * self.step_size, rest])
        steps, start = whole.view(num_full, self.step_size), 0
        for stream in range(self.num_streams):
            of_step, of_last = self._part(self.step_size, stream), self._part(rest, stream)
            in_steps = steps[:, of_step].numel()
            length = in_steps + of_last.stop - of_last.start
            moves = self.shift * torch.rand(length, generator=generator, dtype=torch.float64)
            part = samples[start : start + length][(torch.arange(length) + moves).argsort()]
            steps[:, of_step] = part[:in_steps].view(num_full, of_step.stop - of_step.start)
            last[of_last] = part[in_steps:]
            start += length
        return KeySequence(self.epoch, order)

    def _part(self, number: int, stream: int) -> slice:
        """The part of a stream in a step of that many samples."""
        return slice(number * stream // self.num_streams, number * (stream + 1) // self.num_streams)
