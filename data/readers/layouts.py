"""Finding the annotation files in a folder: one for each split, or the one file of a data set."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from data.images.decode import is_hidden
from data.types import SPLIT_NAMES, Format, language_name
from options import UserError

RAW_FILES = (  # of the data sets, with all splits
    *("reid_raw.json", "ICFG-PEDES.json", "data_captions.json", "UFine6926_Annotations_1024.json"),
)
WITHOUT_SPLITS = "caption_all.json"  # of CUHK-PEDES
SUFFIXES = {".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".xlsx"}
# Where they stand in a file's name.
LANGUAGES = {"en", "zh", "ch", "cn", "fr", "de", "es", "it", "pt", "nl", "ru", "ar", "ja", "ko"}
NUM_LISTED = 12  # files of a folder, in a message

Files = dict[str, dict[str, Path]]  # {split: {language: its file}}


def files_of_format(folder: Path, form: Format) -> Files:
    """The files of a folder that have the names of a format; those of its first pattern come first.

    Raises:
        UserError: two files for one split and language, such as `val_reid.json` and `valid_reid.json`.
    """
    found: Files = {}
    for pattern in form.split_files:
        expression = re.escape(pattern).replace(r"\{split\}", r"(?P<split>[a-z]+)")
        expression = expression.replace(r"\{language\}", r"(?P<language>.+)")
        matches = [(path, re.fullmatch(expression, path.name, re.IGNORECASE)) for path in _files(folder)]
        named = [
            (path, SPLIT_NAMES[match["split"].lower()], match.groupdict().get("language") or "en")
            for path, match in matches
            if match and match["split"].lower() in SPLIT_NAMES
        ]
        for split, of_split in _by_split(named).items():
            found[split] = of_split | found.get(split, {})
    return found


def split_files(folder: Path) -> Files:
    """The files of a folder with the name of one split in theirs, such as `CUHK-PEDES-train.json`.

    Raises:
        UserError: two files for one split and language.
    """
    named = []
    for path in _files(folder):
        words = re.split(r"[^0-9a-z]+", path.stem.lower())
        splits = {SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES}
        if len(splits) == 1 and path.suffix.lower() in SUFFIXES:
            languages = [word for word in words if word in LANGUAGES]
            named.append((path, splits.pop(), languages[-1] if languages else "en"))
    return _by_split(named)


def single_file(folder: Path, names: Sequence[str] = RAW_FILES) -> Path:
    """The one file of a data set's own folder: of a name in `names`, else the only one that there is.

    Raises:
        UserError: several such files, or none.
    """
    known = [path for path in _files(folder) if path.name.lower() in map(str.lower, names)]
    found = known or [path for path in _files(folder) if path.suffix.lower() in SUFFIXES]
    if len(found) == 1:
        return found[0]
    what = "has several annotation files" if found else "has no annotations"
    raise UserError(
        f"data.annotation_file: '{folder}' {what}; looked for one of {', '.join(names)}, or a file of each "
        f"split such as train_reid.json, train_reid_en.json, train.json; {listing(folder)}. Name the file"
    )


def listing(folder: Path) -> str:
    """What a folder holds, for a message."""
    try:
        names = sorted(name for name in os.listdir(folder) if not is_hidden(name))
    except OSError:
        return f"there is no folder '{folder}'"
    shown = [f"{name}/" if (folder / name).is_dir() else name for name in names[:NUM_LISTED]]
    more = f" and {len(names) - NUM_LISTED} more" if len(names) > NUM_LISTED else ""
    hint = (
        f" ({WITHOUT_SPLITS} does not say the splits, reid_raw.json does)" if WITHOUT_SPLITS in names else ""
    )
    return f"'{folder}' holds {', '.join(shown) or 'nothing'}{more}{hint}"


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not is_hidden(path.name) and path.is_file())


def _by_split(named: list[tuple[Path, str, str]]) -> Files:
    """(path, split, language) as `Files`."""
    files: Files = {}
    for path, split, language in named:
        other = files.setdefault(split, {}).setdefault(language_name(language), path)
        if other != path:
            both = f"'{other}' and '{path.name}' may both be the {split} split in {language}"
            raise UserError(f"data.annotation_file: {both}; leave one of them in the folder")
    return files
