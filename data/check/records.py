"""What `data.check` finds in the records: counts, captions, persons, splits, languages."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from data.columns.stored import Found
from data.published import PUBLISHED, Count
from data.types import NOBODY, Record
from text_utils.captions import clean_caption

Value = TypeVar("Value")


@dataclass(frozen=True)
class Finding:
    """One kind of thing that was found; a defect stops or falsifies training, others are warnings."""

    title: str
    is_defect: bool
    details: list[str]  # a line for each


def each(found: Found) -> Iterator[tuple[str, str, Record]]:
    """(split, language, record) of all records."""
    for split, by_language in found.items():
        for language, records in by_language.items():
            for record in records:
                yield split, language, record


def differences(counts: dict[tuple[str, str], Count], name: str) -> Finding:
    """Where the counts are not those published for the data set `name`."""
    published = PUBLISHED[name]
    languages = dict.fromkeys(language for _, language in counts)
    details, nothing = [], Count(0, 0, 0)
    for split in dict.fromkeys([*published, *(split for split, _ in counts)]):
        for language in languages:
            there, should = counts.get((split, language), nothing), published.get(split, nothing)
            details += [
                f"{split} {language}: {a} {what}, published {b}"
                for what, a, b in zip(Count._fields, there, should, strict=True)
                if a != b
            ]
    return Finding(f"counts that differ from those published for {name}", False, details)


def record_findings(found: Found, unusable: Collection[str]) -> list[Finding]:
    """What the records say of themselves; no query can find an `unusable` image."""
    trained = ((record.image, record.person_id) for split, _, record in each(found) if split == "train")
    captions = (
        (f"{language} '{caption}'", record.person_id)
        for _, language, record in each(found)
        for caption in filter(None, map(clean_caption, record.captions))
    )
    return [
        Finding("identities in more than one split", True, _shared(found, "person_id", "person ")),
        Finding("images in more than one split", True, _shared(found, "image", "")),
        Finding("training images of more than one person", False, _of_many_persons(trained)),
        Finding("training images without captions (not trained on)", False, _undescribed(found, ["train"])),
        Finding(
            "images without captions (in the gallery, but no queries)",
            False,
            _undescribed(found, ["val", "test"]),
        ),
        Finding("queries with no image in the gallery", True, _without_gallery(found, unusable)),
        Finding("captions given to different persons", False, _of_many_persons(captions)),
        Finding("captions given twice to one image", False, _repeated(found)),
        Finding("captions without a back-translation beside ones that have it", False, _without_back(found)),
        Finding("captions without rewrites beside ones that have them", False, _without_rewrites(found)),
    ]


def equal_bytes(found: Found, groups: Iterable[Sequence[str]]) -> list[Finding]:
    """What the records say of `groups` of images whose files have equal bytes: leaks that no path shows."""
    across: dict[str, list[str]] = {"split": [], "person": []}
    values: dict[str, dict[str, dict[object, None]]] = {"split": {}, "person": {}}
    for split, _, record in each(found):
        values["split"].setdefault(record.image, {})[split] = None
        values["person"].setdefault(record.image, {})[f"person {record.person_id}"] = None
    for group in groups:
        for kind, of_image in values.items():
            if len({value for image in group for value in of_image[image]}) > 1:
                shown = (f"{image} ({', '.join(map(str, of_image[image]))})" for image in group)
                across[kind].append(", ".join(shown))
    return [
        Finding("images of equal bytes in more than one split", False, across["split"]),
        Finding("images of equal bytes of more than one person", False, across["person"]),
    ]


def _with_several(pairs: Iterable[tuple[object, Value]]) -> dict[object, list[Value]]:
    """{key: its different values, in order} of (key, value) `pairs`, for the keys that have several."""
    values: dict[object, dict[Value, None]] = defaultdict(dict)
    for key, value in pairs:
        values[key][value] = None
    return {key: list(different) for key, different in values.items() if len(different) > 1}


def _shared(found: Found, name: str, word: str) -> list[str]:
    records = ((split, record) for split, _, record in each(found) if getattr(record, name) != NOBODY)
    splits = _with_several((getattr(record, name), split) for split, record in records)
    return [f"{word}{value}: {', '.join(names)}" for value, names in splits.items()]


def _of_many_persons(pairs: Iterable[tuple[str, int]]) -> list[str]:
    persons = _with_several(pairs)
    return [f"{name}: persons {', '.join(map(str, sorted(ids)))}" for name, ids in persons.items()]


def _undescribed(found: Found, splits: Collection[str]) -> list[str]:
    """A line for each image; it names the languages where others describe it."""
    details = []
    for split in splits:
        without: dict[str, list[str]] = defaultdict(list)
        for _, language, record in each({split: found.get(split, {})}):
            if not record.captions:
                without[record.image].append(language)
        for image, languages in without.items():
            some = f" in {', '.join(languages)}" if len(languages) < len(found[split]) else ""
            details.append(f"{split} {image}: no captions{some}")
    return details


def _without_gallery(found: Found, unusable: Collection[str]) -> list[str]:
    details = []
    for split in ("val", "test"):
        by_language = found.get(split, {})
        gallery = {
            record.person_id
            for record in next(iter(by_language.values()), [])  # all languages rank the first one's images
            if record.image not in unusable
        }
        for language, records in by_language.items():
            details += [
                f"{split} {language} person {record.person_id}: '{caption}'"
                for record in records
                if record.person_id not in gallery
                for caption in record.captions
            ]
    return details


def _repeated(found: Found) -> list[str]:
    return [
        f"{split} {language} {record.image}: '{caption}'"
        for split, language, record in each(found)
        for caption, times in Counter(map(clean_caption, record.captions)).items()
        if caption and times > 1
    ]


def _without_back(found: Found) -> list[str]:
    translated = {(split, lang) for split, lang, record in each(found) if any(record.back_translations)}
    details = []
    for split, language, record in each(found):
        number = len(record.captions) - sum(map(bool, record.back_translations))
        if (split, language) in translated and number > 0:
            details.append(f"{split} {language} {record.image}: {number} of {len(record.captions)}")
    return details


def _without_rewrites(found: Found) -> list[str]:
    """A line for each split and language in which only some captions have rewrites."""
    details = []
    for split, by_language in found.items():
        for language, records in by_language.items():
            number = sum(record.num_rewritten for record in records)
            total = sum(len(record.captions) for record in records)
            if 0 < number < total:
                details.append(f"{split} {language}: {total - number} of {total}")
    return details
