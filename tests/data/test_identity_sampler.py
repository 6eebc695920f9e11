"""Batches of several samples of each person: their contents, their number, ranks, epochs, whole passes."""

import itertools
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch

from data.annotations import load_data
from data.loaders import build_loaders
from data.sampler import IdentitySampler, TrainSampler
from main import main
from model import build_model
from options import UserError, load_options
from tests.helpers.gloo import run_in_processes
from tests.helpers.whole_runs import assert_same_runs, error_line, train_lines

Steps = list[list[tuple[int, ...]]]
SIZES = (1, 2, 3, 4, 5, 6, 7, 8, 40, 3, 1, 2)  # samples of each person
PERSONS = [person for person, size in enumerate(SIZES) for _ in range(size)]


def steps_of(sampler: TrainSampler, epoch: int = 0, first_step: int = 0) -> Steps:
    sampler.set_epoch(epoch, first_step)
    return list(sampler)


def most_steps(groups: list[int], persons_of_step: int) -> int:
    """Of all ways to fill steps with groups of different persons: always take the persons that have most."""
    number = 0
    while sum(left > 0 for left in groups) >= persons_of_step:
        groups.sort(reverse=True)
        groups[:persons_of_step] = [left - 1 for left in groups[:persons_of_step]]
        number += 1
    return number


@pytest.mark.parametrize("group_size", [1, 2, 3, 4])
@pytest.mark.parametrize("epoch", [0, 5])
def test_each_step_has_that_many_samples_of_each_of_its_persons(group_size: int, epoch: int) -> None:
    sampler = IdentitySampler(PERSONS, group_size, 4 * group_size, seed=1)
    steps = steps_of(sampler, epoch)
    for keys in steps:
        assert {key[0] for key in keys} == {epoch}
        counts = Counter(PERSONS[key[1]] for key in keys)
        assert len(counts) == 4
        assert set(counts.values()) == {group_size}
    repeated = [key for keys in steps for key in keys if len(key) > 2]
    assert {SIZES[PERSONS[key[1]]] < group_size for key in repeated} <= {True}
    keys = [key for step in steps for key in step]
    assert len(set(keys)) == len(keys), "a sample that is repeated has another augmentation"


def test_an_epoch_has_the_most_steps_that_can_be_filled() -> None:
    draw = random.Random(0)
    for _ in range(200):
        group_size, persons_of_step = draw.randint(1, 4), draw.randint(1, 6)
        sizes = [draw.choice((1, 2, 3, 5, 9, 60)) for _ in range(draw.randint(persons_of_step, 20))]
        persons = [person for person, size in enumerate(sizes) for _ in range(size)]
        place = (group_size, group_size * persons_of_step)
        number = most_steps([max(1, size // group_size) for size in sizes], persons_of_step)
        sampler = IdentitySampler(persons, *place, seed=draw.randint(0, 9))
        for epoch in range(2):
            steps = steps_of(sampler, epoch)
            assert len(steps) == len(sampler) == number
            assert all(len({persons[key[1]] for key in keys}) == persons_of_step for keys in steps)
            assert all(len(keys) == place[1] for keys in steps)
        *full, last = steps_of(IdentitySampler(persons, *place, seed=sampler.seed, drop_last=False), 1)
        if len(full) == number:
            counts = Counter(persons[key[1]] for key in last)
            assert len(last) < place[1]
            assert set(counts.values()) == {group_size}
            steps.append(last)
        assert [*full, last] == steps, "the steps before a last short one are those without it"


def test_over_the_epochs_every_sample_is_drawn_about_as_often_and_beside_all_others() -> None:
    persons = [number // 5 for number in range(100)]  # 20 persons of 5 samples, of which 4 are in an epoch
    sampler = IdentitySampler(persons, 2, 8, seed=0)
    counts, beside, at = Counter[int](), Counter[tuple[int, int]](), Counter[tuple[int, int]]()
    for epoch in range(300):
        steps = steps_of(sampler, epoch)
        assert len(steps) == 10
        for number, keys in enumerate(steps):
            counts.update(key[1] for key in keys)
            together = sorted({persons[key[1]] for key in keys})
            beside.update(itertools.combinations(together, 2))
            at.update((person, number) for person in together)
    assert len(counts) == 100
    assert all(200 < count < 280 for count in counts.values()), "of 240"
    assert len(beside) == 190
    assert all(60 < count < 130 for count in beside.values()), "of 3000 * 6 / 190 = 95"
    assert len(at) == 200
    assert all(30 < count < 95 for count in at.values()), "of 60"


def test_ranks_share_one_draw_and_a_resumed_epoch_has_the_rest_of_it() -> None:
    whole = IdentitySampler(PERSONS, 2, 8, seed=1, drop_last=False)
    ranks = [IdentitySampler(PERSONS, 2, 2, 1, rank, 4, drop_last=False) for rank in range(4)]
    alone = steps_of(whole, 3)
    parts = [steps_of(sampler, 3) for sampler in ranks]
    assert [list(itertools.chain(*step)) for step in zip(*parts, strict=True)] == alone
    assert len({len(sampler) for sampler in (whole, *ranks)}) == 1
    assert len(alone[-1]) < 8
    assert ranks[0].uneven(0) is None
    assert ranks[0].uneven(len(alone) - 1) == (len(alone[-1]) if len(alone[-1]) % 4 else None)
    for first_step in (1, len(alone) - 1):
        assert steps_of(whole, 3, first_step) == alone[first_step:]
    assert steps_of(whole, 4) != alone
    assert steps_of(IdentitySampler(PERSONS, 2, 8, seed=2, drop_last=False), 3) != alone


def test_a_whole_pass_has_every_sample_once_in_the_plain_order() -> None:
    samplers = IdentitySampler(PERSONS, 2, 8, seed=1), TrainSampler(len(PERSONS), 8, seed=1)
    for sampler in samplers:
        sampler.set_epoch(-1, is_whole=True)
    assert list(samplers[0]) == list(samplers[1])
    assert len(samplers[0]) == len(samplers[1])
    assert [samplers[0].uneven(step) for step in range(11)] == [
        samplers[1].uneven(step) for step in range(11)
    ]


def test_what_a_batch_cannot_hold_is_refused() -> None:
    with pytest.raises(UserError, match=r"^data.samples_per_identity: 3 .* data.batch_size=8; choose"):
        IdentitySampler(PERSONS, 3, 8, seed=0)
    with pytest.raises(
        UserError, match=r"^data.sampler=identity: .* 2 samples of each of 16 persons .16 .* 2 .* has 12 pers"
    ):
        IdentitySampler(PERSONS, 2, 16, seed=0, world_size=2)
    assert len(IdentitySampler(PERSONS, 2, 12, seed=0, world_size=2)) == 1


IDENTITY = ["data.sampler=identity", "data.drop_last=false"]


def test_the_loader_draws_the_same_whatever_the_number_of_its_workers(config: Path) -> None:
    """Few samples of a person are repeated, with another augmentation; MixGen keeps the persons."""
    few = ["data.few_shot=0.5", "data.samples_per_identity=4", "data.noise=0.4", "data.batch_size=8"]
    mixed = ["experiment.mixgen=true", "experiment.mixgen_p=1", "experiment.mixgen_ratio=0.5"]
    batches = []
    for workers in (0, 2):
        options = load_options(config, [*IDENTITY, *few, *mixed, f"data.num_workers={workers}"])
        splits = load_data(options)
        model, tokenizer, processor = build_model(options, splits.num_identities)
        loaders = build_loaders(options, splits, tokenizer, processor, model.inputs)
        loaders.train_sampler.set_epoch(1)
        batches.append(list(loaders.train))
        assert len(loaders.train) == len(batches[-1])
    persons = loaders.training_set.persons
    for alone, other in zip(*batches, strict=True):
        assert torch.equal(alone.indices, other.indices)
        assert torch.equal(alone.images["view1"], other.images["view1"])
        assert torch.equal(alone.tokens["input_ids"], other.tokens["input_ids"])
        assert alone.person_ids.tolist() == [persons[index] for index in alone.indices]
        assert set(Counter(alone.person_ids.tolist()).values()) == {4}
    (key,) = {(2, index) for index in batches[0][0].indices[:1].tolist()}
    one, again = (loaders.training_set[each] for each in (key, (*key, -1)))
    assert (one.index, one.person_id) == (again.index, again.person_id)
    assert one.seed != again.seed


@pytest.mark.slow
def test_two_processes_train_as_one_and_resume_inside_the_epoch(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """10 persons of 4 samples: 2 steps of 16, and 8 samples in a last one; the division reads all 40."""
    alone, ranks, resumed = (tmp_path / name for name in ("alone", "ranks", "resumed"))
    common = ["--config", str(config), *IDENTITY, "experiment.dropout=0", "log.print_period=1"]
    common += ["log.checkpoint_period=1", "log.keep_checkpoints=9", "experiment.tal=true"]
    common += ["experiment.ccd=true"]
    parts = [*common, "data.batch_size=8"]
    assert main([*common, "--output-dir", str(alone)]) == 0
    assert run_in_processes(main, 2, tmp_path, [*parts, "--output-dir", str(ranks)]) == [0, 0]
    assert (alone / "log.txt").read_text().count(" of 40 samples called noisy") == 2
    lines = [train_lines(folder) for folder in (alone, ranks)]
    assert [line["steps_per_epoch"] for line in lines[0]] == [3] * 6
    for one, other in zip(*lines, strict=True):
        for value in ("loss", "gradient_norm"):
            assert other[value] == pytest.approx(one[value], rel=1e-3), f"step {one['step']}"

    shutil.copytree(ranks, resumed)
    checkpoint = ["--resume", str(resumed / "checkpoint_step_4.pth"), "--output-dir", str(resumed)]
    assert run_in_processes(main, 2, tmp_path, [*parts, *checkpoint]) == [0, 0]
    assert_same_runs(ranks, resumed)
    capsys.readouterr()
    assert main([*common, "data.samples_per_identity=3", "data.batch_size=8"]) == 2
    assert error_line(capsys).startswith("error: data.samples_per_identity: 3 samples of each person do not")
