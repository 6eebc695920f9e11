"""From annotation files to records: the formats of the data sets, told by content."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data.records import (
    MALFORMED,
    NOT_ALIGNED,
    Complain,
    pick_languages,
    read_record,
    read_split,
    refuse,
)
from data.table import REQUIRED, is_table, read_table
from data.types import SPLITS, ByLanguage, Record
from options import UserError


class Format(NamedTuple):
    """What tells one annotation format from another."""

    image_field: str
    split_files: tuple[str, ...]  # in a folder, the first that exists; () where one file holds all splits


FORMATS = {
    "cuhk-pedes": Format("file_path", ()),
    "icfg-pedes": Format("file_path", ()),
    "rstpreid": Format("img_path", ()),
    "table": Format("image", ()),
    "curated": Format("file_path", ("{split}_reid.json",)),
    "multilingual": Format("file_path", ("{split}_reid_{language}.json",)),
    "folder": Format("file_path", ("{split}_reid_{language}.json", "{split}_reid.json")),
}


def read_splits(
    annotation_file: str | Path,
    splits: Sequence[str] = SPLITS,
    languages: Sequence[str] | None = ("en",),
    dataset: str = "auto",
    complain: Complain = refuse,
) -> dict[str, ByLanguage]:
    """The records of `splits`, by language; {} for a split that the annotations do not have.

    Args:
        annotation_file: a file of all splits (CUHK-PEDES, ICFG-PEDES, RSTPReid, a table as `data/table.py`
            describes it), or a folder of split files.
        languages: those asked for; None: all that are there, English first. The raw files of the three data
            sets, and `{split}_reid.json`, are English ("en").
        dataset: a name of `FORMATS`, or "auto": told by content; in a folder, files of a language come first.
        complain: called with each fault of a record. Where it returns, malformed records are left out, and
            the languages may not be aligned.

    Raises:
        UserError: (faults of a record: unless `complain` returns) anything malformed, naming file, record and
            field; a language that is not there.
    """
    path = Path(annotation_file)
    if not os.path.exists(path):  # Path.exists raises where a name is too long
        raise UserError(f"data.annotation_file: no file or folder '{path}'. Check the path, or the download")
    if path.is_dir():
        form = FORMATS["folder" if dataset == "auto" else dataset]
        if not form.split_files:
            raise UserError(f"data.annotation_file: '{path}' is a folder; data.dataset={dataset} is one file")
        return _read_folder(path, form, splits, languages, complain)
    if dataset in FORMATS and FORMATS[dataset].split_files:
        raise UserError(f"data.annotation_file: '{path}' is a file; data.dataset={dataset} is a folder")
    content = _read_bytes(path)
    if dataset == "table" or (dataset == "auto" and is_table(content)):
        return read_table(path, content, splits, languages, complain)
    other = next((language for language in languages or () if language != "en"), None)
    if other is not None:
        raise UserError(f"data.languages: '{other}' is not in '{path}', which has en alone")
    return _read_file(path, content, splits, dataset, complain)


def _read_file(
    path: Path, content: bytes, splits: Sequence[str], dataset: str, complain: Complain
) -> dict[str, ByLanguage]:
    """One file with all splits. Records of splits that are not asked for are not looked at."""
    items = _parse_json(path, content)
    if dataset == "auto":
        dataset = "rstpreid" if _has(items, "img_path") and not _has(items, "file_path") else "cuhk-pedes"
    found: dict[str, list[Record]] = {split: [] for split in splits}
    for index, item in enumerate(items):
        where = f"'{path}' record {index}"
        try:
            if isinstance(item, dict) and "split" not in item:
                raise UserError(f"{where}: no field 'split' (files of one split each: give their folder)")
            split = read_split(item, where)
        except UserError as error:
            complain(MALFORMED, str(error))
            continue
        if split in found:
            record = read_record(item, FORMATS[dataset].image_field, "en", where, complain)
            found[split] += [record] if record else []
    return {split: {"en": records} if records else {} for split, records in found.items()}


def _has(items: list[Any], name: str) -> bool:
    return any(isinstance(item, dict) and name in item for item in items)


def _read_folder(
    folder: Path, form: Format, splits: Sequence[str], languages: Sequence[str] | None, complain: Complain
) -> dict[str, ByLanguage]:
    files = {split: _language_files(folder, form, split) for split in splits}
    chosen = pick_languages(languages, files, folder, complain)
    return {
        split: _read_languages({language: files[split][language] for language in names}, form, complain)
        for split, names in chosen.items()
    }


def _read_languages(files: dict[str, Path], form: Format, complain: Complain) -> ByLanguage:
    """One split. The files of its languages must describe the same images in the same order."""
    read: dict[str, list[Record | None]] = {}
    for language, path in files.items():
        read[language] = [
            read_record(item, form.image_field, language, f"'{path}' record {index}", complain)
            for index, item in enumerate(_parse_json(path, _read_bytes(path)))
        ]
        first = next(iter(read))
        _check_aligned(read[first], read[language], files[first], path, complain)
    return {language: [record for record in records if record] for language, records in read.items()}


def _language_files(folder: Path, form: Format, split: str) -> dict[str, Path]:
    """{language: its file} of a split; `{split}_reid.json` is English where no `{split}_reid_en.json` is."""
    there: dict[str, Path] = {}
    for pattern in form.split_files:
        for path in sorted(folder.glob(pattern.format(split=split, language="*"))):
            there.setdefault(path.stem.removeprefix(f"{split}_reid").lstrip("_") or "en", path)
    return there


def _check_aligned(
    first: list[Record | None],
    other: list[Record | None],
    first_file: Path,
    other_file: Path,
    complain: Complain,
) -> None:
    if len(first) != len(other):
        complain(
            NOT_ALIGNED,
            f"'{other_file}' has {len(other)} records and '{first_file}' {len(first)}; the languages' files "
            "must describe the same images in the same order",
        )
        return
    for index, (a, b) in enumerate(zip(first, other, strict=True)):
        if a and b and (a.image, a.person_id) != (b.image, b.person_id):
            complain(
                NOT_ALIGNED,
                f"'{other_file}' record {index} is image '{b.image}' of person {b.person_id}, but in "
                f"'{first_file}' it is '{a.image}' of person {a.person_id}; they must agree at each index",
            )


def _read_bytes(path: Path) -> bytes:
    if not path.is_file():  # a device or a pipe may never end
        raise UserError(f"data.annotation_file: '{path}' is neither a file nor a folder")
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"data.annotation_file: '{path}' cannot be read ({error.strerror})") from error


def _parse_json(path: Path, content: bytes) -> list[Any]:
    try:
        items = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"data.annotation_file: '{path}' is not JSON ({error}), nor a table with the columns "
            f"{', '.join(REQUIRED)}. Check the file, or download it anew"
        ) from error
    if not isinstance(items, list) or not items:
        found = "an empty list" if items == [] else f"a {type(items).__name__}"
        raise UserError(f"data.annotation_file: '{path}' should hold a list of records, found {found}")
    return items
