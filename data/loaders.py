"""From samples to batches, as the options say."""

import copy
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from data.annotations import load_data
from data.collate import Collate, caption_mask, token_augmentation
from data.columns.mismatches import Mismatches
from data.columns.splits import Splits
from data.datasets import GalleryImages, TrainingSet, evaluation_set
from data.images.cache import ImageCache
from data.mixgen import mixgen
from data.published import count, recognise, warn_of_overlap
from data.sampler import IdentitySampler, Loader, TrainLoader, TrainSampler
from data.scenes import detected_set
from data.shards.fetch import Fetcher, Preparer
from data.shards.order import ShardSampler
from data.types import INPUTS, SPLITS, VIEWS, ByLanguage, EvaluationSet
from model.protocol import Processor, Tokenizer
from options import DataOptions, ExperimentOptions, Options, UserError
from text_utils.augment import NEED_SYNONYMS, TextAugmentation
from text_utils.captions import CLEANINGS, Clean
from text_utils.synonyms import english_synonyms

logger = logging.getLogger(__name__)
CLIP_LENGTH = 77  # tokens of a caption, which nearly all captions of the benchmarks fit


@dataclass(frozen=True)
class Loaders:
    """What a run iterates over; None where it has no such split."""

    train: TrainLoader | None
    train_sampler: TrainSampler | None  # its `set_epoch` comes before each pass of `train`
    training_set: TrainingSet | None
    val: EvaluationSet | None
    test: EvaluationSet | None
    images: Callable[[EvaluationSet, Sequence[int]], Loader[Tensor]]  # `image_loader`, as the options say
    mismatches: Mismatches | None = None  # of the tokens, by which captions are masked


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
    mismatches = _mismatches(options, training_set, tokenizer)
    mix = partial(mixgen, kind=experiment.mixgen_type, p=experiment.mixgen_p, ratio=experiment.mixgen_ratio)
    collate = Collate(
        tokenizer,
        processor.finish,
        processor.normalise,
        caption_mask(experiment, tokenizer) if {"masked_tokens", "mlm_labels"} & set(inputs) else None,
        mix if experiment.mixgen else None,
        token_augmentation(experiment, tokenizer) if experiment.text_aug == "tokens" else None,
        "mlm_labels" in inputs and "masked_tokens" not in inputs,
        mismatches,
    )
    train = TrainLoader(
        training_set, collate, batch_sampler=sampler, persistent_workers=data.num_workers > 0, **workers
    )
    return Loaders(train, sampler, training_set, val, test, images, mismatches)


def _mismatches(options: Options, training_set: TrainingSet, tokenizer: Tokenizer) -> Mismatches | None:
    """What noise-aware masking keeps in the output folder.

    Raises:
        UserError: an option by which a sample has other tokens in another epoch.
    """
    experiment, data = options.experiment, options.data
    if experiment.mask_captions != "noise-aware":
        return None
    changes = {
        "experiment.text_aug=none": experiment.text_aug != "none",
        "experiment.back_trans=false": experiment.back_trans,
        "experiment.mixgen=false": experiment.mixgen,
        "data.language_draw=all": len(data.languages) > 1 and data.language_draw != "all",
    }
    if wrong := [remedy for remedy, is_wrong in changes.items() if is_wrong]:
        raise UserError(
            "experiment.mask_captions=noise-aware masks the tokens of a caption by what an epoch before has "
            f"found for them, so a sample must have the same ones in each epoch: set {', '.join(wrong)}"
        )
    samples = f"{training_set.choices.digest()} {tokenizer.cleaning}"
    return Mismatches(Path(options.output.dir), len(training_set), samples, tokenizer.text_length)


def _sampler(options: Options, training_set: TrainingSet, rank: int, world_size: int) -> TrainSampler:
    """The order of the training samples, as `data.sampler` says."""
    data = options.data
    place = (data.batch_size, options.misc.seed, rank, world_size, data.drop_last)
    if data.sampler == "random":
        return TrainSampler(len(training_set), *place)
    if data.sampler == "shards":
        return _shard_sampler(data, training_set, place)
    return IdentitySampler(training_set.persons.tolist(), data.samples_per_identity, *place)


def _shard_sampler(data: DataOptions, training_set: TrainingSet, place: tuple[int, ...]) -> ShardSampler:
    """Raises UserError where the training images are not in shards."""
    try:
        names, shards = training_set.choices.files()
    except ValueError as error:
        raise UserError(
            f"data.sampler=shards: the training image '{error}' is in no tar file; write shards with "
            "python -m data.shards, or choose another sampler"
        ) from error
    least = 2 * data.shard_streams  # the shard of a stream, and the next one, which the window reaches
    if data.shards and data.shards_kept is not None and data.shards_kept < least:
        raise UserError(
            f"data.shards_kept: {data.shards_kept} copies are fewer than twice data.shard_streams "
            f"({data.shard_streams}), so that shards would be copied again and again; keep {least} or more"
        )
    prepare = Preparer(Path(data.image_root), names, training_set.fetcher)
    return ShardSampler(shards, data.shuffle_window, data.shard_streams, prepare, *place)


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
        Fetcher(Path(data.image_root), data.shards, data.shards_kept) if data.shards else None,
    )


def load_test_sets(options: Options, splits: Splits, trained_on: str = "") -> dict[str, EvaluationSet]:
    """The test split, named by `data.dataset` ("test" where that is auto), if any, then `eval.test_sets`,
    then the boxes of `eval.detections`, a gallery without queries.

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
    return sets | detected_set(options)


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
