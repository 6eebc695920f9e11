"""CUHK-SYSU-TBPS: descriptions of the persons in the images of CUHK-SYSU (Xiao et al., CVPR 2017).

`annotation/Images.mat` has the boxes of all images, `pool.mat` names those of the test split, and in
`annotation/test/train_test/`, `Train.mat` says where the persons of the training split are, and
`TestG50.mat` to `TestG4000.mat` where those of the test split are, and in which images each is searched.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from data.readers.frames import Frame, by_language, read_texts, records_of
from data.readers.mat_files import as_box, fields, is_box, items, needed
from data.records import Report
from data.types import NOBODY, Box, ByLanguage, Format, Gallery, Record, Scenes
from options import UserError

FOLDER = "Image/SSM"
PROTOCOLS = Path("annotation/test/train_test")
Places = dict[tuple[str, Box], int]  # the person in a box of an image


def recognises(path: Path, content: bytes, form: Format) -> bool:
    """Whether a folder has the boxes and the texts."""
    names = ("annotation/Images.mat", "CUHK-SYSU-TBPS_test")
    return path.is_dir() and all((path / name).is_file() for name in names)


def read(
    path: Path,
    content: bytes,
    form: Format,
    splits: Sequence[str],
    languages: Sequence[str] | None,
    report: Report,
) -> dict[str, ByLanguage]:
    """See `data.formats`."""
    found: dict[str, list[Record]] = {split: [] for split in splits}
    for split in {"train", "test"}.intersection(splits):
        file = path / f"CUHK-SYSU-TBPS_{split}"
        texts = read_texts(file)
        if split == "train":
            places = _training_places(path)
        else:
            searches = list(_searches(path, _sizes(path)[0]))
            places = {key: person for search in searches for key, person in search.places.items()}
            asked = {(search.image, search.person) for search in searches}
            texts = {key: of_key for key, of_key in texts.items() if key in asked}
        found[split] = records_of(_frames(path, split, places), FOLDER, texts, file, report)
    return by_language(found, languages, path, report)


def test_scenes(path: Path, sizes: Sequence[int]) -> Scenes:
    """The test images, and for each of `sizes` those that each person is searched in.

    Raises:
        UserError: a file that is missing or damaged, a size that there is not.
    """
    there = _sizes(path)
    for size in sizes:
        if size not in there:
            names = ", ".join(map(str, there))
            raise UserError(f"eval.gallery_sizes: '{path / PROTOCOLS}' has galleries of {names}, not {size}")
    frames = list(_frames(path, "test", {}))
    numbers = {frame.name: number for number, frame in enumerate(frames)}
    boxes = [(number, box) for number, frame in enumerate(frames) for _, box in frame.people]
    galleries: dict[str, dict[int, Gallery]] = {}
    for size in sizes:
        galleries[f"{size} images"] = {
            search.person: _gallery(search, numbers, path) for search in _searches(path, size)
        }
    return Scenes([f"{FOLDER}/{frame.name}" for frame in frames], boxes, galleries)


class Search:
    """A query of a protocol: the person, the image described, and where the person is searched.

    Attributes:
        gallery: (image, box of the person there, or None).
    """

    def __init__(self, item: object, where: str) -> None:
        query, gallery = fields(item, 2, where)
        self.image, box, _, idname = _query_fields(query, where)
        self.person = _person(idname, where)
        self.gallery = [(name, found) for name, found in _sightings(gallery, where)]
        self.places: Places = {(name, found): self.person for name, found in self.gallery if found}
        self.places[self.image, as_box(box, where)] = self.person


def _query_fields(query: object, where: str) -> list[object]:
    try:
        return [query[name] for name in ("imname", "idlocate", "ishard", "idname")]
    except (TypeError, LookupError) as error:
        raise UserError(f"{where}: expected a query with imname, idlocate and idname") from error


def _sightings(value: object, where: str) -> Iterator[tuple[str, Box | None]]:
    """The image and the box, None where there is none, of structs of these fields."""
    for each in items(value):
        name, box = fields(each, 2, where)
        yield str(name), as_box(box, where) if is_box(box) else None


def _person(idname: object, where: str) -> int:
    match = re.fullmatch(r"p(\d+)", str(idname))
    if not match:
        raise UserError(f"{where}: expected a person such as 'p123', found {idname!r:.40}")
    return int(match[1])


def _frames(path: Path, split: str, places: Places) -> Iterator[Frame]:
    """The images of a split, in the order of the file; persons as `places` has them."""
    pool = {str(name) for name in items(needed(path / "annotation" / "pool.mat", "pool"))}
    file = path / "annotation" / "Images.mat"
    for number, image in enumerate(items(needed(file, "Img"))):
        where = f"'{file}' image {number}"
        name, _, boxes = fields(image, 3, where)
        if (name in pool) != (split == "test"):
            continue
        all_boxes = [as_box(fields(each, 1, where)[0], where) for each in items(boxes)]
        yield Frame(
            str(name),
            [(places.get((name, box), NOBODY), box) for box in all_boxes if box[2] > 0 and box[3] > 0],
        )


def _training_places(path: Path) -> Places:
    file = path / PROTOCOLS / "Train.mat"
    places: Places = {}
    for number, item in enumerate(items(needed(file, "Train"))):
        where = f"'{file}' person {number}"
        idname, _, sightings = fields(item, 3, where)
        person = _person(idname, where)
        places |= {(name, box): person for name, box in _sightings(sightings, where) if box}
    return places


def _sizes(path: Path) -> list[int]:
    """Of the galleries, ascending. Raises UserError where there is none."""
    named = (re.fullmatch(r"TestG(\d+)\.mat", file.name) for file in (path / PROTOCOLS).glob("TestG*.mat"))
    found = sorted(int(match[1]) for match in named if match)
    if not found:
        raise UserError(f"data.annotation_file: there is no '{path / PROTOCOLS / 'TestG50.mat'}'")
    return found


def _searches(path: Path, size: int) -> Iterator[Search]:
    file = path / PROTOCOLS / f"TestG{size}.mat"
    for number, item in enumerate(items(needed(file, f"TestG{size}"))):
        yield Search(item, f"'{file}' query {number}")


def _gallery(search: Search, numbers: dict[str, int], path: Path) -> Gallery:
    for name, _ in search.gallery:
        if name not in numbers:
            raise UserError(
                f"'{path / PROTOCOLS}': the gallery of p{search.person} has '{name}', no test image"
            )
    frames = [numbers[name] for name, _ in search.gallery]
    return Gallery(frames, [(numbers[name], box) for name, box in search.gallery if box])
