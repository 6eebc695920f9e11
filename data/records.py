"""From an item of an annotation file to a record, with all checks of its fields."""

import posixpath
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data.types import NOBODY, SPLIT_NAMES, Record, Rewrites
from options import UserError
from text_utils.captions import has_words

# The kinds of faults in annotations, as `data.check` lists them.
MALFORMED = "malformed records"
NO_WORDS = "captions without words"
UNPAIRED = "back-translations that do not pair with their captions"
UNPAIRED_REWRITES = "rewritten captions that do not pair with their captions"
NOT_ALIGNED = "languages that are not aligned"
DROPPED = "captions that are none (dropped)"  # no fault: a run only counts them
TWO_PERSONS = "images of more than one person in val or test"

UNPAIRED_SURROGATE = re.compile("[\ud800-\udfff]")  # JSON can hold it, UTF-8 cannot

REWRITES = "diversity_captions"  # the field of ICL's annotations

Report = Callable[[str, str], None]  # called with one of the kinds above and a line that says where


def raise_fault(kind: str, message: str) -> None:
    """The `Report` of a run: the first fault ends it."""
    if kind != DROPPED:
        raise UserError(message)


def pick_languages(
    wanted: Sequence[str] | None, available: Mapping[str, Iterable[str]], path: Path, report: Report
) -> dict[str, list[str]]:
    """The languages to read of each split: those `wanted`, or where None is given all that any split has.

    Args:
        available: {split: its languages}. A split without any stays empty.
    """
    found = {language for languages in available.values() for language in languages}
    if wanted is None:
        wanted = sorted(found, key=lambda language: (language != "en", language))
    for split, languages in available.items():
        for language in wanted if languages else ():
            if language not in languages:
                where = f"'{language}' is missing in the {split} split of '{path}'"
                report(NOT_ALIGNED, f"data.languages: {where}; found {', '.join(sorted(languages))}")
    return {split: [name for name in wanted if name in languages] for split, languages in available.items()}


def read_record(
    item: Any, image_field: str, language: str, where: str, report: Report = raise_fault
) -> Record | None:
    """The record of an annotation's `item`; None where it is malformed and `report` returns.

    A record where only texts are wrong (no words, unpaired back-translations) is reported and returned.

    Args:
        where: file and number of the record, for messages.
    """
    try:
        record = _parse(item, image_field, language, where)
    except UserError as error:
        report(MALFORMED, str(error))
        return None
    captions, back = record.captions, record.back_translations
    blank = [caption for caption in captions if not has_words(caption)]
    if blank:
        expected = "field 'captions' should hold only captions with words"
        report(NO_WORDS, f"{where}: {expected}, found the caption {blank[0]!r:.40}")
    if back and len(back) != len(captions):
        expected = f"field 'captions_bt' should pair with 'captions' ({len(captions)})"
        report(UNPAIRED, f"{where}: {expected}, found {len(back)}")
    if record.rewrites and len(record.rewrites) != len(captions):
        expected = f"field '{REWRITES}' should pair with 'captions' ({len(captions)})"
        report(UNPAIRED_REWRITES, f"{where}: {expected}, found {len(record.rewrites)}")
    return record


def of_each_caption(records: Iterable[Record], name: str, nothing: object) -> tuple[object, ...]:
    """The values of a field that has one for each caption, `nothing` where there is none; () if all are."""
    each = (getattr(record, name) or (nothing,) * len(record.captions) for record in records)
    values = [value for of_record in each for value in of_record]
    return tuple(values) if any(values) else ()


def read_bytes(path: Path) -> bytes:
    """The content of an annotation file. Raises UserError where it cannot be read."""
    if not path.is_file():  # a device or a pipe may never end
        raise UserError(f"data.annotation_file: '{path}' is neither a file nor a folder")
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"data.annotation_file: '{path}' cannot be read ({error.strerror})") from error


def split_of(file: Path) -> str:
    """The split that the name of a file begins with; otherwise train."""
    return SPLIT_NAMES.get(re.split(r"[^a-z]", file.name.lower())[0], "train")


def read_split(item: Any, where: str) -> str:
    """The split of `SPLITS` that the field 'split' of an item names. Raises UserError where it names none."""
    split = field(item, "split", str, where)
    if split.strip().lower() not in SPLIT_NAMES:
        raise UserError(f"{where}: field 'split' should be train, val or test, found {split!r:.40}")
    return SPLIT_NAMES[split.strip().lower()]


def field(item: Any, name: str, kind: type, where: str) -> Any:
    """The field `name` of an item. Raises UserError where there is none, or none of this kind."""
    if not isinstance(item, dict):
        raise UserError(f"{where}: expected fields and values, found {item!r:.40}")
    if name not in item:
        raise UserError(f"{where}: no field '{name}'; it has {', '.join(map(str, item)):.80}")
    if type(item[name]) is not kind or (kind is str and UNPAIRED_SURROGATE.search(item[name])):
        words = {str: "a text", int: "a whole number", list: "a list of texts"}[kind]
        raise UserError(f"{where}: field '{name}' should be {words}, found {item[name]!r:.40}")
    return item[name]


def image_path(item: Any, name: str, where: str) -> str:
    """The field `name` as the one spelling of its path: with "/" alone, without ".", ".." and empty parts.

    An absolute path is returned as it is: `missing_images` lists it as missing, with what is there.

    Raises UserError where ".." leaves the image root.
    """
    given = field(item, name, str, where)
    image = posixpath.normpath(given.replace("\\", "/"))
    if not given.strip() or image.partition("/")[0] in (".", "..") or "\0" in image:
        raise UserError(f"{where}: field '{name}' should be a path below data.image_root, found {given!r}")
    return image


def _parse(item: Any, image_field: str, language: str, where: str) -> Record:
    image = image_path(item, image_field, where)
    person_id = field(item, "id", int, where)
    if not NOBODY <= person_id < 2**63:  # tensors hold 64 bits
        words = f"at least 0, or {NOBODY} for nobody" if person_id < 0 else "less than 2**63"
        raise UserError(f"{where}: field 'id' should be a person id of {words}, found {person_id!r:.40}")
    captions = _texts(item, "captions", where)
    back = _texts(item, "captions_bt", where) if item.get("captions_bt") else ()
    if not "".join(captions).strip():  # [""] is none, as an empty cell of a table is
        captions, back = (), tuple(text for text in back if text.strip())
    back = tuple(text if has_words(text) else "" for text in back)
    return Record(image, person_id, captions, back, language, _rewrites(item, where) if captions else ())


def _rewrites(item: dict[str, Any], where: str) -> tuple[Rewrites, ...]:
    """The rewrites of each caption (ICL); a caption's may be a single text, or none, as [] or null.

    Raises UserError: another nesting, a group without texts, a text without words.
    """
    given = item.get(REWRITES) or []
    of_captions = [_groups(each) for each in given] if isinstance(given, list) else [[given]]
    for group in (group for groups in of_captions for group in groups):
        for text in group if isinstance(group, list) and group else [group]:
            is_text = isinstance(group, list) and isinstance(text, str)
            if not is_text or UNPAIRED_SURROGATE.search(text) or not has_words(text):
                expected = "for each caption a list of groups, each a list of texts with words"
                raise UserError(f"{where}: field '{REWRITES}' should hold {expected}, found {text!r:.40}")
    return tuple(tuple(map(tuple, groups)) for groups in of_captions)


def _groups(given: object) -> list[Any]:
    """The groups of a caption's rewrites; what is no list of them as it is, to be refused."""
    if isinstance(given, str):
        return [[given]]
    return given or [] if isinstance(given, list | None) else [given]


def _texts(item: dict[str, Any], name: str, where: str) -> tuple[str, ...]:
    texts = [] if item.get(name, "") is None else field(item, name, list, where)
    for text in texts:
        if not isinstance(text, str) or UNPAIRED_SURROGATE.search(text):
            raise UserError(f"{where}: field '{name}' should be a list of texts, found {text!r:.40} in it")
    return tuple(texts)
