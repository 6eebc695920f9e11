"""What `data.check` finds in the records: counts, captions, persons, splits, languages."""

import sys
from array import array
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from data.columns.records import SCHEMA, Records, Rows
from data.columns.splits import Columns
from data.columns.stored import Found
from data.published import ABOUT, CLOSE, PUBLISHED, Count
from data.types import NOBODY, Record
from text_utils.captions import clean_caption

NUM_SHOWN = 10  # persons of a caption or image


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


def with_bar(found: Found, what: str) -> Iterator[tuple[str, str, Record]]:
    """`each`, with a progress bar where somebody looks."""
    total = sum(len(records) for by_language in found.values() for records in by_language.values())
    yield from tqdm(each(found), what, total, unit="record", disable=not sys.stderr.isatty())


def values(by_language: Columns, name: str) -> pa.Array:
    """The different values of a column in any language."""
    chunks = [chunk for records in by_language.values() for chunk in records.column(name).chunks]
    return pc.unique(pa.chunked_array(chunks, SCHEMA.field(name).type))


def of_images(records: Records, images: Iterable[str]) -> Records:
    """The records of these images."""
    return records.take(np.flatnonzero(_is_of(records, images)))


def _is_of(records: Records, images: Iterable[str]) -> npt.NDArray[np.bool_]:
    wanted = pa.array([*images], pa.large_string())
    return np.asarray(pc.is_in(records.column("image"), value_set=wanted).to_numpy(), bool)


def differences(counts: dict[tuple[str, str], Count], name: str, dropped: int = 0) -> Finding:
    """Where the counts, and captions that were `dropped` from train, are not those published for `name`."""
    published = PUBLISHED[name]
    about, tolerance = ("about ", CLOSE) if name in ABOUT else ("", 0)
    languages = dict.fromkeys(language for _, language in counts)
    details, nothing = [], Count(0, 0, 0)
    for split in dict.fromkeys([*published, *(split for split, _ in counts)]):
        for language in languages:
            there, should = counts.get((split, language), nothing), published.get(split, nothing)
            for what, a, b in zip(Count._fields, there, should, strict=True):
                more = dropped if (split, what) == ("train", "captions") else 0
                if a is not None and b is not None and abs(a + more - b) > tolerance * b:
                    found = f"{a} {what}" + (f" (and {more} dropped)" if more else "")
                    details.append(f"{split} {language}: {found}, published {about}{b}")
    return Finding(f"counts that differ from those published for {name}", False, details)


def record_findings(found: Found, unusable: Collection[str]) -> list[Finding]:
    """What the records say of themselves; no query can find an `unusable` image."""
    shared, repeated = _captions(found)
    return [
        Finding("identities in more than one split", True, _shared(found, "person_id", "person ")),
        Finding("images in more than one split", True, _shared(found, "image", "")),
        Finding("training images of more than one person", False, _ambiguous(found.get("train", {}))),
        Finding("training images without captions (not trained on)", False, _undescribed(found, ["train"])),
        Finding(
            "images without captions (in the gallery, but no queries)",
            False,
            _undescribed(found, ["val", "test"]),
        ),
        Finding("queries with no image in the gallery", True, _without_gallery(found, unusable)),
        Finding("captions given to different persons", False, shared),
        Finding("captions given twice to one image", False, repeated),
        Finding("captions without a back-translation beside ones that have it", False, _without_back(found)),
        Finding("captions without rewrites beside ones that have them", False, _without_rewrites(found)),
    ]


def equal_bytes(found: Found, groups: Sequence[Sequence[str]]) -> list[Finding]:
    """What the records say of `groups` of images whose files have equal bytes: leaks that no path shows."""
    across: dict[str, list[str]] = {"split": [], "person": []}
    named: dict[str, dict[str, dict[object, None]]] = {"split": {}, "person": {}}
    images = [image for group in groups for image in group]
    for split, by_language in found.items():
        for records in by_language.values():
            for record in of_images(records, images):
                named["split"].setdefault(record.image, {})[split] = None
                named["person"].setdefault(record.image, {})[f"person {record.person_id}"] = None
    for group in groups:
        for kind, of_image in named.items():
            if len({value for image in group for value in of_image[image]}) > 1:
                shown = (f"{image} ({', '.join(map(str, of_image[image]))})" for image in group)
                across[kind].append(", ".join(shown))
    return [
        Finding("images of equal bytes in more than one split", False, across["split"]),
        Finding("images of equal bytes of more than one person", False, across["person"]),
    ]


def _captions(found: Found) -> tuple[list[str], list[str]]:
    """The captions of different persons, and those given twice to one image.

    Of each caption only a number is kept, and a second pass looks at those whose number several persons have.
    """
    repeated, keys, persons = [], array("q"), array("q")
    for split, language, record in with_bar(found, "captions"):
        cleaned = [clean_caption(caption) for caption in record.captions]
        keys.extend(hash((language, caption)) if caption else 0 for caption in cleaned)
        persons.extend(record.person_id if caption else 0 for caption in cleaned)
        if len({*cleaned}) < len(cleaned):
            twice = (caption for caption, times in Counter(cleaned).items() if caption and times > 1)
            repeated += [f"{split} {language} {record.image}: '{caption}'" for caption in twice]
    is_shared = iter(_of_several(np.array(keys, np.int64), np.array(persons, np.int64)).tolist())
    pairs = (
        (f"{language} '{clean_caption(caption)}'", record.person_id)
        for _, language, record in each(found)
        for caption in record.captions
        if next(is_shared)
    )
    return _of_many_persons(pairs), repeated


def _of_several(keys: Rows, persons: Rows) -> npt.NDArray[np.bool_]:
    """Of each row, whether different persons have its key."""
    order = np.lexsort((persons, keys))
    sorted_keys, sorted_persons = keys[order], persons[order]
    changes = (sorted_keys[1:] == sorted_keys[:-1]) & (sorted_persons[1:] != sorted_persons[:-1])
    return np.isin(keys, sorted_keys[1:][changes])


def _shared(found: Found, name: str, word: str) -> list[str]:
    """The values of a column that more than one split has."""
    of_split = {split: values(by_language, name) for split, by_language in found.items()}
    numbers = pc.value_counts(pa.concat_arrays([*of_split.values()]))
    several = numbers.filter(pc.greater(numbers.field("counts"), 1)).field("values")
    there = {
        split: {*each.filter(pc.is_in(each, value_set=several)).to_pylist()}
        for split, each in of_split.items()
    }
    return [
        f"{word}{value}: {', '.join(split for split, some in there.items() if value in some)}"
        for value in several.to_pylist()
        if value != NOBODY
    ]


def _ambiguous(train: Columns) -> list[str]:
    """Images that several persons have, in any language."""
    details: dict[str, None] = {}
    for records in train.values():  # one record for each image and person
        numbers = pc.value_counts(records.column("image"))
        several = numbers.filter(pc.greater(numbers.field("counts"), 1)).field("values")
        found = of_images(records, several.to_pylist())
        details |= dict.fromkeys(
            _of_many_persons(zip(found.images(), found.person_ids.tolist(), strict=True))
        )
    return [*details]


def _of_many_persons(pairs: Iterable[tuple[str, int]]) -> list[str]:
    persons: dict[str, set[int]] = defaultdict(set)
    for name, person in pairs:
        persons[name].add(person)
    return [f"{name}: persons {_some(sorted(ids))}" for name, ids in persons.items() if len(ids) > 1]


def _some(numbers: Sequence[int]) -> str:
    more = f" and {len(numbers) - NUM_SHOWN:,} more" if len(numbers) > NUM_SHOWN else ""
    return ", ".join(map(str, numbers[:NUM_SHOWN])) + more


def _undescribed(found: Found, splits: Collection[str]) -> list[str]:
    """A line for each image; it names the languages where others describe it."""
    details = []
    for split in splits:
        without: dict[str, list[str]] = defaultdict(list)
        for language, records in found.get(split, {}).items():
            for image in records.take(np.flatnonzero(records.num_captions == 0)).images():
                without[image].append(language)
        for image, languages in without.items():
            some = f" in {', '.join(languages)}" if len(languages) < len(found[split]) else ""
            details.append(f"{split} {image}: no captions{some}")
    return details


def _without_gallery(found: Found, unusable: Collection[str]) -> list[str]:
    details = []
    for split in ("val", "test"):
        by_language = found.get(split, {})
        for first in [*by_language.values()][:1]:  # all languages rank the first one's images
            gallery = first.person_ids[~_is_of(first, unusable)]
        for language, records in by_language.items():
            lost = records.take(np.flatnonzero(~np.isin(records.person_ids, gallery)))
            details += [
                f"{split} {language} person {record.person_id}: '{caption}'"
                for record in lost
                for caption in record.captions
            ]
    return details


def _without_back(found: Found) -> list[str]:
    details = []
    for split, by_language in found.items():
        for language, records in by_language.items():
            for record in records if records.has_back_translations else ():
                number = len(record.captions) - sum(map(bool, record.back_translations))
                if number > 0:
                    details.append(f"{split} {language} {record.image}: {number} of {len(record.captions)}")
    return details


def _without_rewrites(found: Found) -> list[str]:
    """A line for each split and language in which only some captions have rewrites."""
    details = []
    for split, by_language in found.items():
        for language, records in by_language.items():
            number, total = records.num_rewritten, int(records.num_captions.sum())
            if 0 < number < total:
                details.append(f"{split} {language}: {total - number} of {total}")
    return details
