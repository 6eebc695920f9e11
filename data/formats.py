"""From annotations to records, in any format of `data.types.FORMATS`.

A format's reader is a module of `data.readers` with two functions:

    recognises(path, content, form) -> whether the annotations are of this format, for "auto"
    read(path, content, form, splits, languages, report) -> {split: {language: records}}

`content` is the file's, b"" for a folder; `languages` are names as `language_name` gives them, or None for
all, English first. An image may have several records: `data.merging` joins them, and aligns the languages.
`report` is called with each fault of a record: where it returns, malformed records are left out.
"""

import logging
import os
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

from data.columns.records import Records
from data.columns.stored import Found, stored
from data.images.contained import SUFFIXES
from data.merging import merge_split
from data.readers import layouts
from data.readers.shards import choose
from data.records import Report, raise_fault, read_bytes
from data.shards.index import open_index
from data.types import FORMATS, SPLITS, Format, language_name
from options import UserError

logger = logging.getLogger(__name__)


def read_splits(
    annotation_file: str | Path,
    splits: Sequence[str] = SPLITS,
    languages: Sequence[str] | None = ("en",),
    dataset: str = "auto",
    report: Report = raise_fault,
) -> Found:
    """The records of `splits`, by language, as `merge_split` returns them; {} for a split that is not there.

    Large annotations are read once, see `data.columns.stored`; but always where `report` is given.

    Args:
        annotation_file: a file of all splits, or a folder of split files.
        languages: those wanted, in this order; None: all, English first.
        dataset: a name of `FORMATS`, or "auto": the first whose reader recognises the annotations.

    Raises:
        UserError: (faults of a record: unless `report` returns) anything malformed, naming file, record and
            field; a language that is not there.
    """
    path = Path(annotation_file)
    if not os.path.exists(path):  # Path.exists raises where a name is too long
        there = layouts.listing(path.parent)
        found = f"no file or folder '{path}'; {there}"
        raise UserError(f"data.annotation_file: {found}. Check the path, or the download")
    wanted = languages and list(dict.fromkeys(map(language_name, languages)))
    if path.is_dir() and (indexed := open_index(path)):
        return choose(indexed, splits, wanted, path, raise_fault)
    if path.is_dir():
        path = _file_in(path, dataset)

    def read() -> Found:
        return _read(path, splits, wanted, dataset, report)

    return stored(path, [splits, wanted, dataset], read) if report is raise_fault else read()


def _read(path: Path, splits: Sequence[str], wanted: list[str] | None, dataset: str, report: Report) -> Found:
    content = b"" if path.is_dir() or path.suffix.lower() in SUFFIXES else read_bytes(path)
    form = FORMATS[detect_format(path, content) if dataset == "auto" else dataset]
    if path.is_dir() != bool(form.split_files) and not (path.is_dir() and form.takes_folders):
        found, expected = ("a folder", "one file") if path.is_dir() else ("a file", "a folder")
        raise UserError(f"data.annotation_file: '{path}' is {found}; data.dataset={dataset} is {expected}")
    found = reader_of(form).read(path, content, form, splits, wanted, report)
    return {
        split: {
            language: Records.of(records, language)
            for language, records in merge_split(by_language, split, path, report).items()
        }
        for split, by_language in found.items()
    }


def _file_in(folder: Path, dataset: str) -> Path:
    """The one file to read in a data set's own folder, or the folder where it has a file for each split.

    Raises:
        UserError: neither, or both.
    """
    forms = [FORMATS[dataset]] if dataset != "auto" else list(FORMATS.values())
    if any(form.split_files and layouts.files_of_format(folder, form) for form in forms):
        return folder
    of_splits = layouts.split_files(folder) if dataset in ("auto", "folder") else {}
    names = layouts.RAW_FILES
    raw = [name for name in names if os.path.isfile(folder / name)]
    if of_splits and not raw:
        return folder
    if of_splits or (dataset != "auto" and FORMATS[dataset].split_files):
        expected = "either a file of all splits or one for each"
        if not of_splits:
            expected = f"files such as {FORMATS[dataset].split_files[-1]}"
        found = layouts.listing(folder)
        raise UserError(f"data.annotation_file: expected {expected}; {found}. Name the file to read")
    is_chosen = dataset != "auto"
    if any(f.takes_folders and (is_chosen or reader_of(f).recognises(folder, b"", f)) for f in forms):
        return folder
    file = layouts.single_file(folder)
    logger.info("data.annotation_file: reading '%s'", file)
    return file


def reader_of(form: Format) -> ModuleType:
    """The module of `data.readers` that reads a format."""
    return import_module(f"data.readers.{form.reader}")


def detect_format(path: Path, content: bytes) -> str:
    """The name of the first format whose reader recognises the annotations."""
    names = (name for name, form in FORMATS.items() if reader_of(form).recognises(path, content, form))
    return next(names, "cuhk-pedes")  # its reader says what is expected
