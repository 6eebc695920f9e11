"""From annotation files to records: the formats of the data sets, told by content, and all checks on them."""

import json
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from data.few_shot import few_shot_rows
from options import DataOptions, Options, UserError
from text_utils.captions import clean_caption

logger = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class Record:
    """One image and what is said about it in one language.

    `image` is relative to the image root, `person_id` as the file has it. `back_translations` are paired with
    `captions` ("" where there is none), or empty where the file has none at all.
    """

    image: str
    person_id: int
    captions: tuple[str, ...]
    back_translations: tuple[str, ...]
    language: str


ByLanguage = dict[str, list[Record]]


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


class Format(NamedTuple):
    """What tells one annotation format from another."""

    image_field: str
    split_files: tuple[str, ...]  # in a folder, the first that exists; () where one file holds all splits


FORMATS = {
    "cuhk-pedes": Format("file_path", ()),
    "icfg-pedes": Format("file_path", ()),
    "rstpreid": Format("img_path", ()),
    "curated": Format("file_path", ("{split}_reid.json",)),
    "multilingual": Format("file_path", ("{split}_reid_{language}.json",)),
    "folder": Format("file_path", ("{split}_reid_{language}.json", "{split}_reid.json")),
}


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
    shared = _person_ids(splits.train) & _person_ids(splits.test)
    if shared:
        logger.warning("%d persons are in both train and test: the test figures will flatter", len(shared))
    return replace(splits, train=_few_shot(splits.train, data, options.misc.seed))


def read_splits(
    annotation_file: str | Path,
    splits: Sequence[str] = SPLITS,
    languages: Sequence[str] = ("en",),
    dataset: str = "auto",
) -> dict[str, ByLanguage]:
    """The records of `splits`, by language; {} for a split that the annotations do not have.

    Args:
        annotation_file: a file of all splits (CUHK-PEDES, ICFG-PEDES, RSTPReid), or a folder of split files.
        languages: those asked for. One file, and `{split}_reid.json`, are English ("en").
        dataset: a name of `FORMATS`, or "auto": told by content; in a folder, files of a language come first.

    Raises:
        UserError: anything malformed, naming file, record and field; a language that is not there.
    """
    path = Path(annotation_file)
    if not path.exists():
        raise UserError(f"data.annotation_file: no file or folder '{path}'. Check the path, or the download")
    if path.is_dir():
        form = FORMATS["folder" if dataset == "auto" else dataset]
        if not form.split_files:
            raise UserError(f"data.annotation_file: '{path}' is a folder; data.dataset={dataset} is one file")
        return {split: _read_folder(path, form, split, languages) for split in splits}
    if dataset in FORMATS and FORMATS[dataset].split_files:
        raise UserError(f"data.annotation_file: '{path}' is a file; data.dataset={dataset} is a folder")
    if tuple(languages) != ("en",):
        other = next(language for language in languages if language != "en")
        raise UserError(f"data.languages: '{other}' is not in '{path}', which has en alone")
    return _read_file(path, splits, dataset)


def check_images(records: Iterable[Record], image_root: str | Path, annotation_file: str | Path) -> None:
    """Raise UserError where the root, or an image under it, is missing. Each folder is listed once: fast."""
    root = Path(image_root)
    if not root.is_dir():
        raise UserError(f"data.image_root: no folder '{root}'; it is where the images of the annotations lie")
    listings: dict[str, set[str]] = {}
    missing = []
    for image in dict.fromkeys(record.image for record in records):
        folder, _, name = image.rpartition("/")
        if folder not in listings:
            listings[folder] = set(os.listdir(root / folder)) if (root / folder).is_dir() else set()
        if name not in listings[folder]:
            missing.append(image)
    if missing:
        raise UserError(
            f"data.annotation_file: '{annotation_file}' lists {len(missing)} images that are not under "
            f"data.image_root '{root}' (first: '{missing[0]}'). Check the root, or the download"
        )


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


def _read_file(path: Path, splits: Sequence[str], dataset: str) -> dict[str, ByLanguage]:
    """One file with all splits. Records of splits that are not asked for are not looked at."""
    items = _load_json(path)
    if dataset == "auto":
        dataset = "rstpreid" if "img_path" in items[0] and "file_path" not in items[0] else "cuhk-pedes"
    found: dict[str, list[Record]] = {split: [] for split in splits}
    for index, item in enumerate(items):
        where = f"'{path}' record {index}"
        if "split" not in item:
            raise UserError(f"{where}: no field 'split' (files of one split each: give their folder)")
        split = _field(item, "split", str, where).lower()
        if split not in SPLITS:
            raise UserError(f"{where}: field 'split' should be train, val or test, found {item['split']!r}")
        if split in found:
            found[split].append(_record(item, FORMATS[dataset].image_field, "en", where))
    return {split: {"en": records} if records else {} for split, records in found.items()}


def _read_folder(folder: Path, form: Format, split: str, languages: Sequence[str]) -> ByLanguage:
    """One split of a folder. The files of its languages must describe the same images in the same order."""
    there = _language_files(folder, form, split)
    if not there:
        return {}
    for language in languages:
        if language not in there:
            raise UserError(
                f"data.languages: '{language}' is not there for the {split} split in '{folder}'; "
                f"found {', '.join(sorted(there))}"
            )
    read = {}
    for language in languages:
        items = _load_json(there[language])
        read[language] = [
            _record(item, form.image_field, language, f"'{there[language]}' record {index}")
            for index, item in enumerate(items)
        ]
        _check_aligned(read[languages[0]], read[language], there[languages[0]], there[language])
    return read


def _language_files(folder: Path, form: Format, split: str) -> dict[str, Path]:
    """{language: its file} of a split; `{split}_reid.json` is English where no `{split}_reid_en.json` is."""
    there: dict[str, Path] = {}
    for pattern in form.split_files:
        for path in sorted(folder.glob(pattern.format(split=split, language="*"))):
            there.setdefault(path.stem.removeprefix(f"{split}_reid").lstrip("_") or "en", path)
    return there


def _check_aligned(first: list[Record], other: list[Record], first_file: Path, other_file: Path) -> None:
    if len(first) != len(other):
        raise UserError(
            f"'{other_file}' has {len(other)} records and '{first_file}' {len(first)}; the languages' files "
            "must describe the same images in the same order"
        )
    for index, (a, b) in enumerate(zip(first, other, strict=True)):
        if (a.image, a.person_id) != (b.image, b.person_id):
            raise UserError(
                f"'{other_file}' record {index} is image '{b.image}' of person {b.person_id}, but in "
                f"'{first_file}' it is '{a.image}' of person {a.person_id}; they must agree at each index"
            )


def _load_json(path: Path) -> list[dict[str, Any]]:
    try:
        items = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"data.annotation_file: '{path}' cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"data.annotation_file: '{path}' is not JSON ({error}). Download it anew") from error
    if not isinstance(items, list) or not items:
        found = "an empty list" if items == [] else f"a {type(items).__name__}"
        raise UserError(f"data.annotation_file: '{path}' should hold a list of records, found {found}")
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            raise UserError(f"'{path}' record {index}: expected fields and values, found {item!r:.40}")
    return items


def _record(item: dict[str, Any], image_field: str, language: str, where: str) -> Record:
    image = _field(item, image_field, str, where)
    parts = image.replace("\\", "/").split("/")
    if not image.strip() or parts[0] == "" or parts[0].endswith(":") or ".." in parts:
        raise UserError(
            f"{where}: field '{image_field}' should be a path below data.image_root, found {image!r}"
        )
    person_id = _field(item, "id", int, where)
    if person_id < 0:
        raise UserError(f"{where}: field 'id' should be a person id of at least 0, found {person_id}")
    captions = _texts(item, "captions", where)
    blank = [caption for caption in captions if not clean_caption(caption)]
    if blank or not captions:
        found = f"the caption {blank[0]!r}" if blank else "none"
        raise UserError(f"{where}: field 'captions' should be one or more captions with words, found {found}")
    back = _texts(item, "captions_bt", where) if item.get("captions_bt") else ()
    if back and len(back) != len(captions):
        raise UserError(
            f"{where}: field 'captions_bt' should pair with 'captions' ({len(captions)}), found {len(back)}"
        )
    back = tuple(text if clean_caption(text) else "" for text in back)
    return Record(image, person_id, captions, back, language)


def _texts(item: dict[str, Any], name: str, where: str) -> tuple[str, ...]:
    texts = _field(item, name, list, where)
    for text in texts:
        if not isinstance(text, str):
            raise UserError(f"{where}: field '{name}' should be a list of texts, found {text!r:.40} in it")
    return tuple(texts)


def _field(item: dict[str, Any], name: str, kind: type, where: str) -> Any:
    if name not in item:
        raise UserError(f"{where}: no field '{name}'; it has {', '.join(map(str, item))}")
    if type(item[name]) is not kind:
        words = {str: "a text", int: "a whole number", list: "a list of texts"}[kind]
        raise UserError(f"{where}: field '{name}' should be {words}, found {item[name]!r:.40}")
    return item[name]
