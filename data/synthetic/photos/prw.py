"""The layout of PRW-TBPS, as `data.readers.prw` reads it."""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.io import savemat

FRAMES, BOXES, QUERIES = "frames", "annotations", "query_info.txt"
LISTS = {split: f"frame_{split}.mat" for split in ("train", "test")}
TEXTS = {split: f"PRW-TBPS_{split}" for split in ("train", "test")}
OWNED = (f"{FRAMES}/c[1-8]s1_*.jpg", f"{BOXES}/c[1-8]s1_*.jpg.mat", QUERIES, *LISTS.values(), *TEXTS.values())
HEADER = b"MATLAB 5.0 MAT-file, written by data.synthetic".ljust(116)  # SciPy's has the time of day


@dataclass(frozen=True)
class Box:
    """A person in a frame; `captions` by language, {}: not described."""

    frame: str
    split: str
    person_id: int
    box: tuple[int, int, int, int]  # x, y, width, height
    captions: dict[str, list[str]]


def file_names(frames: Sequence[str]) -> list[str]:
    """The files of a set with these frames, relative to its folder."""
    of_frames = [name for frame in frames for name in (f"{FRAMES}/{frame}.jpg", f"{BOXES}/{frame}.jpg.mat")]
    return [*of_frames, QUERIES, *LISTS.values(), *TEXTS.values()]


def write(out: Path, frames: Sequence[tuple[str, str]], boxes: Sequence[Box]) -> None:
    """Write all but the frames. In test, each described box is a query with its two captions; in train, each
    has one caption.

    Args:
        frames: (name, split).
    """
    (out / BOXES).mkdir(exist_ok=True)
    of_frame: dict[str, list[tuple[int, ...]]] = {frame: [] for frame, _ in frames}
    for box in boxes:
        of_frame[box.frame].append((box.person_id, *box.box))
    for frame, rows in of_frame.items():
        save(out / BOXES / f"{frame}.jpg.mat", "box_new", np.array(rows, np.float64).reshape(-1, 5))
    for split, file in LISTS.items():
        names = np.array([[frame] for frame, of in frames if of == split], object).reshape(-1, 1)
        save(out / file, f"img_index_{split}", names)
    described = [box for box in boxes if box.captions]
    for split, number in (("train", 1), ("test", 2)):
        texts = [
            {"pic_path": f"{b.frame}.jpg", "id": b.person_id, "desrciption": b.captions["en"][:number]}
            for b in described
            if b.split == split
        ]
        (out / TEXTS[split]).write_text(json.dumps(texts, indent=0) + "\n")
    lines = [" ".join(map(str, (b.person_id, *b.box, b.frame))) for b in described if b.split == "test"]
    (out / QUERIES).write_text("".join(f"{line}\n" for line in lines))


def save(path: Path, name: str, value: np.ndarray) -> None:
    """Write a variable as MATLAB does; the same variable gives the same bytes."""
    stream = io.BytesIO()
    savemat(stream, {name: value})
    path.write_bytes(HEADER + stream.getvalue()[len(HEADER) :])
