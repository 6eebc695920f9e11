"""What the options put into a batch: second captions, masks, mixed pairs; and that workers do not matter."""

import dataclasses
import itertools
import logging
import pickle
import random
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from data import datasets, loaders
from data.annotations import read_splits
from data.columns.splits import Splits
from data.datasets import Sample, seeded
from data.images.decode import load_image
from data.images.transforms import simclr_view, train_view
from data.loaders import Loaders, build_loaders
from data.types import INPUTS, VIEWS, Batch
from model.processor import ImageProcessor
from options import DataOptions, ExperimentOptions, MiscOptions, Options, UserError
from text_utils.augment import back_translate, random_deletion
from text_utils.captions import clean_caption
from text_utils.tokenizer import CLIPTokenizer

PROCESSOR = ImageProcessor(image_size=(32, 16), image_mean=(0.5, 0.4, 0.3), image_std=(0.2, 0.25, 0.3))
USUAL = (*VIEWS, "tokens")
EVERYTHING = {"inputs": INPUTS, "mixgen": True, "mixgen_p": 0.5, "backtrans_p": 0.5}


def build(
    people: Path,
    workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    batch_size: int = 8,
    inputs: tuple[str, ...] = USUAL,
    tokenizer: CLIPTokenizer | None = None,
    **experiment: object,
) -> Loaders:
    """Loaders over the 40 captions of 10 rendered persons, and 40 in Chinese with `languages`."""
    languages = experiment.pop("languages", ("en",))
    splits = Splits(**read_splits(people, languages=languages))
    place = {"image_root": str(people / "imgs"), "cleaning": "tbps-clip"}
    options = dataclasses.replace(
        Options(),
        misc=MiscOptions(device="cpu"),
        data=DataOptions(**place, batch_size=batch_size, num_workers=workers),
        experiment=ExperimentOptions(**experiment),
    )
    tokenizer = tokenizer or CLIPTokenizer()
    return build_loaders(options, splits, tokenizer, PROCESSOR, inputs, rank, world_size)


def epoch(built: Loaders, number: int = 0) -> list[Batch]:
    built.train_sampler.set_epoch(number)
    return list(built.train)


def tensors(batch: Batch) -> dict[str, Tensor]:
    """Every tensor of a batch by its name."""
    found = {}
    for field in dataclasses.fields(batch):
        value = getattr(batch, field.name)
        parts = value.items() if isinstance(value, Mapping) else [("", value)]
        found |= {f"{field.name} {name}": part for name, part in parts if isinstance(part, Tensor)}
    return found


def equal(batches: list[Batch], others: list[Batch]) -> bool:
    for batch, other in zip(batches, others, strict=True):
        a, b = tensors(batch), tensors(other)
        if a.keys() != b.keys() or not all(torch.equal(a[name], b[name]) for name in a):
            return False
    return True


def test_the_default_sample_draws_back_translation_then_deletion_then_views(people: Path) -> None:
    """The order of draws is part of every figure ever measured: what is new is drawn after all of these."""
    for experiment in ({}, {"inputs": INPUTS, "mixgen": True}):
        samples = build(people, eda_alpha=0.3, backtrans_p=0.5, **experiment).training_set
        for index, number in itertools.product(range(0, 40, 7), range(3)):
            rng = seeded(MiscOptions().seed, number, index)
            record, n = samples.choices[index][0]
            caption = back_translate(record.captions[n], record.back_translations[n], 0.5, rng)
            caption = random_deletion(clean_caption(caption), 0.3, rng)
            image = load_image(people / "imgs" / record.image)
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
            made = samples[(number, index)]
            assert made.caption == caption
            for view, make in {"view1": train_view, "view2": train_view, "simclr1": simclr_view}.items():
                assert torch.equal(made.images[view], make(pixels, (32, 16), rng))


def test_without_a_view_no_image_is_opened(people: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(datasets, "load_image")
    batch = epoch(build(people, inputs=("tokens", "tokens2")))[0]
    assert batch.images == {}
    assert len(batch.tokens["input_ids"]) == len(batch.tokens2["input_ids"]) == 8


def test_nothing_that_is_not_needed_is_in_a_batch(people: Path) -> None:
    for views in (("view1",), ("view1", "view2"), ("simclr1", "simclr2"), VIEWS):
        batch = epoch(build(people, inputs=frozenset([*views, "tokens"])))[0]
        assert (batch.tokens2, batch.masked_tokens, batch.mlm_labels) == (None, None, None)
        assert tuple(batch.images) == views
        assert all(view.shape == (8, 3, 32, 16) for view in batch.images.values())
        assert all(view.dtype == torch.float32 for view in batch.images.values())


def test_the_second_caption_is_another_augmentation_of_the_first(people: Path) -> None:
    built = build(people, inputs=("tokens", "tokens2"), backtrans_p=0.5, eda_alpha=0.3)
    different = 0
    for index in range(40):
        sample = built.training_set[(0, index)]
        record, n = built.training_set.choices[index][0]
        words = {
            word
            for text in (record.captions[n], record.back_translations[n])
            for word in clean_caption(text).split()
        }
        assert set(sample.second_caption.split()) <= words
        different += sample.caption != sample.second_caption
    assert different > 35
    batch = epoch(built)[0]
    samples = [built.training_set[(0, index)] for index in batch.indices.tolist()]
    assert torch.equal(
        batch.tokens2["input_ids"], CLIPTokenizer()([s.second_caption for s in samples])["input_ids"]
    )


def test_masked_tokens_are_the_tokens_where_the_labels_say_nothing(people: Path) -> None:
    for batch in epoch(build(people, inputs=("masked_tokens",))):
        ids, masked, labels = batch.tokens["input_ids"], batch.masked_tokens["input_ids"], batch.mlm_labels
        assert torch.equal(torch.where(labels == -100, masked, labels), ids)
        assert torch.equal(batch.masked_tokens["attention_mask"], batch.tokens["attention_mask"])
        assert 0 < (labels != -100).sum() < 0.4 * batch.tokens["attention_mask"].sum()
        assert (masked == CLIPTokenizer.mask_token_id).any()


def test_a_caption_is_masked_in_the_same_way_in_any_batch(people: Path) -> None:
    built = build(people, inputs=("masked_tokens",))
    collate = built.train.dataset.collate
    samples = [built.training_set[(0, index)] for index in range(8)]
    together = collate(samples)
    for row, sample in enumerate(samples):
        alone = collate([sample])
        length = alone.mlm_labels.shape[1]
        assert torch.equal(together.mlm_labels[row, :length], alone.mlm_labels[0])
        assert torch.equal(
            together.masked_tokens["input_ids"][row, :length], alone.masked_tokens["input_ids"][0]
        )
    other = collate([built.training_set[(1, index)] for index in range(8)])
    assert {tuple(row) for row in (other.mlm_labels != -100).tolist()} != {
        tuple(row) for row in (together.mlm_labels != -100).tolist()
    }


def test_every_loss_reads_the_masked_captions_where_only_their_labels_are_wanted(people: Path) -> None:
    for variant in ("tbps-clip", "irra"):
        apart = epoch(build(people, inputs=("tokens", "tokens2", "masked_tokens"), mlm_variant=variant))
        together = epoch(build(people, inputs=("tokens", "tokens2", "mlm_labels"), mlm_variant=variant))
        for batch, other in zip(together, apart, strict=True):
            assert batch.masked_tokens is None
            assert torch.equal(batch.tokens["input_ids"], other.masked_tokens["input_ids"])
            assert torch.equal(batch.mlm_labels, other.mlm_labels)
            assert torch.equal(batch.tokens2["input_ids"], other.tokens2["input_ids"])
            assert variant != "irra" or (batch.mlm_labels != -100).any(dim=1).all()


def test_tokens_are_augmented_alike_in_any_batch_and_padded_to_the_longest(people: Path) -> None:
    inputs = ("tokens", "tokens2", "masked_tokens")
    augmented = {"text_aug": "tokens", "eda_alpha": 0.5}
    built = build(people, inputs=inputs, **augmented)
    plain = build(people, inputs=inputs, text_aug="none").train.dataset.collate
    collate = built.train.dataset.collate
    samples = [built.training_set[(0, index)] for index in range(8)]
    batch = collate(samples)
    assert not torch.equal(batch.tokens["input_ids"], batch.tokens2["input_ids"])
    for name in ("tokens", "tokens2"):
        ids, real = getattr(batch, name)["input_ids"], getattr(batch, name)["attention_mask"]
        before = getattr(plain(samples), name)["attention_mask"].sum(1)
        lengths = real.sum(1)
        assert ids.shape[1] == lengths.max()
        assert (lengths <= before).all()
        assert (lengths < before).any()
        assert (ids == CLIPTokenizer.mask_token_id).any()
        for row, sample in enumerate(samples):
            alone = getattr(collate([sample]), name)
            assert alone["attention_mask"].all()
            padding = torch.zeros(ids.shape[1] - lengths[row], dtype=torch.int64)
            assert torch.equal(ids[row], torch.cat([alone["input_ids"][0], padding]))
            assert real[row].tolist() == [1] * int(lengths[row]) + [0] * len(padding)
            assert (ids[row] == CLIPTokenizer.eot_token_id).nonzero().tolist() == [[int(lengths[row]) - 1]]
    assert batch.mlm_labels.shape == batch.tokens["input_ids"].shape
    other = collate([built.training_set[(1, index)] for index in range(8)])
    assert not torch.equal(other.tokens["attention_mask"].sum(1), batch.tokens["attention_mask"].sum(1))


def test_token_augmentation_follows_back_translation_and_needs_a_mask_token(people: Path) -> None:
    built = build(people, inputs=("tokens",), text_aug="tokens", eda_alpha=0.2, backtrans_p=1)
    record, number = built.training_set.choices[0][0]
    assert built.training_set[(0, 0)].caption == clean_caption(record.back_translations[number])
    without = CLIPTokenizer()
    without.mask_token_id = None
    with pytest.raises(UserError, match=r"experiment.text_aug: 'tokens' .* choose another, such as deletion"):
        build(people, tokenizer=without, text_aug="tokens")


@pytest.mark.parametrize("kind", ["ori", "cat"])
def test_mixed_pairs_are_in_a_batch_before_it_is_normalised_and_tokenised(people: Path, kind: str) -> None:
    experiment = {"mixgen_type": kind, "mixgen_ratio": 0.25, "inputs": (*USUAL, "tokens2")}
    plain = epoch(build(people, **experiment))[0]
    mixed = epoch(build(people, mixgen=True, mixgen_p=1.0, **experiment))[0]
    assert torch.equal(mixed.indices, plain.indices)
    assert torch.equal(mixed.person_ids, plain.person_ids)
    ends = CLIPTokenizer.eot_token_id, CLIPTokenizer.sot_token_id
    for tokens, before in ((mixed.tokens, plain.tokens), (mixed.tokens2, plain.tokens2)):
        for row in range(8):
            parts = before["input_ids"][[row, row + 2] if row < 2 else [row]]
            words = [i for i in parts.flatten().tolist() if i and i not in ends]
            assert [i for i in tokens["input_ids"][row].tolist() if i and i not in ends] == words[:75]
    for view, pixels in mixed.images.items():
        assert torch.equal(pixels[2:], plain.images[view][2:])
        if kind == "ori":
            average = (plain.images[view][:2] + plain.images[view][2:4]) / 2
            assert (pixels[:2] - average).abs().max() <= 0.5 / 255 / 0.2 + 1e-5


def test_batches_with_everything_on_do_not_depend_on_the_number_of_workers(people: Path) -> None:
    alone, two = (build(people, workers, **EVERYTHING, image_aug="randaugment") for workers in (0, 2))
    for number in (0, 1):
        batches = epoch(alone, number)
        assert len(tensors(batches[0])) == 4 + 2 + 2 + 2 + 2 + 2 + 1
        assert equal(batches, epoch(two, number))
    assert not equal(epoch(alone, 0), epoch(alone, 1))
    assert len(pickle.loads(pickle.dumps(two.train.dataset))) == 40, "workers may be spawned, not forked"


def test_two_ranks_see_what_one_process_sees_with_everything_on_but_mixed_pairs(people: Path) -> None:
    settings = {**EVERYTHING, "mixgen": False, "image_aug": "augmix"}
    whole = epoch(build(people, batch_size=8, **settings))
    ranks = [epoch(build(people, rank=rank, world_size=2, batch_size=4, **settings)) for rank in (0, 1)]
    for batch, *parts in zip(whole, *ranks, strict=True):
        a, others = tensors(batch), [tensors(part) for part in parts]
        for name, tensor in a.items():
            padding = -100 if name.startswith("mlm") else 0
            rows = [row for other in others for row in other[name]]
            if tensor.ndim == 2:  # tokens, padded to the longest of their own batch
                rows = [
                    torch.nn.functional.pad(row, (0, tensor.shape[1] - len(row)), value=padding)
                    for row in rows
                ]
            assert torch.equal(tensor, torch.stack(rows)), name


@pytest.mark.parametrize("workers", [0, 1])
def test_loading_with_everything_on_leaves_the_random_state_alone(people: Path, workers: int) -> None:
    built = build(people, workers, **EVERYTHING, image_aug="trivialaugment")
    states = random.getstate(), torch.get_rng_state(), np.random.get_state()[1].tolist()
    epoch(built)
    list(built.images(built.test, range(3)))
    assert random.getstate() == states[0]
    assert torch.equal(torch.get_rng_state(), states[1])
    assert np.random.get_state()[1].tolist() == states[2]


def test_every_part_of_a_batch_moves(people: Path) -> None:
    moved = epoch(build(people, **EVERYTHING))[0].to("meta")
    assert all(tensor.device.type == "meta" for tensor in tensors(moved).values())
    assert len(tensors(moved)) == 15


def test_image_aug_changes_the_training_views_and_never_those_of_simclr(people: Path) -> None:
    def views(image_aug: str) -> list[Sample]:
        samples = build(people, image_aug=image_aug).training_set
        return [samples[(number, 0)] for number in range(5)]

    for sample in views("none"):
        assert torch.equal(sample.images["view1"], sample.images["view2"])
        assert not torch.equal(sample.images["simclr1"], sample.images["view1"])
        assert not torch.equal(sample.images["simclr1"], sample.images["simclr2"])
    assert any(not torch.equal(s.images["view1"], s.images["view2"]) for s in views("rotation"))


def fake_synonyms(words: set[str]) -> dict[str, tuple[str, ...]]:
    return {word: (f"{word}like",) for word in sorted(words) if word.isascii() and word.isalpha()}


@pytest.mark.parametrize("text_aug", ["synonym", "insertion", "eda"])
def test_synonyms_are_of_the_english_captions_and_the_other_languages_are_named_once(
    people: Path, text_aug: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(loaders, "english_synonyms", fake_synonyms)
    built = build(people, text_aug=text_aug, eda_alpha=0.2, back_trans=False, languages=("ch", "en"))
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "only English has synonyms" in line
    assert "ch" in line
    synonyms = built.training_set.augment_text.synonyms
    english = [record for ((record, _),) in built.training_set.choices if record.language == "en"]
    for record in english:
        for text in (*record.captions, *record.back_translations):
            assert {word for word in clean_caption(text).split() if word.isalpha()} <= synonyms.keys()
    captions = [built.training_set[(0, index)].caption for index in range(80)]
    assert not any("like" in caption for caption in captions[:40])
    assert any("like" in caption for caption in captions[40:])


@pytest.mark.parametrize("experiment", [{"text_aug": "swap"}, {}, {"text_aug": "eda", "eda_alpha": 0.0}])
def test_wordnet_is_read_only_where_an_operation_needs_it(
    people: Path,
    experiment: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.delattr(loaders, "english_synonyms")
    build(people, languages=("en", "ch"), **experiment)
    assert not [record for record in caplog.records if record.levelno == logging.WARNING]
