"""Samples, their order, batches and worker processes."""

import dataclasses
import itertools
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from data import datasets
from data.columns.splits import Splits
from data.datasets import Sample, TrainingSet, evaluation_set, seeded
from data.loaders import Collate, Loaders, build_loaders
from data.sampler import Loader, TrainSampler
from data.types import VIEWS, Batch, ByLanguage, Record
from model.processor import ImageProcessor
from options import DataOptions, MiscOptions, Options, UserError
from text_utils.augment import TextAugmentation

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
PROCESSOR = ImageProcessor(image_size=(32, 12), image_mean=MEAN, image_std=STD)
NUM_IMAGES = 12


class Letters:
    """Stands in for a tokenizer: the code points of each caption, cut."""

    cleaning = "tbps-clip"

    def __init__(self, text_length: int) -> None:
        self.text_length = text_length

    def __call__(self, texts: Sequence[str]) -> dict[str, Tensor]:
        rows = [torch.tensor([ord(letter) for letter in text[: self.text_length]]) for text in texts]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return {"input_ids": ids, "attention_mask": (ids > 0).long()}


count_letters = Letters(77)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("imgs")
    generator = np.random.default_rng(0)
    for number in range(NUM_IMAGES):
        pixels = generator.integers(0, 255, (10, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((40, 100)).save(folder / f"{number}.png")
    return folder


def records(languages: Sequence[str] = ("en",)) -> ByLanguage:
    """12 images of 4 persons (ids 10, 20, 30, 40), two captions each."""

    def one(number: int, language: str) -> Record:
        captions = tuple(f"{language} Picture {number}: caption {c} of some words." for c in (0, 1))
        return Record(f"{number}.png", 10 * (1 + number // 3), captions, ("another text", ""), language)

    return {language: [one(n, language) for n in range(NUM_IMAGES)] for language in languages}


def options(root: Path, num_workers: int = 0, batch_size: int = 4) -> Options:
    return dataclasses.replace(
        Options(),
        misc=MiscOptions(device="cpu"),
        data=DataOptions(
            image_root=str(root),
            cleaning="tbps-clip",
            batch_size=batch_size,
            num_workers=num_workers,
            test_batch_size=5,
        ),
    )


def loaders(
    root: Path,
    num_workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    batch_size: int = 4,
    inputs: Sequence[str] = ("view1",),
    drop_last: bool = True,
) -> Loaders:
    splits = Splits(train=records(), val={}, test=records(("en", "ch")))
    chosen = options(root, num_workers, batch_size)
    chosen = dataclasses.replace(chosen, data=dataclasses.replace(chosen.data, drop_last=drop_last))
    return build_loaders(chosen, splits, count_letters, PROCESSOR, inputs, rank, world_size)


def epoch(loaders: Loaders, number: int) -> list[Batch]:
    loaders.train_sampler.set_epoch(number)
    return list(loaders.train)


def tensors(batch: Batch) -> list[Tensor]:
    return [*batch.images.values(), *batch.tokens.values(), batch.person_ids, batch.indices]


def same(batches: list[Batch], others: list[Batch]) -> bool:
    pairs = zip(
        [t for b in batches for t in tensors(b)], [t for b in others for t in tensors(b)], strict=True
    )
    return all(torch.equal(a, b) for a, b in pairs)


def test_there_is_a_sample_for_each_caption_of_each_language(root: Path) -> None:
    samples = TrainingSet(records(("en", "ch")), root, (32, 12))
    assert len(samples) == 2 * NUM_IMAGES * 2
    captions = [samples[(0, index)].caption for index in range(len(samples))]
    assert len(set(captions)) == len(samples)
    assert captions[0] == "en picture 0 caption 0 of some words"
    assert captions[-1] == "ch picture 11 caption 1 of some words"
    ((record, number),) = samples.choices[3]
    assert (record.image, number) == ("1.png", 1)


def test_person_ids_are_contiguous_from_zero(root: Path) -> None:
    samples = TrainingSet(records(), root, (32, 12))
    assert [samples[(0, index)].person_id for index in range(24)] == [n // 6 for n in range(24)]


def test_an_image_is_decoded_once_for_all_its_views(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    load = datasets.load_image
    monkeypatch.setattr(datasets, "load_image", lambda path, *_: decoded.append(path) or load(path))
    samples = TrainingSet(records(), root, (32, 12), views=("view1", "view2", "simclr1", "simclr2"))
    views = samples[(0, 0)].images
    assert len(decoded) == 1
    assert list(views) == ["view1", "view2", "simclr1", "simclr2"]
    assert not torch.equal(views["simclr1"], views["simclr2"])


def test_epochs_and_seeds_draw_other_augmentation_and_the_same_key_the_same(root: Path) -> None:
    def draw(seed: int, epoch: int) -> list[tuple[str, bytes]]:
        augment_text = TextAugmentation("deletion", alpha=0.3, back_translation_p=0.1)
        samples = TrainingSet(records(), root, (32, 12), ("view1",), seed, "pool", augment_text)
        return [
            (s.caption, s.images["view1"].numpy().tobytes()) for s in (samples[(epoch, n)] for n in range(24))
        ]

    assert draw(0, 0) == draw(0, 0)
    for other in (draw(0, 1), draw(1, 0)):
        assert sum(a[0] == b[0] for a, b in zip(draw(0, 0), other, strict=True)) < 12
        assert sum(a[1] == b[1] for a, b in zip(draw(0, 0), other, strict=True)) < 12
    assert seeded(1, 0, 0).random() != seeded(0, 1, 0).random() != seeded(0, 0, 1).random()


def test_back_translations_replace_captions_but_never_by_nothing(root: Path) -> None:
    augment_text = TextAugmentation(back_translation_p=1.0)
    samples = TrainingSet(records(), root, (32, 12), augment_text=augment_text)
    assert samples[(0, 0)].caption == "another text"
    assert samples[(0, 1)].caption == "en picture 0 caption 1 of some words"


def test_ranks_share_one_order_of_samples() -> None:
    for number in (0, 3):
        whole = TrainSampler(50, batch_size=6, seed=1)
        parts = [TrainSampler(50, batch_size=2, seed=1, rank=rank, world_size=3) for rank in range(3)]
        for sampler in (whole, *parts):
            sampler.set_epoch(number)
        steps = [list(itertools.chain(*step)) for step in zip(*parts, strict=True)]
        assert steps == list(whole)
        assert len(whole) == len(parts[0]) == len(steps) == 8
        keys = [key for step in steps for key in step]
        assert len(set(keys)) == 48, "no sample twice in an epoch"
        assert {key[0] for key in keys} == {number}


@pytest.mark.parametrize(("num_samples", "num_steps", "num_dropped"), [(53, 9, 0), (50, 8, 2), (54, 9, 0)])
def test_a_last_short_step_is_shared_as_evenly_as_possible(
    num_samples: int, num_steps: int, num_dropped: int
) -> None:
    """Three ranks of 2 samples, and one process of 6: 53 leaves 5, 50 leaves 2, too few to split."""
    ranks = [TrainSampler(num_samples, 2, 1, rank, 3, drop_last=False) for rank in range(3)]
    steps = list(zip(*ranks, strict=True))
    assert len(steps) == len(ranks[0]) == num_steps
    alone = list(TrainSampler(num_samples, 6, 1, drop_last=False))[:num_steps]
    assert [list(itertools.chain(*step)) for step in steps] == alone
    assert len({key for step in alone for key in step}) == num_samples - num_dropped
    sizes = [[len(keys) for keys in step] for step in steps]
    assert sizes == [[2, 2, 2]] * 8 + [[1, 2, 2]] * (num_samples == 53) + [[2, 2, 2]] * (num_samples == 54)
    uneven = [ranks[0].uneven(step) for step in range(num_steps)]
    assert uneven == [None] * 8 + [5] * (num_samples == 53) + [None] * (num_samples == 54)


def test_a_step_that_is_kept_is_the_last_of_a_loader_and_knows_the_samples_of_all_ranks(root: Path) -> None:
    """24 samples for five ranks of 3, and for one process of 15: 9 are left."""
    ranks = [
        loaders(root, rank=rank, world_size=5, batch_size=3, drop_last=False, num_workers=rank // 4)
        for rank in range(5)
    ]
    whole, last = epoch(loaders(root, batch_size=15, drop_last=False), 0)
    assert [batch.num_samples for batch in (whole, last)] == [None, None], "one process has them all"
    assert same(epoch(loaders(root, batch_size=15), 0), [whole])
    steps = list(zip(*(epoch(built, 0) for built in ranks), strict=True))
    for batches, alone, number, sizes in zip(
        steps, (whole, last), (None, 9), ([3] * 5, [1, 2, 2, 2, 2]), strict=True
    ):
        assert {batch.num_samples for batch in batches} == {number}
        assert [len(batch.indices) for batch in batches] == sizes
        assert torch.equal(torch.cat([batch.indices for batch in batches]), alone.indices)
    ranks[0].train_sampler.set_epoch(0, first_step=1)
    (again,) = ranks[0].train
    assert again.num_samples == 9
    assert same([again], [steps[1][0]])


def test_the_order_changes_with_epoch_and_seed_alone() -> None:
    def order(seed: int, number: int) -> list[int]:
        sampler = TrainSampler(100, batch_size=10, seed=seed)
        sampler.set_epoch(number)
        return [index for step in sampler for _, index in step]

    assert order(0, 0) == order(0, 0)
    orders = [order(seed, number) for seed, number in ((0, 0), (0, 1), (1, 0), (1, 1))]
    for n, first in enumerate(orders):
        assert first != sorted(first)
        assert all(sum(a == b for a, b in zip(first, other, strict=True)) < 10 for other in orders[n + 1 :])


def test_a_training_split_smaller_than_one_step_is_refused() -> None:
    assert len(TrainSampler(8, batch_size=4, seed=0, world_size=2)) == 1
    with pytest.raises(
        UserError, match=r"data.batch_size: a step takes 8 samples .4 on each of 2 .* split has 7"
    ):
        TrainSampler(7, batch_size=4, seed=0, world_size=2)
    assert len(TrainSampler(7, batch_size=4, seed=0, world_size=2, drop_last=False)) == 1
    with pytest.raises(UserError, match=r"data.drop_last=false: .* 1 samples, fewer than the 2 processes"):
        TrainSampler(1, batch_size=4, seed=0, world_size=2, drop_last=False)


def test_a_batch_is_normalised_as_the_processor_does() -> None:
    pixels = torch.randint(0, 256, (3, 32, 12), dtype=torch.uint8)
    batch = Collate(count_letters, PROCESSOR.finish, PROCESSOR.normalise)(
        [Sample({"view1": pixels}, "ab", 3, 7)]
    )
    image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    expected = PROCESSOR(images=[image], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(batch.images["view1"], expected)
    assert batch.tokens["input_ids"].tolist() == [[97, 98]]
    assert (batch.person_ids.tolist(), batch.indices.tolist()) == ([3], [7])
    assert batch.person_ids.dtype == batch.indices.dtype == torch.int64


def test_views_are_bytes_until_they_are_looked_up(root: Path) -> None:
    batch = epoch(loaders(root, inputs=VIEWS), 0)[0]
    numbers = sum(pixels.numel() for pixels in batch.images.values())
    assert numbers < len(pickle.dumps(batch)) < 1.5 * numbers + 10_000
    for moved in (batch, batch.to("cpu", non_blocking=True), pickle.loads(pickle.dumps(batch))):
        assert same([moved], [batch])
        assert dict(moved.images).keys() == {"view1", "view2", "simclr1", "simclr2"}
        assert all(pixels.is_contiguous() for pixels in moved.images.values())
    batch.images["view1"].zero_()
    assert batch.images["view1"].abs().sum() > 0, "what is looked up is the caller's own"


def test_an_image_is_resized_once_for_both_views_of_the_pool(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, resize = [], datasets.resize
    monkeypatch.setattr(datasets, "resize", lambda *args: sizes.append(args[1]) or resize(*args))
    for views, number in ((("view1", "view2", "simclr1"), 1), (("simclr1", "simclr2"), 0)):
        sizes.clear()
        TrainingSet(records(), root, (32, 12), views)[(0, 0)]
        assert sizes == [(32, 12)] * number


def test_back_translation_follows_its_switch(root: Path) -> None:
    for switched_on in (True, False):
        experiment = dataclasses.replace(options(root).experiment, back_trans=switched_on, backtrans_p=1.0)
        chosen = dataclasses.replace(options(root), experiment=experiment)
        built = build_loaders(chosen, Splits(records(), {}, records()), count_letters, PROCESSOR, ())
        words = {word for n in range(0, 24, 2) for word in built.training_set[(0, n)].caption.split()}
        assert ("another" in words) is switched_on
        assert ("picture" in words) is not switched_on


def test_every_caption_is_a_query_that_knows_its_person_and_image(root: Path) -> None:
    found = evaluation_set(records(("en", "ch")), root)
    assert found.images == [f"{n}.png" for n in range(NUM_IMAGES)]
    assert found.person_ids.tolist() == [10 * (1 + n // 3) for n in range(NUM_IMAGES)]
    assert list(found.queries) == ["en", "ch"]
    queries = found.queries["ch"]
    assert queries.captions[5] == "ch picture 2 caption 1 of some words"
    assert queries.image_indices.tolist() == [n // 2 for n in range(2 * NUM_IMAGES)]
    assert torch.equal(queries.person_ids, found.person_ids[queries.image_indices])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_gallery_rows_come_in_the_order_asked_for(root: Path, num_workers: int) -> None:
    built = loaders(root, num_workers)
    rows = [7, 0, 3, 3, 11, 5, 1]
    batches = list(built.images(built.test, rows))
    assert [len(batch) for batch in batches] == [5, 2]
    images = [Image.open(root / f"{row}.png") for row in rows]
    assert torch.equal(torch.cat(batches), PROCESSOR(images=images, return_tensors="pt")["pixel_values"])
    assert list(built.images(built.test, [])) == []


def test_without_training_data_there_are_evaluation_sets_alone(root: Path) -> None:
    built = build_loaders(options(root), Splits({}, {}, records()), count_letters, PROCESSOR, ())
    assert (built.train, built.train_sampler, built.training_set, built.val) == (None, None, None, None)
    assert len(built.test.images) == NUM_IMAGES


class _Faulty(torch.utils.data.Dataset[int]):
    """Samples of which the second one fails."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> int:
        if index == 1:
            raise self.error
        return index


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_user_error_of_a_worker_arrives_as_the_same_line(num_workers: int) -> None:
    line = "image 'four.jpg' cannot be read"
    with pytest.raises(UserError) as caught:
        list(Loader(_Faulty(UserError(line)), list, batch_size=2, num_workers=num_workers))
    assert str(caught.value) == line


def test_a_mistake_of_the_program_stays_a_crash() -> None:
    with pytest.raises(KeyError):
        list(Loader(_Faulty(KeyError("file_path")), list, batch_size=2, num_workers=0))


@pytest.mark.parametrize(("text_length", "cut"), [(39, 0), (38, 4), (37, 24), (77, None)])
def test_captions_that_a_short_text_tower_cuts_are_counted_once(
    root: Path, caplog: pytest.LogCaptureFixture, text_length: int, cut: int | None
) -> None:
    """Twelve images with two captions each, of 38 letters, and of 39 where the image's number has two."""
    splits = Splits(records(), {}, {})
    for rank in (0, 1):
        build_loaders(options(root), splits, Letters(text_length), PROCESSOR, (), rank, 2)
    said = [record.getMessage() for record in caplog.records if "are cut" in record.getMessage()]
    expected = f"{cut} of 24 captions are longer than {text_length} tokens and are cut"
    assert said == ([expected] if cut else [])
