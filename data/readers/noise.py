"""Noisy correspondence: training pairs with the captions of other pairs (`data.noise`)."""

import logging
import os
import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

from data.columns.records import Records
from data.columns.splits import Columns
from data.readers.layouts import listing
from data.records import of_each_caption
from data.types import ByLanguage, Record
from misc.process.failures import reason_of
from options import UserError

logger = logging.getLogger(__name__)


def with_noise(train: ByLanguage, noise: str | float, seed: int) -> Columns:
    """The training split where pair i has the caption of pair index[i], its back-translation and rewrites.

    A pair is a caption with its image, whose person stays too. Pairs are counted in the order of the records
    and their captions, which is that of `TrainingSet`. It is the order of the annotations, and so of RDE's
    index files, where these have one record for each image, as those of CUHK-PEDES, ICFG-PEDES and RSTPReid
    do: `data.merging` only moves the captions of an image that has several records. Every language is changed
    alike, and must have as many captions of each image as the others.

    Args:
        noise: the path of the index, as `read_index` reads it; or the rate of `draw_index`.

    Raises:
        UserError: no such index, or one of other pairs; a rate too low; languages of other pairs.
    """
    counts = {language: [len(record.captions) for record in records] for language, records in train.items()}
    first, *others = counts
    for language in others:
        if counts[language] != counts[first]:
            raise UserError(
                f"data.noise: the captions of {first} and {language} do not pair: some image has more in one "
                "of them; expected as many in every language. Train on one of them, by data.languages"
            )
    num_pairs = sum(counts[first])
    is_file = isinstance(noise, str)
    index = read_index(Path(noise), num_pairs) if is_file else draw_index(noise, num_pairs, seed)
    num_noisy = sum(source != place for place, source in enumerate(index))
    logger.info("data.noise: %d of %d training pairs have another pair's caption", num_noisy, num_pairs)
    return {language: Records.of(_exchanged(records, index), language) for language, records in train.items()}


def read_index(path: Path, num_pairs: int) -> list[int]:
    """The index of a .npy file: a permutation of the numbers of all pairs, (num_pairs,) of any integer type.

    Raises:
        UserError: anything else.
    """
    if not os.path.isfile(path):  # Path.is_file raises where a name is too long
        raise UserError(f"data.noise: no file '{path}'; {listing(path.parent)}. Give a .npy file, or a rate")
    try:
        with path.open("rb") as file:
            index = np.lib.format.read_array(file, allow_pickle=False)
    except Exception as error:  # NumPy raises exceptions of many types for a damaged header
        reason = reason_of(error)
        raise UserError(
            f"data.noise: '{path}' cannot be read as a .npy file of whole numbers ({reason:.150}). Check the "
            "file, or download it again"
        ) from error
    if index.ndim != 1 or index.dtype.kind not in "iu":
        raise UserError(
            f"data.noise: '{path}' holds an array of type {index.dtype} and shape {index.shape}; expected a "
            f"whole number for each of the {num_pairs} training pairs"
        )
    if len(index) != num_pairs:
        raise UserError(
            f"data.noise: '{path}' has {len(index)} numbers, the training split has {num_pairs} pairs of a "
            "caption and its image; expected the index of this data set, data.annotation_file, with all its "
            "pairs, data.few_shot=1"
        )
    missing = np.setdiff1d(np.arange(num_pairs), index)
    if len(missing):
        raise UserError(
            f"data.noise: '{path}' is no permutation of the numbers from 0 to {num_pairs - 1}: "
            f"{len(missing)} of them, such as {missing[0]}, are not in it. Check the file, or give a rate"
        )
    return index.tolist()


def draw_index(rate: float, num_pairs: int, seed: int) -> list[int]:
    """An index where int(rate * num_pairs) pairs, drawn by `seed`, exchange their captions at random.

    A few of them may get their own again. Raises UserError where these are fewer than two pairs.
    """
    rng = random.Random(f"noise/{seed}")
    chosen = rng.sample(range(num_pairs), int(rate * num_pairs))
    if len(chosen) < 2:
        raise UserError(
            f"data.noise: {rate} of the {num_pairs} training pairs are fewer than two, which could exchange "
            "their captions; raise it, or set null for no noise"
        )
    index = list(range(num_pairs))
    for place, source in zip(chosen, rng.sample(chosen, len(chosen)), strict=True):
        index[place] = source
    return index


def _exchanged(records: Sequence[Record], index: Sequence[int]) -> list[Record]:
    captions = [caption for record in records for caption in record.captions]
    back = of_each_caption(records, "back_translations", "")
    rewrites = of_each_caption(records, "rewrites", ())
    pairs = iter(enumerate(index))
    changed = []
    for record in records:
        own = list(islice(pairs, len(record.captions)))
        changed.append(
            replace(
                record,
                captions=tuple(captions[source] for _, source in own),
                back_translations=tuple(back[source] for _, source in own) if back else (),
                rewrites=tuple(rewrites[source] for _, source in own) if rewrites else (),
                noisy=tuple(source != place for place, source in own),
            )
        )
    return changed
