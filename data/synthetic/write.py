"""The data set on disk: splits, file names, and rendering in parallel.

The seed determines every task before any image is drawn, so neither the number of workers nor their order
changes a byte.
"""

import json
import random
from collections import defaultdict
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

from tqdm import tqdm

from data.synthetic.attributes import Identity, draw_identities
from data.synthetic.camera import NUM_CAMERAS, draw_shot
from data.synthetic.captions import CAPTIONS, LANGUAGES
from data.synthetic.domains import DOMAINS
from data.synthetic.folder import claim, complete, manifest, read_json, read_manifest
from data.synthetic.render import render
from misc.process.workers import in_processes
from options import UserError

# Increase whenever the same parameters give other files: sets of an older version are then rebuilt.
VERSION = 4
SPLITS = ("train", "val", "test")
CHUNK = 24
IMAGES = [f"cam_{camera + 1}/{'[0-9]' * 6}.jpg" for camera in range(NUM_CAMERAS)]
# What sets were before there was a choice.
DEFAULTS = {"domain": "street", "captions": "full"}

Records: TypeAlias = dict[str, dict[str, Any]]  # the JSON records of an image, by language


@dataclass(frozen=True)
class Parameters:
    """What a set depends on; `identities` counts all three splits."""

    identities: int
    seed: int
    val_identities: int
    test_identities: int
    images_per_identity: int = 3
    domain: str = "street"
    captions: str = "full"

    def __post_init__(self) -> None:
        numbers = {name: value for name, value in asdict(self).items() if name not in ("domain", "captions")}
        for name, value in numbers.items():
            least = 0 if name == "seed" else 1
            if value < least:
                raise UserError(f"--{name.replace('_', '-')}: expected at least {least}, found {value}")
        if self.images_per_identity > NUM_CAMERAS:
            found = f"expected at most {NUM_CAMERAS} (one for each camera), found {self.images_per_identity}"
            raise UserError(f"--images-per-identity: {found}")
        if self.val_identities + self.test_identities >= self.identities:
            raise UserError(
                f"--identities: {self.identities} leaves none for train beside val ({self.val_identities}) "
                f"and test ({self.test_identities}); ask for more of them"
            )

    @property
    def root(self) -> str:
        """What seeds the draws: no two domains have a person or a place in common."""
        return f"{self.seed}" if self.domain == "street" else f"{self.seed}:{self.domain}"

    @property
    def num_images(self) -> int:
        return self.identities * self.images_per_identity


@dataclass(frozen=True)
class Task:
    """One image to render. `key` seeds its randomness and does not depend on the identity."""

    identity: Identity
    person_id: int
    camera: int
    file_path: str
    key: str
    seed: str
    domain: str
    captions: str


def plan(parameters: Parameters) -> dict[str, list[Task]]:
    """The tasks of every split, in the order of their records.

    Person ids, file numbers and the order of the records come from shuffles of the whole set: no name or
    position reveals an identity or a split.
    """
    seed, count, domain = parameters.root, parameters.identities, parameters.domain
    rng = random.Random(f"{seed}:plan")
    people = draw_identities(seed, count, DOMAINS[domain].taste)
    person_ids = rng.sample(range(1, count + 1), count)
    cameras = [rng.sample(range(NUM_CAMERAS), parameters.images_per_identity) for _ in people]
    sightings = [(index, camera) for index in range(count) for camera in cameras[index]]
    rng.shuffle(sightings)
    first_test = count - parameters.test_identities
    first_val = first_test - parameters.val_identities
    numbers: dict[int, int] = defaultdict(int)
    tasks: dict[str, list[Task]] = {split: [] for split in SPLITS}
    for index, camera in sightings:
        numbers[camera] += 1
        path = f"cam_{camera + 1}/{numbers[camera]:06d}.jpg"
        split = "train" if index < first_val else "val" if index < first_test else "test"
        who, key = (people[index], person_ids[index]), f"{seed}:{path}"
        tasks[split].append(Task(*who, camera, path, key, seed, domain, parameters.captions))
    for split in SPLITS:
        rng.shuffle(tasks[split])
    return tasks


def make_images(root: Path, tasks: list[Task]) -> list[Records]:
    """Render and save the images of `tasks` under `root`; returns their records."""
    results = []
    for task in tasks:
        rng, domain = random.Random(task.key), DOMAINS[task.domain]
        shot = draw_shot(rng, task.camera, domain)
        image = render(task.identity, shot, task.seed, rng, domain)
        image.save(root / task.file_path, "JPEG", quality=shot.quality)
        captions = CAPTIONS[task.captions](task.identity, shot, rng, domain)
        head = {"file_path": task.file_path, "id": task.person_id}
        results.append({language: head | texts for language, texts in captions.items()})
    return results


def generate(out: Path, parameters: Parameters, workers: int = 1, progress: bool = False) -> bool:
    """Write the data set to the folder `out`: `imgs/`, the annotations, and finally `synthetic.json`.

    Returns:
        False if the same set exists already and nothing was done.

    Raises:
        UserError: `out` holds other files, or is not a folder.
    """
    wanted = {"version": VERSION, **asdict(parameters)}
    if is_complete(out, wanted):
        return False
    claim(out, wanted, [*all_annotation_names(), *(f"imgs/{pattern}" for pattern in IMAGES)])
    (out / "imgs").mkdir(exist_ok=True)
    tasks = plan(parameters)
    for camera in range(NUM_CAMERAS):
        (out / "imgs" / f"cam_{camera + 1}").mkdir(exist_ok=True)
    ordered = [task for split in SPLITS for task in tasks[split]]
    chunks = [ordered[start : start + CHUNK] for start in range(0, len(ordered), CHUNK)]
    records: list[Records] = []
    with tqdm(total=len(ordered), unit="image", disable=not progress) as bar:
        for made in in_processes(partial(make_images, out / "imgs"), chunks, workers):
            records += made
            bar.update(len(made))
    remaining = iter(records)
    for split in SPLITS:
        write_annotations(out, split, list(islice(remaining, len(tasks[split]))))
    complete(out, wanted)
    return True


def write_annotations(out: Path, split: str, records: list[Records]) -> None:
    """Write one file per language, aligned by index, and the English one also as `{split}_reid.json`."""
    for language in LANGUAGES:
        lines = [json.dumps(record[language], ensure_ascii=False) for record in records]
        text = "[\n" + ",\n".join(lines) + "\n]\n"
        for name in annotation_names(split, language):
            (out / name).write_text(text, encoding="utf-8")


def annotation_names(split: str, language: str) -> list[str]:
    """The files that hold a language's records of a split."""
    return [f"{split}_reid_{language}.json"] + ([f"{split}_reid.json"] if language == "en" else [])


def all_annotation_names() -> list[str]:
    return [name for split in SPLITS for language in LANGUAGES for name in annotation_names(split, language)]


def is_complete(out: Path, wanted: dict[str, Any]) -> bool:
    """Whether `out` holds the wanted set with all its files."""
    if {**DEFAULTS, **(read_manifest(out) or {})} != manifest(wanted, True):
        return False
    annotations = [read_json(out / name) for name in all_annotation_names()]
    return all(annotations) and all(
        (out / "imgs" / record["file_path"]).is_file() for records in annotations for record in records
    )
