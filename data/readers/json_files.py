"""JSON annotations: a file of all splits, or a folder with a file for each split, or split and language.

The raw files of CUHK-PEDES, ICFG-PEDES and RSTPReid, and `{split}_reid.json`, are English.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.readers import layouts, table
from data.readers.cells import REQUIRED
from data.records import MALFORMED, Report, pick_languages, read_bytes, read_record, read_split
from data.types import ByLanguage, Format, Record
from misc.process.sniff import NUM_BYTES, describe_bytes
from options import UserError


def recognises(path: Path, content: bytes, form: Format) -> bool:
    """A folder where `form` is one of a folder; else a list in which the fields of its records occur."""
    if form.split_files or path.is_dir():
        return bool(form.split_files) and path.is_dir()
    text = content.replace(b"\0", b"").lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n")  # UTF-8 or UTF-16
    fields = (form.image_field, "id", "captions")
    return text.startswith(b"[") and all(f'"{name}"'.encode() in text for name in fields)


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
    items = _parse_list(path, content)
    if not any(isinstance(item, dict) and "split" in item for item in items):
        raise UserError(f"'{path}': no field 'split' in its records{_without_split(path, items)}")
    found: dict[str, list[Record]] = {split: [] for split in splits}
    for index, item in enumerate(items):
        where = f"'{path}' record {index}"
        try:
            split = read_split(item, where)
        except UserError as error:
            report(MALFORMED, str(error))
            continue
        if split in found:
            record = read_record(item, form.image_field, "en", where, report)
            found[split] += [record] if record else []
    return {split: {"en": records} if records else {} for split, records in found.items()}


def _without_split(path: Path, items: list[Any]) -> str:
    """What to do about a file whose records do not say their split."""
    images = {str(item.get("file_path")).partition("/")[0] for item in items if isinstance(item, dict)}
    if path.name == layouts.WITHOUT_SPLITS or {"CUHK01", "CUHK03"} <= images:
        return (
            ". The caption_all.json of CUHK-PEDES does not say which images are train, val and test; use its "
            "reid_raw.json, which does"
        )
    return " (files of one split each: give their folder)"


def _read_folder(
    folder: Path, form: Format, splits: Sequence[str], languages: Sequence[str] | None, report: Report
) -> dict[str, ByLanguage]:
    named = layouts.files_of_format(folder, form)
    if not named and form.split_files[-1] == "{split}_reid.json" and (files := layouts.split_files(folder)):
        return table.read_files(files, folder, splits, languages, report)
    files = {split: named.get(split, {}) for split in splits}
    chosen = pick_languages(languages, files, folder, report)
    return {
        split: {name: _read_language(files[split][name], form, name, report) for name in names}
        for split, names in chosen.items()
    }


def _read_language(path: Path, form: Format, language: str, report: Report) -> list[Record]:
    """The file of one split in one language."""
    records = (
        read_record(item, form.image_field, language, f"'{path}' record {index}", report)
        for index, item in enumerate(_parse_list(path, read_bytes(path)))
    )
    return [record for record in records if record]


def parse_json(path: Path, content: bytes, keeps_pairs: bool = False) -> Any:
    """The content of a JSON file. Raises UserError where it is none.

    Args:
        keeps_pairs: objects are lists of (name, value), of which none is lost where a name occurs twice.
    """
    try:
        return json.loads(content, object_pairs_hook=list if keeps_pairs else None)
    except (ValueError, RecursionError) as error:
        what = describe_bytes(content[:NUM_BYTES])
        raise UserError(
            f"data.annotation_file: '{path}' is not JSON ({error}), nor a table with the columns "
            f"{', '.join(REQUIRED)}{f': it is {what}' if what else ''}. Check the file, or download it again"
        ) from error


def _parse_list(path: Path, content: bytes) -> list[Any]:
    items = parse_json(path, content)
    if not isinstance(items, list) or not items:
        found = "an empty list" if items == [] else f"a {type(items).__name__}"
        found += f" of {', '.join(items):.80}" if isinstance(items, dict) else ""
        raise UserError(f"data.annotation_file: '{path}' should hold a list of records, found {found}")
    return items
