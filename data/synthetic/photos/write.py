"""A set of scenes on disk: photos with boxes (COCO and PRW-TBPS) and videos with tracks (MOT)."""

import json
import random
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from tqdm import tqdm

from data.synthetic.attributes import pick
from data.synthetic.camera import camera_sensor, draw_shot, expose
from data.synthetic.captions import captions_of
from data.synthetic.domains import DOMAINS
from data.synthetic.folder import claim, complete, manifest, read_manifest
from data.synthetic.photos import prw, videos
from data.synthetic.photos.compose import Canvas, Sighting
from data.synthetic.photos.plan import Parameters, Task, plan
from data.synthetic.photos.standing import place
from data.synthetic.photos.view import background, camera_view
from data.synthetic.render import SUPERSAMPLING
from misc.process.workers import in_processes

# Increase whenever the same parameters give other files.
VERSION = 2
SIZE = (1024, 768)  # of a photo
MAGNIFIED = 3.5  # times that a photo is as high as a crop of a person in it, about
OCCLUDED = 0.6  # of the photos have something that stands before a person
NOT_BEFORE = ("", "passer-by", "rail")  # a rail is longer than what is drawn of an occluder
BOXES = "boxes.json"
CHUNK = 8
OWNED = (BOXES, *prw.OWNED, *videos.OWNED)

Captions = dict[str, list[str]]


@dataclass(frozen=True)
class Described:
    """A person in a photo, with the captions by language: {} where too little is visible."""

    sighting: Sighting
    captions: Captions


def make_photos(root: Path, tasks: list[Task]) -> list[list[Described]]:
    """Render and save the photos of `tasks` under `root`; returns who is in each, the nearest first."""
    found = []
    for task in tasks:
        rng, domain = random.Random(f"{task.seed}:{task.name}"), DOMAINS[task.domain]
        view = camera_view(task.seed, task.camera, SIZE)
        canvas = Canvas(background(task.seed, task.camera, domain, view, SUPERSAMPLING), domain)
        shots = [draw_shot(rng, task.camera, domain) for _ in task.people]
        people = [(*person, shot.pose) for person, shot in zip(task.people, shots, strict=True)]
        figures = place(people, view, rng)
        kinds = {kind: weight for kind, weight in domain.occluders.items() if kind not in NOT_BEFORE}
        behind = rng.choice(figures) if rng.random() < OCCLUDED else None
        for figure in figures:
            canvas.shadow(figure)
        for figure in figures:
            canvas.person(figure)
            if figure is behind:
                canvas.occluder(figure, pick(rng, kinds), rng)
        sensor = camera_sensor(task.seed, task.camera, domain)
        photo = expose(canvas.photo(), sensor, rng, domain, MAGNIFIED)
        photo.save(root / f"{task.name}.jpg", "JPEG", quality=max(75, shots[0].quality))
        found.append([Described(each, describe(each, rng, task.domain)) for each in canvas.sightings()[::-1]])
    return found


def describe(sighting: Sighting, rng: random.Random, domain: str) -> Captions:
    """Two captions in each language, of what the photo shows of the person."""
    if not sighting.is_describable:
        return {}
    texts = captions_of(sighting.items, sighting.figure.identity.sex, rng, DOMAINS[domain])
    return {language: of_language["captions"] for language, of_language in texts.items()}


def generate(out: Path, parameters: Parameters, workers: int = 1, progress: bool = False) -> bool:
    """Write the scenes to the folder `out`.

    Returns:
        False if the same set exists already and nothing was done.

    Raises:
        UserError: `out` holds other files, or is not a folder.
    """
    wanted = {"version": VERSION, **asdict(parameters)}
    tasks, films = plan(parameters), videos.plan_videos(parameters)
    if read_manifest(out) == manifest(wanted, True) and is_there(out, tasks, films):
        return False
    claim(out, wanted, OWNED)
    if tasks:
        write_photos(out, tasks, workers, progress)
    if films:
        videos.write_videos(out, films, workers, progress)
    complete(out, wanted)
    return True


def is_there(out: Path, tasks: list[Task], films: list[videos.Video]) -> bool:
    """Whether all files of the photos and the videos are."""
    names = [BOXES, *prw.file_names([task.name for task in tasks])] if tasks else []
    return all((out / name).is_file() for name in (*names, *videos.file_names(films)))


def write_photos(out: Path, tasks: list[Task], workers: int, progress: bool) -> None:
    """Write the photos, and who is where in them."""
    (out / prw.FRAMES).mkdir(exist_ok=True)
    chunks = [tasks[start : start + CHUNK] for start in range(0, len(tasks), CHUNK)]
    found: list[list[Described]] = []
    with tqdm(total=len(tasks), unit="photo", disable=not progress) as bar:
        for made in in_processes(partial(make_photos, out / prw.FRAMES), chunks, workers):
            found += made
            bar.update(len(made))
    (out / BOXES).write_text(json.dumps(as_coco(tasks, found), ensure_ascii=False) + "\n", encoding="utf-8")
    sightings = [
        prw.Box(task.name, task.split, each.sighting.figure.person_id, each.sighting.box, each.captions)
        for task, people in zip(tasks, found, strict=True)
        for each in people
    ]
    prw.write(out, [(task.name, task.split) for task in tasks], sightings)


def as_coco(tasks: list[Task], found: list[list[Described]]) -> dict[str, list[dict[str, object]]]:
    """The boxes as COCO has them, each with the person, the visible share and the captions."""
    images, annotations = [], []
    for number, (task, people) in enumerate(zip(tasks, found, strict=True), start=1):
        image = {"id": number, "file_name": f"{task.name}.jpg", "width": SIZE[0], "height": SIZE[1]}
        images.append({**image, "camera": task.camera + 1, "split": task.split})
        for each in people:
            box = each.sighting.box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": 1,
                    "bbox": list(box),
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                    "person_id": each.sighting.figure.person_id,
                    "visible": each.sighting.visible,
                    "captions": each.captions,
                }
            )
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}
