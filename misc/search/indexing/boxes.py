"""Boxes around people that the user has: in COCO's format, in CSV, or as MOT."""

import csv
import hashlib
import logging
import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from data.detections import coco_boxes
from data.types import Box
from misc.detection.boxes import UNSCORED, Boxes, as_boxes
from misc.process.failures import reason_of
from misc.search.indexing.exclusion import is_video
from options import UserError

logger = logging.getLogger(__name__)

SIDES = ("left", "top", "width", "height")
COLUMNS = {"file", *SIDES, "score", "frame", "track"}  # of a CSV file
PEDESTRIAN = 1  # the class, in the true boxes of MOTChallenge


class Given(NamedTuple):
    """A box; of a video, also the number of the frame, from 1, and that of the track where the file has one.

    `score` None, `track` -1: the file does not say.
    """

    box: Box
    score: float | None = None
    frame: int | None = None
    track: int = -1


class GivenBoxes:
    """The boxes of a file or a folder.

    Args:
        path: FILE.json: COCO's format, as `coco_boxes` reads it; FILE.csv: with a header, `file`, `left`,
            `top`, `width`, `height`, and perhaps `score`, `frame` and `track`; FILE.txt: MOT, of the video
            FILE; or a folder that has NAME.txt, NAME/gt/gt.txt or NAME/det/det.txt, the first of them that
            there is, for each video NAME, or for frames NAME/img1/000001.jpg.

    Raises:
        UserError: it is missing or malformed, or has no box.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._boxes = path, defaultdict[str, list[Given]](list)
        self._name_of: dict[str, tuple[str, int | None]] = {}
        self._in_frame = defaultdict[tuple[str, int | None], list[Given]](list)
        for named, given in _read(path):
            name = named.replace("\\", "/").removeprefix("./")
            self._boxes[name].append(given)
            self._in_frame[name, given.frame].append(given)
        if not self._boxes:
            raise UserError(f"--boxes: '{path}' has no boxes of people")

    def assign(self, files: Collection[str]) -> None:
        """Find out which boxes are of which files: those that name its path relative to the image root, or
        its name alone. Raises UserError if that is not clear, there are none, or a video has boxes without
        the numbers of their frames.
        """
        for with_folders in (True, False):
            owners, taken = defaultdict[str, set[str]](set), {name for name, _ in self._name_of.values()}
            for file in files:
                for name, owner, frame in _names(file, with_folders):
                    if name in self._boxes and name not in taken and file not in self._name_of:
                        self._name_of[file] = name, frame
                        owners[name].add(owner)
            if doubtful := [name for name, of in owners.items() if len(of) > 1]:
                first, second, *_ = sorted(owners[doubtful[0]])
                raise UserError(
                    f"--boxes: '{doubtful[0]}' of '{self.path}' may be '{first}' or '{second}'; name it by "
                    "its path relative to IMAGE_ROOT"
                )
        unknown = self._boxes.keys() - {name for name, _ in self._name_of.values()}
        if not self._name_of:
            raise UserError(f"--boxes: '{self.path}' names no file of IMAGE_ROOT (first: '{min(unknown)}')")
        if unknown:
            logger.warning(
                f"--boxes: {len(unknown)} names of '{self.path}' are no files of IMAGE_ROOT (first: "
                f"'{min(unknown)}')"
            )
        for file in filter(is_video, self._name_of):
            if any(given.frame is None for given in self._of(file)):
                raise UserError(
                    f"--boxes: '{self.path}' has boxes of the video '{file}' without their frames"
                )
        logger.info(f"--boxes: of {len(self._name_of)} of {len(files)} files")

    def in_photo(self, file: str) -> Boxes:
        """The boxes (n, 5) of a photo, the score `UNSCORED` where they have none."""
        return _as_rows(self._of(file))

    def in_video(self, file: str) -> Mapping[int, tuple[Boxes, list[int] | None]]:
        """{number of the frame, from 1: its boxes as `in_photo`, and their tracks where all are known}."""
        by_frame = defaultdict[int, list[Given]](list)
        for given in self._of(file):
            by_frame[given.frame].append(given)
        are_known = all(given.track >= 0 for given in self._of(file))
        return {
            frame: (
                _as_rows(boxes),
                [given.track for given in boxes] if are_known else None,
            )
            for frame, boxes in by_frame.items()
        }

    def digest(self, file: str) -> str:
        """What tells the boxes of a file from others."""
        return hashlib.blake2b(repr(self._of(file)).encode(), digest_size=8).hexdigest()

    def _of(self, file: str) -> list[Given]:
        name, frame = self._name_of.get(file, ("", None))
        return self._boxes.get(name, []) if frame is None else self._in_frame.get((name, frame), [])


def _as_rows(boxes: Sequence[Given]) -> Boxes:
    return as_boxes([[*each.box, UNSCORED if each.score is None else each.score] for each in boxes])


def _names(file: str, with_folders: bool) -> Iterator[tuple[str, str, int | None]]:
    """The names that boxes of a file may have, the file or the sequence of frames, and the frame of it."""
    place = PurePosixPath(file)
    yield (file if with_folders else place.name), file, None
    if is_video(file):
        yield (str(place.with_suffix("")) if with_folders else place.stem), file, None
    elif place.parent.name == "img1" and place.stem.isdecimal():
        sequence = place.parent.parent
        yield (str(sequence) if with_folders else sequence.name), str(sequence), int(place.stem)


def _read(path: Path) -> Iterator[tuple[str, Given]]:
    if path.is_dir():
        for file, name in sorted(_sequences(path).items()):
            yield from ((name, given) for given in _mot(file))
    elif path.suffix.lower() == ".json":
        yield from ((name, Given(box, score)) for name, box, score in coco_boxes(path, "--boxes"))
    elif path.suffix.lower() == ".csv":
        yield from _csv(path)
    elif path.suffix.lower() == ".txt":
        yield from ((path.stem, given) for given in _mot(path))
    else:
        raise UserError(f"--boxes: expected FILE.json, FILE.csv, FILE.txt or a folder of MOT, found '{path}'")


def _sequences(folder: Path) -> dict[Path, str]:
    """The files of MOT below a folder, and the name of the video of each."""
    found: dict[str, Path] = {}
    for kind in ("*.txt", "gt/gt.txt", "det/det.txt"):
        for file in sorted(folder.rglob(kind)):
            if kind == "*.txt" and str(file.parent.name) in ("gt", "det"):
                continue
            place = file.with_suffix("") if kind == "*.txt" else file.parent.parent
            found.setdefault(place.relative_to(folder).as_posix(), file)
    return {file: name for name, file in found.items()}


def _mot(path: Path) -> Iterator[Given]:
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        where = f"--boxes: '{path}' line {number}"
        values = line.split(",")
        if len(values) < 6:
            raise UserError(
                f"{where}: expected frame, track, left, top, width, height ..., found {line!r:.60}"
            )
        frame, track, *box, score, kind = (_number(value, where) for value in (*values[:8], "-1", "-1")[:8])
        is_ignored = track >= 0 and score == 0  # of true boxes 0 and 1 say whether they are evaluated
        has_score = score >= 0 and not (track >= 0 and score == 1)
        if frame < 1 or frame != int(frame) or track != int(track):
            raise UserError(f"{where}: expected a frame from 1, and a track, found {line!r:.60}")
        is_person = track < 0 or kind <= 0 or kind == PEDESTRIAN  # not every file has the class
        if is_person and not is_ignored and min(box[2:]) > 0:
            yield Given(tuple(box), score if has_score else None, int(frame), int(track))


def _csv(path: Path) -> Iterator[tuple[str, Given]]:
    reader = csv.DictReader(_lines(path))
    try:
        columns = set(reader.fieldnames or ())
        if not {"file", *SIDES} <= columns <= COLUMNS:
            raise UserError(
                f"--boxes: '{path}' should have the columns file, {', '.join(SIDES)}, and may have score, "
                f"frame and track; it has {', '.join(map(str, reader.fieldnames or ('none',))):.100}"
            )
        for row in reader:
            where = f"--boxes: '{path}' line {reader.line_num}"
            if None in row or None in row.values():
                raise UserError(f"{where}: expected {len(columns)} values, as in the first line")
            given = _given(row, where)
            if min(given.box[2:]) > 0:
                yield row["file"], given
    except csv.Error as error:
        raise UserError(f"--boxes: '{path}' line {reader.line_num}: it is no CSV ({error})") from error


def _given(row: Mapping[str, str], where: str) -> Given:
    box = tuple(_number(row[side], where) for side in SIDES)
    score = _number(row["score"], where) if row.get("score") else None
    frame, track = (_whole(row.get(name), where) for name in ("frame", "track"))
    if frame is not None and frame < 1:
        raise UserError(f"{where}: expected a frame from 1, found {frame}")
    return Given(box, score, frame, -1 if track is None else track)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"--boxes: '{path}' cannot be read ({reason_of(error):.150})") from error


def _number(text: str, where: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not abs(number) < 1e9:
        raise UserError(f"{where}: expected a number, found {text!r:.40}")
    return number


def _whole(text: str | None, where: str) -> int | None:
    if not text:
        return None
    number = _number(text, where)
    if number != int(number):
        raise UserError(f"{where}: expected a whole number, found {text!r:.40}")
    return int(number)
