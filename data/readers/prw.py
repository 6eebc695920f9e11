"""PRW-TBPS: descriptions of the persons in the frames of PRW (Zheng et al., CVPR 2017).

`frame_train.mat` and `frame_test.mat` list the frames, `annotations/NAME.jpg.mat` has the boxes of each (a
row: person, left, top, width, height; -2: without a name), `PRW-TBPS_train` and `PRW-TBPS_test` the texts.
Those of the test split that `query_info.txt` names are queries, in all test frames, also the one described.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from data.readers.frames import Frame, Key, by_language, known, read_texts, records_of
from data.readers.mat_files import as_box, items, needed, variable
from data.records import Report, read_bytes
from data.types import NOBODY, Box, ByLanguage, Format, Gallery, Record, Scenes
from options import UserError

FOLDER = "frames"
QUERIES = "query_info.txt"
VARIABLES = ("box_new", "anno_file", "anno_previous")  # the names that the boxes have


def recognises(path: Path, content: bytes, form: Format) -> bool:
    """Whether a folder has the lists of frames and the texts."""
    return path.is_dir() and all((path / name).is_file() for name in ("frame_test.mat", "PRW-TBPS_test"))


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
        texts = read_texts(path / f"PRW-TBPS_{split}")
        if split == "test":
            texts = {key: texts[key] for key in _queries(path) if key in texts}
        found[split] = records_of(_frames(path, split), FOLDER, texts, path / f"PRW-TBPS_{split}", report)
    return by_language(found, languages, path, report)


def test_scenes(path: Path, sizes: Sequence[int]) -> Scenes:
    """The test frames. Every person is searched in all of them; `sizes` belong to other sets.

    Raises:
        UserError: a file that is missing or damaged.
    """
    frames = list(_frames(path, "test"))
    boxes = [(number, box) for number, frame in enumerate(frames) for _, box in frame.people]
    truths: dict[int, list[tuple[int, Box]]] = {}
    for number, frame in enumerate(frames):
        for person, box in frame.people:
            if person != NOBODY:
                truths.setdefault(person, []).append((number, box))
    galleries = {person: Gallery(None, of_person) for person, of_person in truths.items()}
    return Scenes([f"{FOLDER}/{frame.name}" for frame in frames], boxes, {"all frames": galleries})


def _frames(path: Path, split: str) -> Iterator[Frame]:
    for name in items(needed(path / f"frame_{split}.mat", f"img_index_{split}")):
        if not isinstance(name, str):
            raise UserError(f"'{path / f'frame_{split}.mat'}': expected names of frames, found {name!r:.40}")
        file = path / "annotations" / f"{name}.jpg.mat"
        rows = variable(file, *VARIABLES)
        rows = [] if rows is None or not rows.size else rows.reshape(1, -1) if rows.ndim == 1 else rows
        people = [(known(int(row[0])), as_box(row[1:], f"'{file}'")) for row in rows]
        yield Frame(f"{name}.jpg", [(person, box) for person, box in people if box[2] > 0 and box[3] > 0])


def _queries(path: Path) -> list[Key]:
    """Raises UserError where a line is not `person left top width height frame`, or there is none."""
    keys = []
    lines = read_bytes(path / QUERIES).decode("utf-8", "replace").splitlines()
    for number, line in enumerate(filter(str.strip, lines), start=1):
        words = line.split()
        if len(words) != 6 or not words[0].lstrip("-").isdecimal():
            expected = "expected 'person left top width height frame'"
            raise UserError(f"'{path / QUERIES}' line {number}: {expected}, found {line!r:.60}")
        keys.append((f"{words[5]}.jpg", int(words[0])))
    if not keys:
        raise UserError(f"data.annotation_file: '{path / QUERIES}' is empty. Download it again")
    return keys
