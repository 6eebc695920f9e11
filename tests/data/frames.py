"""Small sets that annotate persons in frames, in the layouts of the public ones."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

Box = tuple[int, int, int, int]
People = dict[str, list[tuple[int, Box]]]  # {frame: [(person, box)]}
SIZE = (100, 80)


def draw(folder: Path, frames: People, suffix: str = ".jpg") -> None:
    """Frames of noise, another in each."""
    folder.mkdir(parents=True)
    for seed, name in enumerate(frames):
        pixels = np.random.default_rng(seed).integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}{suffix}")


def write_prw(
    out: Path, train: People, test: People, texts: dict[tuple[str, int], list[str]], queries: Sequence[str]
) -> Path:
    """PRW-TBPS; `texts` by frame and person, `queries` are lines of query_info.txt."""
    draw(out / "frames", train | test)
    (out / "annotations").mkdir()
    for split, frames in (("train", train), ("test", test)):
        names = np.array([[name] for name in frames], object).reshape(-1, 1)
        savemat(out / f"frame_{split}.mat", {f"img_index_{split}": names})
        items = [
            {"pic_path": f"{name}.jpg", "id": person, "desrciption": sentences}
            for (name, person), sentences in texts.items()
            if name in frames
        ]
        (out / f"PRW-TBPS_{split}").write_text(json.dumps(items))
    for number, (name, people) in enumerate((train | test).items()):
        rows = np.array([[person, *box] for person, box in people], np.float64).reshape(-1, 5)
        key = ("box_new", "anno_file", "anno_previous")[number % 3]
        savemat(out / "annotations" / f"{name}.jpg.mat", {key: rows} if people else {"other": 1})
    (out / "query_info.txt").write_text("\n".join(queries) + "\n")
    return out


def struct(names: str, *rows: tuple[object, ...]) -> np.ndarray:
    """A struct array of one row, as MATLAB has it."""
    array = np.empty((1, len(rows)), [(name, object) for name in names.split()])
    for number, row in enumerate(rows):
        array[0, number] = row
    return array


def cells(*values: object) -> np.ndarray:
    """A cell array of one column."""
    array = np.empty((len(values), 1), object)
    for number, value in enumerate(values):
        array[number, 0] = value
    return array


def write_cuhk(
    out: Path,
    train: People,
    test: People,
    texts: dict[tuple[str, int], list[str]],
    searches: dict[int, list[tuple[str, int, list[str]]]],
) -> Path:
    """CUHK-SYSU-TBPS. Persons below 0 have no name; `searches`: {size: [(image, person, its gallery)]}."""
    frames = train | test
    draw(out / "Image" / "SSM", {Path(name).stem: people for name, people in frames.items()})
    protocols = out / "annotation" / "test" / "train_test"
    protocols.mkdir(parents=True)
    images = [
        (name, len(people), struct("idlocate ishard", *((np.array(box), 0) for _, box in people)))
        for name, people in frames.items()
    ]
    savemat(out / "annotation" / "Images.mat", {"Img": struct("imname nAppear box", *images)})
    savemat(out / "annotation" / "pool.mat", {"pool": cells(*test)})
    persons = sorted({person for people in train.values() for person, _ in people if person >= 0})
    trained = []
    for person in persons:
        places = [(n, np.array(box), 0) for n, people in train.items() for p, box in people if p == person]
        sightings = struct("imname idlocate ishard", *places)
        trained.append(struct("idname nAppear scene", (f"p{person}", len(places), sightings)))
    savemat(protocols / "Train.mat", {"Train": cells(*trained)})
    for size, of_size in searches.items():
        rows = []
        for name, person, gallery in of_size:
            own = next(np.array(box) for p, box in test[name] if p == person)
            query = struct("imname idlocate ishard idname", (name, own, 0, f"p{person}"))
            places = [(n, next((np.array(b) for p, b in test[n] if p == person), []), 0) for n in gallery]
            rows.append((query, struct("imname idlocate ishard", *places)))
        savemat(protocols / f"TestG{size}.mat", {f"TestG{size}": struct("Query Gallery", *rows)})
    for split, of_split in (("train", train), ("test", test)):
        items = [
            {"pic_path": name, "id": person, "desrciption": sentences}
            for (name, person), sentences in texts.items()
            if name in of_split
        ]
        (out / f"CUHK-SYSU-TBPS_{split}").write_text(json.dumps(items))
    return out
