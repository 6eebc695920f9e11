"""What the records of every reader go through: one record for each image, and the languages aligned."""

import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from data.records import NO_WORDS, NOT_ALIGNED, TWO_PERSONS, Report, of_each_caption
from data.types import NOBODY, ByLanguage, Record

logger = logging.getLogger(__name__)

Key = tuple[str, int]  # image and person


def merge_split(by_language: ByLanguage, split: str, path: Path, report: Report) -> ByLanguage:
    """The records of a split: one for each image and person, the languages aligned by index.

    Files may have a record for each caption, or list a language's images in another order. The captions of an
    image are joined in the order of the file, and every language takes the order of the first.

    Reported: an image of two persons in val or test, languages of other images, a language without captions.
    """
    where = f"'{path}', {split} split"
    named = _name_nobody(by_language, where)
    merged = {language: _merge(records) for language, records in named.items()}
    keys = list(dict.fromkeys(key for part in merged.values() for key in part))
    if split != "train":  # training only sees the image with captions of both
        _check_persons(keys, where, report)
    for key in keys:
        without = [language for language, part in merged.items() if key not in part]
        if without:
            others = ", ".join(language for language in merged if language not in without)
            found = f"image '{key[0]}' of person {key[1]} is in {others}, but not in {', '.join(without)}"
            expected = "every language must list the same images, without captions where it has none"
            report(NOT_ALIGNED, f"{where}: {found}; {expected}")
    for language, part in merged.items():
        if part and not any(record.captions for record in part.values()):
            report(NO_WORDS, f"{where}: no image has a caption in {language}; expected captions of some")
    return {language: [part[key] for key in keys if key in part] for language, part in merged.items()}


def _name_nobody(by_language: ByLanguage, where: str) -> ByLanguage:
    """The records with `NOBODY` for the ids of Market-1501 that are no person: -1, and 0 without captions."""
    all_records = [record for records in by_language.values() for record in records]
    if not any(record.person_id <= 0 for record in all_records):
        return by_language
    nobody = {NOBODY} | ({0} - {record.person_id for record in all_records if record.captions})
    if unused := sum(len(record.captions) for record in all_records if record.person_id == NOBODY):
        logger.warning("%s: %d captions of person id %d, nobody, are not used", where, unused, NOBODY)
    return {
        language: [
            replace(record, person_id=NOBODY, captions=(), back_translations=(), rewrites=())
            if record.person_id in nobody
            else record
            for record in records
        ]
        for language, records in by_language.items()
    }


def _merge(records: Iterable[Record]) -> dict[Key, Record]:
    merged: dict[Key, Record] = {}
    for record in records:
        key = record.image, record.person_id
        merged[key] = _joined(merged[key], record) if key in merged else record
    return merged


def _joined(*records: Record) -> Record:
    captions = tuple(caption for record in records for caption in record.captions)
    back = of_each_caption(records, "back_translations", "")
    rewrites = of_each_caption(records, "rewrites", ())
    return replace(records[0], captions=captions, back_translations=back, rewrites=rewrites)


def _check_persons(keys: Iterable[Key], where: str, report: Report) -> None:
    persons: dict[str, list[int]] = {}
    for image, person in keys:
        persons.setdefault(image, []).append(person)
    for image, several in persons.items():
        if len(several) > 1:
            found = f"image '{image}' is of the persons {', '.join(map(str, several))}"
            advice = "a hit would count as a miss; leave the wrong records out"
            report(TWO_PERSONS, f"{where}: {found}, and {advice}")
