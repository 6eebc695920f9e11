"""How training draws over languages, and that evaluation asks the same gallery in each."""

import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image

from data.annotations import load_data
from data.columns.splits import Splits
from data.datasets import Sample, TrainingSet
from data.loaders import build_loaders
from data.types import ByLanguage, Record
from model.processor import ImageProcessor
from options import Options, UserError, ineffective_settings, load_options
from text_utils.augment import TextAugmentation
from text_utils.tokenizer import CLIPTokenizer

LANGUAGES = ("en", "ch", "de", "fr")
COUNTS = {"en": 2, "ch": 2, "de": 1, "fr": 2}  # captions of an image in each


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("imgs")
    for number in range(3):
        Image.effect_noise((20, 50), 60).convert("RGB").save(folder / f"{number}.png")
    return folder


def records(languages: Sequence[str] = LANGUAGES) -> ByLanguage:
    """Three images of two persons; a caption names language, image and its number."""

    def one(number: int, language: str) -> Record:
        captions = tuple(f"{language} {number} {caption}" for caption in range(COUNTS[language]))
        return Record(f"{number}.png", 7 + number // 2, captions, (), language)

    return {language: [one(number, language) for number in range(3)] for language in languages}


def training_set(
    root: Path, draw: str, seed: int = 0, languages: Sequence[str] = LANGUAGES, second: bool = False
) -> TrainingSet:
    text = TextAugmentation("none", 0.0, 0.0, {})
    return TrainingSet(
        records(languages), root, (16, 8), ("view1",), seed, "pool", text, second, language_draw=draw
    )


def captions(samples: TrainingSet, epoch: int) -> list[str]:
    return [samples[(epoch, index)].caption for index in range(len(samples))]


def test_all_makes_a_sample_of_each_caption_of_each_language(root: Path) -> None:
    samples = training_set(root, "all")
    expected = [caption for part in records().values() for record in part for caption in record.captions]
    for epoch in (0, 5):
        assert captions(samples, epoch) == expected
    assert captions(training_set(root, "all", seed=3), 0) == expected


def test_one_makes_a_sample_of_each_caption_of_an_image_in_any_language(root: Path) -> None:
    samples = training_set(root, "one")
    assert len(samples) == 3 * 2
    for index, choices in enumerate(samples.choices):
        assert [record.language for record, _ in choices] == list(LANGUAGES)
        assert {record.image for record, _ in choices} == {f"{index // 2}.png"}
        assert [number for _, number in choices] == [index % 2, index % 2, 0, index % 2]
    for epoch in range(3):
        for index in range(6):
            sample = samples[(epoch, index)]
            language, image, number = sample.caption.split()
            assert int(image) == index // 2
            assert int(number) == index % 2 % COUNTS[language]
            assert sample.person_id == index // 2 // 2
            assert samples.image_names([index]) == [f"{image}.png"]


def test_every_language_is_drawn_about_as_often(root: Path) -> None:
    samples = training_set(root, "one")
    epochs = [captions(samples, epoch) for epoch in range(100)]
    drawn = Counter(caption.split()[0] for epoch in epochs for caption in epoch)
    assert set(drawn) == set(LANGUAGES)
    assert all(110 < drawn[language] < 190 for language in LANGUAGES)  # 150 of 600 expected, sd 11
    for index in range(6):
        assert len({epoch[index].split()[0] for epoch in epochs}) == 4
    assert len({tuple(epoch) for epoch in epochs}) > 90


def test_the_draw_is_a_function_of_seed_epoch_and_index(root: Path) -> None:
    samples, again, other = (training_set(root, "one", seed) for seed in (1, 1, 2))
    keys = list(itertools.product(range(6), range(6)))
    first = {key: samples[key].caption for key in keys}
    assert {key: again[key].caption for key in reversed(keys)} == first
    assert {key: other[key].caption for key in keys} != first


def test_the_second_caption_is_in_another_language(root: Path) -> None:
    samples = training_set(root, "one", second=True)
    pairs = [(s.caption.split(), s.second_caption.split()) for s in drawn(samples, 40)]
    assert all(first[1] == second[1] for first, second in pairs)
    shares = Counter((first[0], second[0]) for first, second in pairs)
    assert shares.keys() == set(itertools.permutations(sorted({first[0] for first, _ in pairs}), 2))
    assert all(8 < count < 36 for count in shares.values())  # a twelfth of 240 each


def drawn(samples: TrainingSet, epochs: int) -> list[Sample]:
    return [samples[key] for key in itertools.product(range(epochs), range(len(samples)))]


def test_one_language_draws_alike_either_way(root: Path) -> None:
    one, every = (training_set(root, draw, languages=("en",)) for draw in ("one", "all"))
    assert one.choices == every.choices
    for key in itertools.product(range(2), range(len(one))):
        assert one[key].caption == every[key].caption
        assert torch.equal(one[key].images["view1"], every[key].images["view1"])
        assert one[key].seed == every[key].seed


# From the options


def options_of(people: Path, *overrides: str) -> Options:
    data = [f"data.annotation_file={people}", f"data.image_root={people / 'imgs'}", "data.batch_size=8"]
    plain = ["experiment.text_aug=none", "experiment.back_trans=false", "data.num_workers=0"]
    return load_options("config/s.config.yaml", [*data, *plain, "data.image_size=[16,8]", *overrides])


def loaded(options: Options) -> tuple[Splits, TrainingSet, object]:
    splits = load_data(options)
    processor = ImageProcessor((16, 8), (0.5,) * 3, (0.5,) * 3)
    loaders = build_loaders(options, splits, CLIPTokenizer(), processor, ("view1", "tokens"))
    return splits, loaders.training_set, loaders.test


def test_language_draw_sets_the_length_of_an_epoch(people: Path) -> None:
    four = "data.languages=[en,ch,de,fr]"
    english = len(loaded(options_of(people))[1])
    assert len(loaded(options_of(people, four))[1]) == 4 * english
    assert len(loaded(options_of(people, four, "data.language_draw=one"))[1]) == english


def test_every_language_asks_the_same_gallery(people: Path) -> None:
    splits, _, test = loaded(options_of(people, "data.languages=[en,fr]", "data.language_draw=one"))
    assert list(test.queries) == ["en", "fr"]
    assert test.images == [record.image for record in splits.test["en"]]
    for language, queries in test.queries.items():
        expected = [len(record.captions) for record in splits.test[language]]
        assert len(queries.captions) == sum(expected)
        assert queries.image_indices.bincount().tolist() == expected
        assert torch.equal(queries.person_ids, test.person_ids[queries.image_indices])
    assert test.queries["en"].captions != test.queries["fr"].captions


def test_a_language_that_is_not_there_is_refused(people: Path) -> None:
    with pytest.raises(UserError, match=r"data\.languages.*'it'.*ch, de, en, fr"):
        load_data(options_of(people, "data.languages=[en,it]"))


def test_language_draw_with_one_language_is_said_to_be_ineffective(people: Path) -> None:
    def ineffective(*overrides: str) -> list[str]:
        return [
            line for line in ineffective_settings(options_of(people, *overrides)) if "language_draw" in line
        ]

    assert len(ineffective("data.language_draw=one")) == 1
    assert ineffective("data.language_draw=one", "data.languages=[en,ch]") == []
    assert ineffective() == []
