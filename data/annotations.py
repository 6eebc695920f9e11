"""The data of a run: the records of its splits, and what is said where they do not fit their images."""

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data.few_shot import few_shot_rows
from data.formats import read_splits
from data.records import SPLITS, ByLanguage, Record
from options import DataOptions, Options, UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Splits:
    """The records of each split by language, the languages aligned by index; {}: no such split."""

    train: ByLanguage
    val: ByLanguage
    test: ByLanguage

    @property
    def num_identities(self) -> int:
        """Number of different persons in the training split."""
        return len(_person_ids(self.train))


def load_data(options: Options, wanted: Sequence[str] = SPLITS) -> Splits:
    """The `wanted` splits, checked: only val may be missing, and no image may. Of train, the few-shot part.

    Raises:
        UserError: a split or language that is not there, malformed annotations, missing images.
    """
    data = options.data
    found = read_splits(data.annotation_file, wanted, data.languages, data.dataset)
    for split in wanted:
        if split != "val" and not found[split]:
            raise UserError(
                f"data.annotation_file: '{data.annotation_file}' has no {split} split; expected records with "
                f"'split': '{split}' in a single file, or '{split}_reid.json' in a folder"
            )
    splits = Splits(**{split: found.get(split, {}) for split in SPLITS})
    check_images(
        (record for part in found.values() for records in part.values() for record in records),
        data.image_root,
        data.annotation_file,
    )
    if options.experiment.back_trans and splits.train and not _has_back_translations(splits.train):
        logger.warning(
            "experiment.back_trans: no caption of the training split has a back-translation ('captions_bt'): "
            "back-translation is off"
        )
    shared = _person_ids(splits.train) & _person_ids(splits.test)
    if shared:
        logger.warning("%d persons are in both train and test: the test figures will flatter", len(shared))
    return replace(splits, train=_few_shot(splits.train, data, options.misc.seed))


def check_images(records: Iterable[Record], image_root: str | Path, annotation_file: str | Path) -> None:
    """Raise UserError where the root, or an image under it, is missing. Each folder is listed once: fast."""
    missing = missing_images((record.image for record in records), image_root)
    if missing:
        raise UserError(
            f"data.annotation_file: '{annotation_file}' lists {len(missing)} images that are not under "
            f"data.image_root '{image_root}' (first: '{missing[0]}'). Check the root, or the download"
        )


def missing_images(images: Iterable[str], image_root: str | Path) -> list[str]:
    """Those of `images` that are not under the root. Raises UserError where there is no root."""
    root = Path(image_root)
    if not root.is_dir():
        raise UserError(f"data.image_root: no folder '{root}'; it is where the images of the annotations lie")
    listings: dict[str, set[str]] = {}
    missing = []
    for image in dict.fromkeys(images):
        folder, _, name = image.rpartition("/")
        if folder not in listings:
            listings[folder] = _names(root / folder)
        if name not in listings[folder]:
            missing.append(image)
    return missing


def _names(folder: Path) -> set[str]:
    if not os.path.isdir(folder):  # Path.is_dir raises where a name is too long
        return set()
    try:
        return set(os.listdir(folder))
    except OSError as error:
        raise UserError(f"data.image_root: '{folder}' cannot be read ({error.strerror})") from error


def _has_back_translations(by_language: ByLanguage) -> bool:
    return any(any(record.back_translations) for records in by_language.values() for record in records)


def _few_shot(train: ByLanguage, data: DataOptions, seed: int) -> ByLanguage:
    """The images that `data.few_shot` leaves to train on, the same ones in every language."""
    if data.few_shot == 1 or not train:
        return train
    persons = [record.person_id for record in next(iter(train.values()))]
    rows = few_shot_rows(persons, data.few_shot, data.few_shot_by, seed)
    few = {language: [records[row] for row in rows] for language, records in train.items()}
    counts = len(rows), len(persons), len(_person_ids(few)), len(set(persons))
    logger.info("few-shot training: %d of %d images, %d of %d persons", *counts)
    return few


def _person_ids(by_language: ByLanguage) -> set[int]:
    return {record.person_id for records in by_language.values() for record in records}
