"""JSON annotations: a file of all splits, or a folder with a file for each split, or split and language.

The raw files of CUHK-PEDES, ICFG-PEDES and RSTPReid, and `{split}_reid.json`, are English.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.readers.table import REQUIRED
from data.records import MALFORMED, Report, pick_languages, read_bytes, read_record, read_split
from data.types import ByLanguage, Format, Record, language_name
from options import UserError


def recognises(path: Path, content: bytes, form: Format) -> bool:
    """A folder where `form` is one of a folder; else a list in which `form.image_field` occurs."""
    if form.split_files or path.is_dir():
        return bool(form.split_files) and path.is_dir()
    text = content.replace(b"\0", b"").lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n")  # UTF-8 or UTF-16
    return text.startswith(b"[") and f'"{form.image_field}"'.encode() in text


def read(
    path: Path,
    content: bytes,
    form: Format,
    splits: Sequence[str],
    languages: Sequence[str] | None,
    report: Report,
) -> dict[str, ByLanguage]:
    """See `data.formats`. The file of a language comes before `{split}_reid.json`."""
    if form.split_files:
        return _read_folder(path, form, splits, languages, report)
    other = next((language for language in languages or () if language != "en"), None)
    if other is not None:
        raise UserError(f"data.languages: '{other}' is not in '{path}', which has only en")
    return _read_file(path, content, form, splits, report)


def _read_file(
    path: Path, content: bytes, form: Format, splits: Sequence[str], report: Report
) -> dict[str, ByLanguage]:
    """One file with all splits. Records of other splits are not checked."""
    items = _parse_json(path, content)
    found: dict[str, list[Record]] = {split: [] for split in splits}
    for index, item in enumerate(items):
        where = f"'{path}' record {index}"
        try:
            if isinstance(item, dict) and "split" not in item:
                raise UserError(f"{where}: no field 'split' (files of one split each: give their folder)")
            split = read_split(item, where)
        except UserError as error:
            report(MALFORMED, str(error))
            continue
        if split in found:
            record = read_record(item, form.image_field, "en", where, report)
            found[split] += [record] if record else []
    return {split: {"en": records} if records else {} for split, records in found.items()}


def _read_folder(
    folder: Path, form: Format, splits: Sequence[str], languages: Sequence[str] | None, report: Report
) -> dict[str, ByLanguage]:
    files = {split: _language_files(folder, form, split) for split in splits}
    chosen = pick_languages(languages, files, folder, report)
    return {
        split: {name: _read_language(files[split][name], form, name, report) for name in names}
        for split, names in chosen.items()
    }


def _read_language(path: Path, form: Format, language: str, report: Report) -> list[Record]:
    """The file of one split in one language."""
    records = (
        read_record(item, form.image_field, language, f"'{path}' record {index}", report)
        for index, item in enumerate(_parse_json(path, read_bytes(path)))
    )
    return [record for record in records if record]


def _language_files(folder: Path, form: Format, split: str) -> dict[str, Path]:
    """{language: its file} of a split; `{split}_reid.json` is English where no `{split}_reid_en.json` is."""
    files: dict[str, Path] = {}
    for pattern in form.split_files:
        for path in sorted(folder.glob(pattern.format(split=split, language="*"))):
            language = path.stem.removeprefix(f"{split}_reid").lstrip("_") or "en"
            files.setdefault(language_name(language), path)
    return files


def _parse_json(path: Path, content: bytes) -> list[Any]:
    try:
        items = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"data.annotation_file: '{path}' is not JSON ({error}), nor a table with the columns "
            f"{', '.join(REQUIRED)}. Check the file, or download it again"
        ) from error
    if not isinstance(items, list) or not items:
        found = "an empty list" if items == [] else f"a {type(items).__name__}"
        raise UserError(f"data.annotation_file: '{path}' should hold a list of records, found {found}")
    return items
