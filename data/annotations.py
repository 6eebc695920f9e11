"""The data of a run: the records of its splits, checked against their images."""

import logging
import os
import random
from collections.abc import Collection, Container, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.check.near import describe_missing, is_absolute
from data.columns.listed import Listed
from data.columns.records import Records
from data.columns.splits import Columns, Splits
from data.columns.stored import Found
from data.formats import read_splits
from data.images.contained import SUFFIXES, TAR, places_in, split_path
from data.images.regions import region_of, with_margin
from data.readers.layouts import listing
from data.readers.noise import with_noise
from data.records import REWRITES
from data.shards.fetch import Fetcher
from data.types import SPLITS
from misc.process.failures import reason_of
from options import DataOptions, Options, UserError

logger = logging.getLogger(__name__)

OTHER_SETS = ", or sets to test on in eval.test_sets"
MAX_BAD_PERCENT = 1  # of the training images, that a run may skip
WHOLE_GALLERY = "a gallery must be whole: data.on_bad_image skips only training images"


def load_data(options: Options, wanted: Sequence[str] = SPLITS) -> Splits:
    """The `wanted` splits, checked by `check_images`: val may be missing, and test where `eval.test_sets`
    names sets to test on. Of train, the images that have captions, and the few-shot part of them, with the
    noise of `data.noise`.

    Raises:
        UserError: a missing split or language, malformed annotations, missing images; a noise of
            other pairs.
    """
    data = options.data
    found = read_splits(data.annotation_file, wanted, data.languages, data.dataset)
    if data.margin:
        found = _enlarged(found, data)
    for split in wanted:
        if not found[split] and (split == "train" or (split == "test" and not options.eval.test_sets)):
            raise UserError(
                f"data.annotation_file: '{data.annotation_file}' has no {split} split; expected records with "
                f"'split': '{split}' in a single file, or in a folder a file of each split, all named alike, "
                f"'{split}_reid.json' or '{split}.json'{OTHER_SETS if split == 'test' else ''}"
                f"{'; ' + listing(folder) if (folder := Path(data.annotation_file)).is_dir() else ''}"
            )
    splits = Splits(**{split: found.get(split, {}) for split in SPLITS})
    splits = replace(splits, train=_described(splits.train))
    check_images(splits, data)
    has_back = any(records.has_back_translations for records in splits.train.values())
    if options.experiment.back_trans and splits.train and not has_back:
        logger.warning(
            "experiment.back_trans: no caption of the training split has a back-translation ('captions_bt'): "
            "back-translation is off"
        )
    _warn_of_leaks(splits)
    train = _few_shot(splits.train, data, options.misc.seed)
    if train and data.noise is not None:
        train = with_noise(train, data.noise, options.misc.seed)
    if train and options.experiment.rewrites:
        _check_rewrites(train, data)
    return replace(splits, train=train)


def _enlarged(found: Found, data: DataOptions) -> Found:
    """The records with `data.margin` around the boxes that are their images; a warning where none is."""
    parts = [records for part in found.values() for records in part.values()]
    if not any(region_of(image) for records in parts for image in records.images()):
        logger.warning("data.margin: no image of '%s' is a box in a frame", data.annotation_file)
        return found
    return {
        split: {language: _with_margin(records, data.margin) for language, records in part.items()}
        for split, part in found.items()
    }


def _with_margin(records: Records, margin: float) -> Records:
    images = pa.array([with_margin(image, margin) for image in records.images()], pa.large_string())
    table = records.table if records.rows is None else records.table.take(pa.array(records.rows))
    table = table.set_column(table.schema.get_field_index("image"), "image", images)
    return Records(table.replace_schema_metadata(None), records.language)


def _check_rewrites(train: Columns, data: DataOptions) -> None:
    """Say how many captions have no rewrites. Raises UserError where none has any."""
    total = sum(int(records.num_captions.sum()) for records in train.values())
    number = sum(records.num_rewritten for records in train.values())
    if not number:
        raise UserError(
            f"experiment.rewrites: no training caption of '{data.annotation_file}' has rewrites; expected "
            f"the field '{REWRITES}' in its records. Use annotations that have it, or set this to false"
        )
    if number < total:
        logger.warning(
            "experiment.rewrites: %d of %d training captions have no rewrites ('%s'): another augmentation "
            "of the caption takes their place",
            total - number,
            total,
            REWRITES,
        )


def _described(train: Columns) -> Columns:
    """The images that a caption of any language describes: the others have nothing to train on."""
    numbers = sum(records.num_captions for records in train.values())
    rows = np.flatnonzero(numbers)
    if not train or len(rows) == len(numbers):
        return train
    counts = len(numbers) - len(rows), len(numbers)
    logger.warning("skipping %d of %d training images: they have no caption", *counts)
    return {language: records.take(rows) for language, records in train.items()}


def _warn_of_leaks(splits: Splits) -> None:
    if not splits.train or not splits.test:
        return
    train, test = (next(iter(part.values())) for part in (splits.train, splits.test))  # others are aligned
    persons = len(np.unique(test.person_ids[np.isin(test.person_ids, train.person_ids)]))
    is_shared = pc.is_in(train.column("image"), value_set=test.column("image").combine_chunks())
    images = pc.count_distinct(train.column("image").filter(is_shared)).as_py()
    for number, what in ((persons, "persons"), (images, "images")):
        if number:
            logger.warning("%d %s are in both train and test: test figures will be too high", number, what)


def check_images(splits: Splits, data: DataOptions) -> None:
    """Look for the images under the root. Each folder is listed once: fast.

    Raises:
        UserError: no root, or images missing; with `data.on_bad_image: skip` some of training may be.
    """
    if data.shards:
        splits = _fetched(splits, data)
    parts = [next(iter(part.values())) for part in (splits.train, splits.val, splits.test) if part]
    listed = Listed(parts, Path(data.image_root))
    if listed.is_current():
        return
    times = listed.times()
    train, gallery = _images(splits.train), _images(splits.val) | _images(splits.test)
    skip = data.on_bad_image == "skip"
    if missing := missing_images(gallery if skip else train | gallery, data.image_root):
        raise UserError(
            f"data.annotation_file: '{data.annotation_file}' lists {len(missing)} images that are not under "
            f"data.image_root '{data.image_root}' (first: {_first(missing, data)}). Check the root, or "
            f"the download{'; ' + WHOLE_GALLERY if skip else ''}"
        )
    bad = missing_images(train, data.image_root) if skip else []
    check_bad_images(bad, len(train))
    if bad:
        where = len(bad), len(train), data.image_root, _first(bad, data)
        logger.warning("skipping %d of %d training images: not under '%s' (first: %s)", *where)
    else:
        listed.note(times)


def _fetched(splits: Splits, data: DataOptions) -> Splits:
    """The splits that must be there: training images come from `data.shards`, and those of galleries have
    come after this.
    """
    fetcher = Fetcher(Path(data.image_root), data.shards)
    files = {split_path(image)[0] for image in _images(splits.val) | _images(splits.test)}
    for name in sorted(file for file in files if file.lower().endswith(TAR)):
        fetcher.ensure(name)
    return replace(splits, train={})


def _first(missing: Sequence[str], data: DataOptions) -> str:
    return describe_missing(missing[:1], Path(data.image_root))[0]


def check_bad_images(bad: Collection[str], num_images: int) -> None:
    """Raise UserError where the files `bad`, each once, are too many of the `num_images` of training."""
    if len(bad) > 1 and 100 * len(bad) > MAX_BAD_PERCENT * num_images:
        first = ", ".join(f"'{image}'" for image in sorted(bad)[:3])
        raise UserError(
            f"data.on_bad_image: {len(bad)} of {num_images} training images cannot be read, "
            f"{100 * len(bad) / num_images:.2f} % (such as {first}), and at most {MAX_BAD_PERCENT} % are "
            "skipped. Check data.image_root; python -m data.check names all bad files"
        )


def missing_images(images: Iterable[str], image_root: str | Path) -> list[str]:
    """Those of `images` that are not under the root, as no absolute path is.

    Raises UserError where there is no root.
    """
    root = Path(image_root)
    if not os.path.isdir(root):  # Path.is_dir raises where a name is too long
        raise UserError(f"data.image_root: no folder '{root}'; expected the folder that holds the images")
    listings: dict[str, Container[str]] = {}
    missing = []
    for image in dict.fromkeys(images):
        folder, name = split_path(image)
        if folder not in listings and not is_absolute(image):
            listings[folder] = _names(root / folder)
        if is_absolute(image) or name not in listings[folder]:
            missing.append(image)
    return missing


def _images(columns: Columns) -> dict[str, None]:
    """The different images, in order: those of the first language, with which the others are aligned."""
    return dict.fromkeys(image for records in [*columns.values()][:1] for image in records.images())


def _names(folder: Path) -> Container[str]:
    """The files in a folder, and links to files: no folder, pipe or device, and no broken link. Of a file of
    images, the places in it.
    """
    if folder.suffix.lower() in SUFFIXES and folder.is_file():
        try:
            return places_in(folder)
        except (OSError, pa.ArrowException) as error:
            reason = reason_of(error)
            raise UserError(f"data.image_root: '{folder}' cannot be read ({reason:.150})") from error
    if not os.path.isdir(folder):  # Path.is_dir raises where a name is too long
        return set()
    try:
        with os.scandir(folder) as entries:  # tells files from others without a system call for each
            return {e.name for e in entries if e.is_file(follow_symlinks=False) or os.path.isfile(e.path)}
    except OSError as error:
        raise UserError(f"data.image_root: '{folder}' cannot be read ({error.strerror})") from error


def _few_shot(train: Columns, data: DataOptions, seed: int) -> Columns:
    """The images that `data.few_shot` keeps, the same ones in every language."""
    if data.few_shot == 1 or not train:
        return train
    persons = next(iter(train.values())).person_ids.tolist()
    rows = few_shot_rows(persons, data.few_shot, data.few_shot_by, seed)
    few = {language: records.take(rows) for language, records in train.items()}
    counts = len(rows), len(persons), len({persons[row] for row in rows}), len(set(persons))
    logger.info("few-shot training: %d of %d images, %d of %d persons", *counts)
    return few


def few_shot_rows(person_ids: Sequence[int], share: float, by: str, seed: int) -> list[int]:
    """The rows of a training split that a `share` (0 to 1] of it keeps, in their order; at least one.

    Args:
        person_ids: the person of each image.
        by: "images" keeps that share of the images, "identities" all images of that share of the persons.
        seed: the only source of randomness; with one seed, a larger share holds the smaller ones.
    """
    assert by in ("images", "identities")
    unit_of_row = range(len(person_ids)) if by == "images" else person_ids
    units = sorted(set(unit_of_row))
    random.Random(seed).shuffle(units)
    kept = set(units[: max(1, round(share * len(units)))])
    return [row for row, unit in enumerate(unit_of_row) if unit in kept]
