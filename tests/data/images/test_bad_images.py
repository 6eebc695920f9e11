"""`data.on_bad_image`: training images that cannot be read stop a run, or are skipped and named."""

import dataclasses
import itertools
import json
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from data import datasets
from data.annotations import check_bad_images, load_data
from data.columns.splits import Splits
from data.datasets import MAX_DRAWS, Sample, TrainingSet, seeded
from data.loaders import Loaders, build_loaders
from data.types import Batch, ByLanguage, Record
from model.processor import ImageProcessor
from options import DataOptions, ExperimentOptions, MiscOptions, Options, UserError
from text_utils.tokenizer import CLIPTokenizer

PROCESSOR = ImageProcessor(image_size=(16, 8), image_mean=(0.5, 0.4, 0.3), image_std=(0.2, 0.25, 0.3))
NUM_IMAGES, BAD = 20, ("3.png", "11.png")  # the images of the samples 6, 7, 22, 23
MASKED = ("view1", "tokens", "masked_tokens")
MIXED = {"inputs": (*MASKED, "simclr1", "simclr2", "tokens2"), "mixgen": True, "mixgen_p": 1.0}
SEED = 1


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """20 images, two of them cut short."""
    generator = np.random.default_rng(0)
    for number in range(NUM_IMAGES):
        path = tmp_path / f"{number}.png"
        Image.fromarray(generator.integers(0, 255, (20, 9, 3), dtype=np.uint8)).save(path)
        if path.name in BAD:
            path.write_bytes(path.read_bytes()[:200])
    return tmp_path


def records(languages: tuple[str, ...] = ("en",)) -> ByLanguage:
    """Two captions of each image, five persons."""

    def one(number: int, language: str) -> Record:
        captions = tuple(f"{language} image {number} in words {c}" for c in (0, 1))
        return Record(f"{number}.png", number // 4, captions, (), language)

    return {language: [one(number, language) for number in range(NUM_IMAGES)] for language in languages}


def training_set(root: Path, on_bad_image: str = "skip", language_draw: str = "all") -> TrainingSet:
    of = records(("en", "ch") if language_draw == "one" else ("en",))
    return TrainingSet(of, root, (16, 8), seed=SEED, language_draw=language_draw, on_bad_image=on_bad_image)


def build(
    root: Path,
    workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    on_bad_image: str = "skip",
    inputs: tuple[str, ...] = ("view1", "tokens"),
    **experiment: object,
) -> Loaders:
    """Batches of 8 over all ranks, five in an epoch."""
    data = DataOptions(
        image_root=str(root),
        cleaning="tbps-clip",
        batch_size=8 // world_size,
        num_workers=workers,
        on_bad_image=on_bad_image,
    )
    options = dataclasses.replace(
        Options(), misc=MiscOptions(SEED, device="cpu"), data=data, experiment=ExperimentOptions(**experiment)
    )
    splits = Splits(records(), {}, records())
    return build_loaders(options, splits, CLIPTokenizer(), PROCESSOR, inputs, rank, world_size)


def epoch(built: Loaders, number: int = 0, first_step: int = 0) -> list[Batch]:
    built.train_sampler.set_epoch(number, first_step)
    return list(built.train)


def plain(batch: Batch) -> dict[str, object]:
    """A batch as numbers and names that compare."""

    def numbers(value: object) -> object:
        if isinstance(value, Mapping):
            return {name: numbers(part) for name, part in value.items()}
        return value.tolist() if isinstance(value, Tensor) else value

    return {field.name: numbers(getattr(batch, field.name)) for field in dataclasses.fields(batch)}


def same(sample: Sample, other: Sample) -> bool:
    views = zip(sample.images.values(), other.images.values(), strict=True)
    rest = [(s.caption, s.person_id, s.index, s.second_caption, s.seed) for s in (sample, other)]
    return all(torch.equal(a, b) for a, b in views) and rest[0] == rest[1]


def test_a_bad_image_stops_training_and_is_named_unless_it_is_to_be_skipped(root: Path) -> None:
    assert Options().data.on_bad_image == "error"
    for samples in (training_set(root, "error"), TrainingSet(records(), root, (16, 8))):
        with pytest.raises(UserError, match=rf"image '{root}/11\.png' cannot be read"):
            samples[(0, 23)]
    with pytest.raises(UserError, match=r"image '.*/(3|11)\.png' cannot be read"):
        epoch(build(root, on_bad_image="error"))


def test_without_a_bad_image_the_two_settings_give_the_same_samples(root: Path) -> None:
    stop, skip = training_set(root, "error"), training_set(root)
    for number, index in itertools.product((0, 5), (n for n in range(40) if n // 2 not in (3, 11))):
        assert same(stop[(number, index)], skip[(number, index)])
        assert skip[(number, index)].bad_images == ()


def test_a_whole_other_sample_stands_in_drawn_by_seed_epoch_index_and_attempt(root: Path) -> None:
    samples, chosen, drawn_twice = training_set(root), set(), 0
    for number, index in itertools.product(range(40), (6, 7, 22, 23)):
        expected, bad = index, []
        while f"{expected // 2}.png" in BAD:
            bad.append(f"{expected // 2}.png")
            expected = seeded(SEED, number, index, len(bad)).randrange(40)
        sample = samples[(number, index)]
        assert sample.index == expected
        assert sample.bad_images == tuple(bad)
        assert sample.caption == f"en image {expected // 2} in words {expected % 2}"
        assert sample.person_id == expected // 8
        assert same(sample, training_set(root)[(number, index)])
        chosen.add(expected)
        drawn_twice += len(bad) > 1
    assert len(chosen) > 25
    assert drawn_twice > 5
    own = samples[(0, sample.index)]
    assert not same(sample, own), "its augmentation is its own"


def test_of_several_languages_the_caption_shows_the_image_that_stands_in(root: Path) -> None:
    samples = training_set(root, language_draw="one")
    languages = set()
    for number in range(20):
        sample = samples[(number, 6)]
        language, rest = sample.caption.split(" ", 1)
        languages.add(language)
        assert rest == f"image {sample.index // 2} in words {sample.index % 2}"
    assert languages == {"en", "ch"}


def test_neither_workers_ranks_nor_where_a_run_goes_on_change_what_stands_in(root: Path) -> None:
    whole = [[plain(batch) for batch in epoch(build(root, inputs=MASKED), number)] for number in (0, 1)]
    assert sum(len(batch["bad_images"]) for batch in whole[0]) >= 2
    built = build(root, workers=2, inputs=MASKED)
    for number in (0, 1, 1):  # the last time with what the workers remember
        assert [plain(batch) for batch in epoch(built, number)] == whole[number]
    late = build(root, workers=2, inputs=MASKED)
    assert [plain(batch) for batch in epoch(late, 1, first_step=2)] == whole[1][2:]
    ranks = [epoch(build(root, rank=rank, world_size=2), 1) for rank in (0, 1)]
    for batch, *parts in zip(whole[1], *ranks, strict=True):
        assert batch["indices"] == [n for part in parts for n in part.indices.tolist()]
        assert batch["bad_images"] == list(dict.fromkeys(name for part in parts for name in part.bad_images))


def test_a_batch_names_each_bad_file_once_and_keeps_its_shape(root: Path) -> None:
    built = build(root, **MIXED)
    samples = [built.training_set[(0, index)] for index in (22, 0, 6, 7, 1, 23, 2, 4)]
    batch = built.train.dataset.collate(samples)
    assert batch.bad_images[:2] == ["11.png", "3.png"]
    assert sorted(batch.bad_images) == sorted(BAD)
    assert set(batch.images) == {"view1", "simclr1", "simclr2"}
    assert {len(pixels) for pixels in batch.images.values()} == {8}
    for tokens in (batch.tokens, batch.tokens2, batch.masked_tokens):
        assert {len(part) for part in tokens.values()} == {8}
    assert batch.mlm_labels.shape == batch.tokens["input_ids"].shape
    assert not set(BAD) & set(built.training_set.image_names(batch.indices.tolist()))
    for batch in epoch(built):
        assert len(batch.indices) == len(batch.person_ids) == 8
        assert not set(BAD) & set(built.training_set.image_names(batch.indices.tolist()))


def test_a_batch_takes_its_bad_files_along(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, "pin_memory", Tensor.clone)
    built = build(root)
    batch = built.train.dataset.collate([built.training_set[(0, 6)]])
    for moved in (batch.to("meta"), batch.pin_memory(), batch.pin_memory().to("cpu", non_blocking=True)):
        assert moved.bad_images == batch.bad_images
        assert "3.png" in moved.bad_images


def test_a_bad_file_is_tried_once_in_a_process(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    load = datasets.load_image
    monkeypatch.setattr(datasets, "load_image", lambda path, *_: tried.append(path.name) or load(path))
    samples = training_set(root)
    for number in range(10):
        for index in range(40):
            samples[(number, index)]
    assert [tried.count(name) for name in BAD] == [1, 1]


def test_only_images_are_skipped(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> str:
        raise UserError("no synonyms")

    samples = training_set(root)
    samples.augment_text = fail
    with pytest.raises(UserError, match="no synonyms"):
        samples[(0, 0)]


@pytest.mark.parametrize("num_images", [1, NUM_IMAGES])
def test_a_set_without_a_good_image_ends_in_an_error(root: Path, num_images: int) -> None:
    few = {"en": records()["en"][:num_images]}
    for path in root.glob("*.png"):
        path.write_bytes(b"")
    samples = TrainingSet(few, root, (16, 8), on_bad_image="skip")
    with pytest.raises(
        UserError, match=rf"data\.on_bad_image: .* {MAX_DRAWS} .* \(first: '0\.png'\)\. Check"
    ):
        samples[(0, 0)]


def test_images_are_counted_once_whatever_shows_them(root: Path) -> None:
    assert training_set(root).num_images == NUM_IMAGES
    assert training_set(root, language_draw="one").num_images == NUM_IMAGES
    samples = TrainingSet(records(("en", "ch")), root, (16, 8))
    assert samples.num_images == NUM_IMAGES
    samples.check_bad_images(["0.png"])
    with pytest.raises(UserError, match="2 of 20 training images"):
        samples.check_bad_images(["0.png", "1.png"])


@pytest.mark.parametrize(
    ("num_bad", "num_images", "too_many"),
    [
        (0, 1, False),
        (1, 1, False),
        (1, 20, False),
        (2, 20, True),
        (2, 199, True),
        (2, 200, False),
        (340, 34054, False),
        (341, 34054, True),
    ],
)
def test_one_in_a_hundred_may_be_bad_and_one_in_any_case(
    num_bad: int, num_images: int, too_many: bool
) -> None:
    bad = [f"{n:03}.jpg" for n in range(num_bad)]
    if not too_many:
        check_bad_images(bad, num_images)
        return
    with pytest.raises(UserError) as caught:
        check_bad_images(set(bad), num_images)
    message = str(caught.value)
    assert f"{num_bad} of {num_images} training images" in message
    assert f"{num_bad / num_images:.2%}".replace("%", " %") in message
    assert "'000.jpg', '001.jpg'" in message
    assert "'003.jpg'" not in message
    assert "python -m data.check" in message
    assert "\n" not in message


def annotated(root: Path, on_bad_image: str = "skip") -> Options:
    """Options of the 20 images to train on, and one of val and test each."""
    items = [
        {"split": "train", "file_path": r.image, "id": r.person_id, "captions": r.captions}
        for r in records()["en"]
    ]
    for split in ("val", "test"):
        Image.new("RGB", (4, 8)).save(root / f"{split}.png")
        items.append({"split": split, "file_path": f"{split}.png", "id": 99, "captions": ["a man"]})
    (root / "a.json").write_text(json.dumps(items), encoding="utf-8")
    settings = {"cleaning": "tbps-clip", "num_workers": 0, "on_bad_image": on_bad_image}
    data = DataOptions(str(root / "a.json"), str(root), **settings)
    return dataclasses.replace(Options(), data=data, experiment=ExperimentOptions(back_trans=False))


def test_a_missing_training_image_is_warned_of_and_skipped(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = annotated(root)
    load_data(options)
    assert not caplog.records
    (root / "8.png").unlink()
    splits = load_data(options)
    (line,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    for words in ("1 of 20 training images", str(root), "first: '8.png'"):
        assert words in line
    sample = TrainingSet(splits.train, root, (16, 8), on_bad_image="skip")[(0, 16)]
    assert sample.bad_images[0] == "8.png"
    with pytest.raises(UserError, match=r"lists 1 images that are not under .* \(first: '8\.png'\)"):
        load_data(annotated(root, "error"))


def test_too_many_missing_training_images_stop_a_run_at_the_start(root: Path) -> None:
    for name in ("8.png", "9.png"):
        (root / name).unlink()
    with pytest.raises(
        UserError, match=r"data\.on_bad_image: 2 of 20 .* 10\.00 % \(such as '8.png', '9.png'\)"
    ):
        load_data(annotated(root))


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_gallery_must_be_whole(split: str, root: Path) -> None:
    options = annotated(root)
    gallery = Splits({}, {}, {"en": [Record(f"{split}.png", 99, ("a man",), (), "en")]})
    (root / f"{split}.png").write_bytes(b"")
    built = build_loaders(options, gallery, CLIPTokenizer(), PROCESSOR, ())
    with pytest.raises(UserError, match=rf"{split}\.png' cannot be read .*; a gallery must be whole"):
        list(built.images(built.test, [0]))
    (root / f"{split}.png").unlink()
    with pytest.raises(UserError, match=rf"first: '{split}\.png'.*; a gallery must be whole"):
        load_data(options)
