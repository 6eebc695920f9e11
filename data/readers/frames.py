"""What sets that annotate persons in frames have in common: texts by frame and person, records of boxes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.images.regions import region_path
from data.readers.json_files import parse_json
from data.records import MALFORMED, Report, field, pick_languages, read_bytes, read_record
from data.types import NOBODY, Box, ByLanguage, Record
from options import UserError

Key = tuple[str, int]  # the name of a frame's file, and a person in it
FIELDS = ("pic_path", "id", "desrciption")  # as the sets spell them


@dataclass(frozen=True)
class Frame:
    """A frame: the name of its file, and the persons in it, `NOBODY` for one without a name."""

    name: str
    people: Sequence[tuple[int, Box]]


def read_texts(path: Path) -> dict[Key, list[str]]:
    """The sentences of each person in each frame, without empty ones.

    Raises:
        UserError: no such file, or one that is damaged.
    """
    document = parse_json(path, read_bytes(path))
    texts: dict[Key, list[str]] = {}
    for number, item in enumerate(document if isinstance(document, list) else [document]):
        where = f"'{path}' record {number}"
        name, person, sentences = (
            field(item, key, kind, where) for key, kind in zip(FIELDS, (str, int, list), strict=True)
        )
        if not all(isinstance(sentence, str) for sentence in sentences):
            raise UserError(
                f"{where}: field '{FIELDS[2]}' should be a list of texts, found {sentences!r:.40}"
            )
        texts.setdefault((name, person), []).extend(each for each in sentences if each.strip())
    return texts


def records_of(
    frames: Iterable[Frame], folder: str, texts: dict[Key, list[str]], path: Path, report: Report
) -> list[Record]:
    """A record for each box; those with texts have them as captions. A text without a box is reported.

    Args:
        folder: of the frames, relative to the image root.
        path: of the texts.
    """
    remaining, records = dict(texts), []
    for frame in frames:
        for person, box in frame.people:
            captions = remaining.pop((frame.name, person), [])
            item = {"image": region_path(f"{folder}/{frame.name}", box), "id": person, "captions": captions}
            records.append(read_record(item, "image", "en", f"'{path}', frame {frame.name}", report))
    for name, person in list(remaining)[:1]:
        what = f"describes person {person} in frame '{name}', where the annotations have no such person"
        report(MALFORMED, f"'{path}' {what} (and {len(remaining) - 1} more)")
    return [record for record in records if record]


def by_language(
    found: dict[str, list[Record]], languages: Sequence[str] | None, path: Path, report: Report
) -> dict[str, ByLanguage]:
    """The records of each split, which are all in English; a split without any has no language."""
    there = {split: ["en"] if records else [] for split, records in found.items()}
    chosen = pick_languages(languages, there, path, report)
    return {split: dict.fromkeys(chosen[split], records) for split, records in found.items()}


def known(person: int) -> int:
    """The id of a person; `NOBODY` for numbers that stand for one without a name."""
    return person if person >= 0 else NOBODY
