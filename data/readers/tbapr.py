"""TBAPR, persons seen from the air and from the ground: `agtext_{split}.json`, made from AG-ReID.

train: a list of rows [person, image number, [folder, file] from the air, [folder, file] from the ground,
caption]; both images are described by the caption. val and test: an object of lists that go together,
`image_pids`, `img_paths` ([folder, file] from the air), `caption_pids` and `captions`; the images from the
ground, `pair_img_paths`, belong to methods that compare a caption with both images, and are not read.

The files number their persons from 0 each, so that one number means another person in each split: they are
numbered here so that no two splits share one.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from data.readers import layouts
from data.readers.json_files import parse_json
from data.records import Report, pick_languages, read_bytes, read_record
from data.types import SPLITS, ByLanguage, Format, Record
from options import UserError

COLUMNS = ("image_pids", "img_paths", "caption_pids", "captions")
Item = tuple[str, object]  # its place in the file, and the fields of a record or what stands there instead


def recognises(path: Path, content: bytes, form: Format) -> bool:
    """Whether a folder has files of these names."""
    return path.is_dir() and bool(layouts.files_of_format(path, form))


def read(
    path: Path,
    content: bytes,
    form: Format,
    splits: Sequence[str],
    languages: Sequence[str] | None,
    report: Report,
) -> dict[str, ByLanguage]:
    """See `data.formats`."""
    named = layouts.files_of_format(path, form)
    files = {split: named.get(split, {}) for split in splits}
    chosen = pick_languages(languages, files, path, report)
    return {
        split: {name: _read_file(files[split][name], split, report) for name in names}
        for split, names in chosen.items()
    }


def _read_file(path: Path, split: str, report: Report) -> list[Record]:
    document = parse_json(path, read_bytes(path))
    items = _training_items(document) if isinstance(document, list) else _test_items(document, path)
    records = (
        read_record(_with_person(item, split), "image", "en", f"'{path}' {where}", report)
        for where, item in items
    )
    return [record for record in records if record]


def _training_items(rows: list[object]) -> Iterator[Item]:
    for number, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != 5:
            yield f"record {number}", row
            continue
        person, _, aerial, ground, caption = row
        for image in (aerial, ground):
            yield f"record {number}", {"image": _joined(image), "id": person, "captions": [caption]}


def _test_items(document: object, path: Path) -> Iterator[Item]:
    """Raises UserError where the document is no object of lists of one length."""
    lists = [document.get(name) for name in COLUMNS] if isinstance(document, dict) else []
    lengths = {len(column) if isinstance(column, list) else None for column in lists}
    if len(lengths) != 1 or None in lengths:
        raise UserError(
            f"data.annotation_file: '{path}' should hold a list of rows, or an object of the lists "
            f"{', '.join(COLUMNS)} of one length. Check the file, or download it again"
        )
    columns: list[list[object]] = lists
    for number, (person, image, described, caption) in enumerate(zip(*columns, strict=True)):
        if person != described:
            found = f"entry {number} has the persons {person!r:.20} (image_pids) and {described!r:.20}"
            raise UserError(f"'{path}': {found} (caption_pids); expected the caption of this image")
        yield f"entry {number}", {"image": _joined(image), "id": person, "captions": [caption]}


def _joined(image: object) -> object:
    """The path of [folder, file]; anything else as it is, for `read_record` to refuse."""
    is_pair = isinstance(image, list) and len(image) == 2 and all(isinstance(part, str) for part in image)
    return "/".join(image) if is_pair else image


def _with_person(item: object, split: str) -> object:
    if not isinstance(item, dict) or type(item["id"]) is not int or item["id"] < 0:
        return item
    return {**item, "id": item["id"] * len(SPLITS) + SPLITS.index(split)}
