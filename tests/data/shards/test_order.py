"""Samples from shards: each once an epoch, the same for any number of processes, shards one after another."""

from collections import Counter
from collections.abc import Iterable
from itertools import chain, groupby

import numpy as np
import pytest

from data.shards.order import ShardSampler

SIZES = (40, 7, 0, 23, 1, 64, 30, 12, 9)  # samples of each shard
NUMBER = sum(SIZES)
SHARDS = np.repeat(np.arange(len(SIZES)), SIZES)


def sampler(rank: int = 0, world_size: int = 1, **changes: object) -> ShardSampler:
    settings = {"shards": SHARDS, "window": 24, "num_streams": 4, "prepare": lambda numbers: None}
    settings |= {"batch_size": 12 // world_size, "seed": 5, "drop_last": False}
    return ShardSampler(**settings | {"rank": rank, "world_size": world_size} | changes)


def steps(one: ShardSampler, epoch: int = 0, first_step: int = 0) -> list[list[int]]:
    one.set_epoch(epoch, first_step)
    found = list(one)
    assert all(key[0] == epoch for keys in found for key in keys)
    return [[key[1] for key in keys] for keys in found]


def flat(found: Iterable[list[int]]) -> list[int]:
    return [*chain.from_iterable(found)]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_each_sample_is_taken_once_an_epoch_whatever_the_number_of_processes(world_size: int) -> None:
    for epoch in range(3):
        ranks = [steps(sampler(rank, world_size), epoch) for rank in range(world_size)]
        joined = [flat(parts) for parts in zip(*ranks, strict=True)]
        assert Counter(flat(joined)) == Counter(range(NUMBER))
        assert joined == steps(sampler(), epoch)


@pytest.mark.parametrize(("num_streams", "batch_size"), [(30, 12), (7, 2), (3, NUMBER), (2, NUMBER + 50)])
def test_streams_may_be_more_than_samples_of_a_step_and_a_step_more_than_all(
    num_streams: int, batch_size: int
) -> None:
    found = steps(sampler(num_streams=num_streams, batch_size=batch_size))
    assert Counter(flat(found)) == Counter(range(NUMBER))
    assert all(len(step) == batch_size for step in found[:-1])


def test_a_short_last_step_is_dropped_where_that_is_wanted() -> None:
    found = steps(sampler(drop_last=True))
    assert [len(step) for step in found] == [12] * (NUMBER // 12)
    assert len(set(flat(found))) == NUMBER // 12 * 12


def test_epochs_differ_and_a_pass_begins_at_any_step() -> None:
    first, second = steps(sampler(), 0), steps(sampler(), 1)
    assert first != second
    for step in (1, 7, len(second) - 1):
        assert steps(sampler(), 1, step) == second[step:]


def test_ranks_read_other_shards_where_streams_can_be_split() -> None:
    even = np.repeat(np.arange(8), 24)
    ranks = [flat(steps(sampler(rank, 2, shards=even, drop_last=True))) for rank in range(2)]
    shards = [set(even[samples].tolist()) for samples in ranks]
    assert len(shards[0]) == len(shards[1]) == 4
    assert not shards[0] & shards[1]


def test_a_sample_moves_within_the_window_alone() -> None:
    found, unshuffled = (flat(steps(sampler(num_streams=1, window=window))) for window in (10, 1e-9))
    files = [list(group) for _, group in groupby(unshuffled, SHARDS.__getitem__)]
    assert [len(file) for file in files] == [SIZES[SHARDS[file[0]]] for file in files]  # one after another
    assert all(file == sorted(file) for file in files)
    moves = [abs(place - unshuffled.index(sample)) for place, sample in enumerate(found)]
    assert 1 < max(moves) < 10


def test_shards_are_prepared_before_their_samples_are_taken() -> None:
    prepared: list[int] = []
    one = sampler(prepare=prepared.extend)
    for keys in one:
        assert {int(SHARDS[index]) for _, index in keys} <= set(prepared)
    assert sorted(prepared) == [number for number, size in enumerate(SIZES) if size]
