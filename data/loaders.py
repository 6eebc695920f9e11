"""From samples to batches, as the options say."""

import copy
import logging
import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from data.annotations import load_data
from data.cache import ImageCache
from data.datasets import GalleryImages, Sample, TrainingSet, evaluation_set, seeded
from data.mixgen import mixgen
from data.published import count, recognise, warn_of_overlap
from data.sampler import IdentitySampler, Loader, TrainLoader, TrainSampler
from data.types import INPUTS, SPLITS, VIEWS, Batch, ByLanguage, Change, EvaluationSet, Splits, Tokens, Views
from model.protocol import Processor, Tokenizer
from options import ExperimentOptions, Options, UserError
from text_utils.augment import NEED_SYNONYMS, TextAugmentation, augment_tokens
from text_utils.captions import CLEANINGS, Clean
from text_utils.masking import mask_tokens
from text_utils.synonyms import english_synonyms

logger = logging.getLogger(__name__)
CLIP_LENGTH = 77  # tokens of a caption, which nearly all captions of the benchmarks fit

Mask = Callable[[Tensor, Tensor, random.Random], tuple[Tensor, Tensor]]
Augment = Callable[[list[int], random.Random], list[int]]
Mix = Callable[[list[Sample], random.Random], list[Sample]]


class Collate:
    """Samples -> `Batch`: captions tokenised together, views stacked.

    What is random of a sample draws by its seed, so that it does not depend on the rest of the batch.

    Args:
        finish: uint8 views (3, h, w) -> (B, 3, H, W), done at once, by a worker.
        normalise: what `finish` made -> what the image tower takes, done where the batch is used.
        mask: masks the tokens of one caption, for MLM.
        mix: mixes samples, before anything else; it draws by the seed of the batch's first sample.
        augment: changes the tokens of one caption, without its padding, before `mask`.
        masks_all: whether `tokens` are the masked ones; otherwise those are `masked_tokens`, beside them.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        finish: Callable[[Sequence[Tensor]], Tensor],
        normalise: Change,
        mask: Mask | None = None,
        mix: Mix | None = None,
        augment: Augment | None = None,
        masks_all: bool = False,
    ) -> None:
        self.tokenizer, self.finish, self.normalise = tokenizer, finish, normalise
        self.mask, self.mix, self.augment, self.masks_all = mask, mix, augment, masks_all

    def __call__(self, samples: list[Sample]) -> Batch:
        if self.mix:
            samples = self.mix(samples, seeded(samples[0].seed, 0))
        tokens = self._tokens([s.caption for s in samples], samples, 2)
        masked_tokens, labels = self._masked(tokens, samples) if self.mask else (None, None)
        if self.masks_all:
            tokens, masked_tokens = masked_tokens, None
        pixels = {view: self.finish([s.images[view] for s in samples]) for view in samples[0].images}
        return Batch(
            images=Views(pixels, self.normalise),
            tokens=tokens,
            person_ids=torch.tensor([s.person_id for s in samples]),
            indices=torch.tensor([s.index for s in samples]),
            tokens2=self._tokens([s.second_caption for s in samples], samples, 3),
            rewritten=self._tokens([s.rewritten for s in samples], samples, 4),
            masked_tokens=masked_tokens,
            mlm_labels=labels,
            bad_images=list(dict.fromkeys(image for s in samples for image in s.bad_images)),
        )

    def _tokens(self, captions: list[str] | list[None], samples: list[Sample], draw: int) -> Tokens | None:
        """The tokens of the samples' captions, changed by `augment`, padded to the longest; of None, None."""
        if None in captions:
            return None
        tokens = self.tokenizer(captions)
        if not self.augment:
            return tokens
        rows = zip(tokens["input_ids"], tokens["attention_mask"], samples, strict=True)
        changed = [
            torch.tensor(self.augment(ids[real.bool()].tolist(), seeded(sample.seed, draw)))
            for ids, real, sample in rows
        ]
        pad = partial(pad_sequence, batch_first=True)
        return {
            "input_ids": pad(changed, padding_value=self.tokenizer.pad_token_id),
            "attention_mask": pad([torch.ones_like(ids) for ids in changed]),
        }

    def _masked(self, tokens: Tokens, samples: list[Sample]) -> tuple[Tokens, Tensor]:
        rows = zip(tokens["input_ids"], tokens["attention_mask"], samples, strict=True)
        masked = [self.mask(ids, real, seeded(sample.seed, 1)) for ids, real, sample in rows]
        input_ids, labels = (torch.stack(parts) for parts in zip(*masked, strict=True))
        return {**tokens, "input_ids": input_ids}, labels


@dataclass(frozen=True)
class Loaders:
    """What a run iterates over; None where it has no such split."""

    train: TrainLoader | None
    train_sampler: TrainSampler | None  # its `set_epoch` comes before each pass of `train`
    training_set: TrainingSet | None
    val: EvaluationSet | None
    test: EvaluationSet | None
    images: Callable[[EvaluationSet, Sequence[int]], Loader[Tensor]]  # `image_loader`, as the options say


def build_loaders(
    options: Options,
    splits: Splits,
    tokenizer: Tokenizer,
    processor: Processor,
    inputs: Collection[str],
    rank: int = 0,
    world_size: int = 1,
) -> Loaders:
    """The training loader of this rank and what evaluation needs, as the options say.

    Args:
        processor: finishes the views as it does the images of evaluation, so that the two agree.
        inputs: names of `INPUTS`, such as `model.inputs`: the views, second captions and masked tokens that
            the batches hold. They always hold `tokens`.
    """
    assert set(inputs) <= set(INPUTS), f"unknown inputs among {sorted(inputs)}"
    data, experiment = options.data, options.experiment
    pin_memory = options.misc.device != "cpu" and torch.cuda.is_available()
    workers = {"num_workers": data.num_workers, "pin_memory": pin_memory}
    clean = CLEANINGS[tokenizer.cleaning]
    val, test = (
        evaluation_set(part, data.image_root, clean) if part else None for part in (splits.val, splits.test)
    )
    of_gallery = {"batch_size": data.test_batch_size, "truncated": data.truncated}
    images = partial(image_loader, processor=processor, **of_gallery, **workers)
    if not splits.train:
        return Loaders(None, None, None, val, test, images)
    training_set = _training_set(options, splits.train, processor, inputs, clean)
    if training_set.cache and rank == 0:
        training_set.cache.log_size(training_set.image_paths())
    if tokenizer.text_length < CLIP_LENGTH and rank == 0:
        _warn_of_cut_captions(splits.train, tokenizer)
    sampler = _sampler(options, training_set, rank, world_size)
    mix = partial(mixgen, kind=experiment.mixgen_type, p=experiment.mixgen_p, ratio=experiment.mixgen_ratio)
    collate = Collate(
        tokenizer,
        processor.finish,
        processor.normalise,
        _mask(experiment, tokenizer) if {"masked_tokens", "mlm_labels"} & set(inputs) else None,
        mix if experiment.mixgen else None,
        _augment_tokens(experiment, tokenizer) if experiment.text_aug == "tokens" else None,
        "mlm_labels" in inputs and "masked_tokens" not in inputs,
    )
    train = TrainLoader(
        training_set, collate, batch_sampler=sampler, persistent_workers=data.num_workers > 0, **workers
    )
    return Loaders(train, sampler, training_set, val, test, images)


def _sampler(options: Options, training_set: TrainingSet, rank: int, world_size: int) -> TrainSampler:
    """The order of the training samples, as `data.sampler` says."""
    data = options.data
    place = (data.batch_size, options.misc.seed, rank, world_size, data.drop_last)
    if data.sampler == "random":
        return TrainSampler(len(training_set), *place)
    return IdentitySampler(training_set.persons.tolist(), data.samples_per_identity, *place)


def _warn_of_cut_captions(records: ByLanguage, tokenizer: Tokenizer) -> None:
    """Warn of captions that are longer than the text tower takes."""
    captions = [text for part in records.values() for record in part for text in record.captions]
    longer = copy.copy(tokenizer)
    longer.text_length += 1  # tells those that are cut from those that just fit
    parts = (captions[start : start + 1000] for start in range(0, len(captions), 1000))
    lengths = [longer(part)["attention_mask"].sum(dim=1) for part in parts]
    if cut := int((torch.cat(lengths) > tokenizer.text_length).sum()):
        limit = tokenizer.text_length
        logger.warning(f"{cut:,} of {len(captions):,} captions are longer than {limit} tokens and are cut")


def _mask(experiment: ExperimentOptions, tokenizer: Tokenizer) -> Mask:
    """How MLM masks the tokens of one caption."""
    assert tokenizer.mask_token_id is not None, "this tokenizer has no mask token"
    is_irra = experiment.mlm_variant == "irra"
    return partial(
        mask_tokens,
        mask_id=tokenizer.mask_token_id,
        special_ids=(*tokenizer.special_ids, *([tokenizer.pad_token_id] if is_irra else [])),
        vocab_size=tokenizer.vocab_size,
        at_least_one=is_irra,
    )


def _augment_tokens(experiment: ExperimentOptions, tokenizer: Tokenizer) -> Augment:
    """How the tokens of one caption change. Raises UserError where there is no mask token."""
    if tokenizer.mask_token_id is None:
        raise UserError(
            "experiment.text_aug: 'tokens' puts a mask token in the place of others, and this backbone's "
            "tokenizer has none; choose another, such as deletion"
        )
    return partial(
        augment_tokens,
        share=experiment.eda_alpha,
        mask_id=tokenizer.mask_token_id,
        special_ids=(*tokenizer.special_ids, tokenizer.pad_token_id),
        vocab_size=tokenizer.vocab_size,
    )


def _training_set(
    options: Options, records: ByLanguage, processor: Processor, inputs: Collection[str], clean: Clean
) -> TrainingSet:
    data, experiment = options.data, options.experiment
    return TrainingSet(
        records,
        data.image_root,
        processor.view_size,
        [view for view in VIEWS if view in inputs],
        options.misc.seed,
        experiment.image_aug,
        text_augmentation(experiment, records, clean),
        "tokens2" in inputs,
        data.language_draw,
        data.on_bad_image,
        ImageCache(data.cache) if data.cache else None,
        data.truncated,
        "rewritten" in inputs,
    )


def load_test_sets(options: Options, splits: Splits, trained_on: str = "") -> dict[str, EvaluationSet]:
    """The test split, named by `data.dataset` ("test" where that is auto), if any, then `eval.test_sets`.

    Args:
        trained_on: names and paths of the training data, where `splits` do not hold it; a warning says so if
            it overlaps with the sets.

    Raises:
        UserError: a name that is taken, or what `load_data` finds wrong with a set, naming the set.
    """
    # Null: as the weights tell it, which are read later; the tokenizer cleans in any case.
    first, clean = options.data.dataset, CLEANINGS[options.data.cleaning or "none"]
    first = "test" if first == "auto" else first
    place = f"{options.data.dataset} {options.data.annotation_file}"
    own = [recognise(count({split: getattr(splits, split)}), place) for split in SPLITS]
    known = [*own, recognise({}, trained_on)]
    sets = {first: evaluation_set(splits.test, options.data.image_root, clean)} if splits.test else {}
    for name, (annotations, image_root) in options.eval.test_sets.items():
        if name == first:
            raise UserError(f"eval.test_sets: '{name}' is the name of the first set already; choose another")
        place = {"annotation_file": annotations, "image_root": image_root, "dataset": "auto"}
        try:
            parts = {"data": replace(options.data, **place), "eval": replace(options.eval, test_sets={})}
            found = load_data(replace(options, **parts), ["test"])
        except UserError as error:
            raise UserError(f"eval.test_sets, set '{name}': {error}") from error
        sets[name] = evaluation_set(found.test, image_root, clean)
        known.append(recognise(count({"test": found.test}), f"{name} {annotations}"))
    warn_of_overlap(known)
    return sets


def text_augmentation(experiment: ExperimentOptions, records: ByLanguage, clean: Clean) -> TextAugmentation:
    """The augmentation of captions that `experiment` describes, with synonyms of the words in `records`.

    Synonyms are English: other languages among `records` are named in a warning.
    """
    synonyms = {}
    if experiment.text_aug in NEED_SYNONYMS and experiment.eda_alpha:
        others = ", ".join(language for language in records if language != "en")
        if others:
            logger.warning("experiment.text_aug: only English has synonyms, captions in %s get none", others)
        logger.info("reading WordNet for the synonyms of the captions' words")
        english = (text for record in records.get("en", []) for text in record.texts())
        words = {word for text in english for word in clean(text).split()}
        synonyms = english_synonyms(words) if words else {}
    back_translation_p = experiment.backtrans_p if experiment.back_trans else 0.0
    return TextAugmentation(experiment.text_aug, experiment.eda_alpha, back_translation_p, synonyms, clean)


def image_loader(
    evaluated: EvaluationSet,
    indices: Sequence[int],
    processor: Processor,
    batch_size: int,
    truncated: str = "error",
    **settings: object,
) -> Loader[Tensor]:
    """Yields the gallery rows `indices` in order, (b, 3, H, W), b <= `batch_size`; settings: DataLoader's."""
    images = GalleryImages(evaluated, indices, processor, truncated)
    return Loader(images, torch.stack, batch_size=batch_size, **settings)
