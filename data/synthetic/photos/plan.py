"""Which persons are in which photo."""

import random
from collections import Counter
from dataclasses import dataclass

from data.synthetic.attributes import Identity, draw_identities
from data.synthetic.camera import NUM_CAMERAS
from data.synthetic.domains import DOMAINS
from options import UserError

SPLITS = ("train", "test")
FEWEST, MOST = 2, 7  # persons of a photo
SIGHTINGS = 4  # of a person, about


@dataclass(frozen=True)
class Parameters:
    """What a set of scenes depends on: the numbers of photos, half of them for test, and of videos."""

    scenes: int
    videos: int
    seed: int
    domain: str = "street"

    def __post_init__(self) -> None:
        for name, least in (("scenes", 4), ("videos", 2), ("seed", 0)):
            value = getattr(self, name)
            if value < least and not (value == 0 and name != "seed" and self.scenes + self.videos):
                raise UserError(f"--{name}: expected at least {least}, found {value}")

    @property
    def root(self) -> str:
        """What seeds the draws: sets of single persons have other people and places."""
        return f"{self.seed}:scenes" if self.domain == "street" else f"{self.seed}:scenes:{self.domain}"


@dataclass(frozen=True)
class Task:
    """One photo to render; `name` seeds its randomness."""

    name: str
    camera: int
    split: str
    people: tuple[tuple[int, Identity], ...]  # (person id, identity)
    seed: str
    domain: str


def plan(parameters: Parameters) -> list[Task]:
    """The photos, in the order of their names. No person is in photos of both splits, and each one is seen by
    as many cameras as there are photos of the person, where there are as many cameras.
    """
    root = parameters.root
    rng = random.Random(f"{root}:photos")
    halves = {"train": parameters.scenes // 2, "test": parameters.scenes - parameters.scenes // 2}
    sizes = {split: [rng.randint(FEWEST, MOST) for _ in range(number)] for split, number in halves.items()}
    counts = {split: max(MOST, round(sum(each) / SIGHTINGS)) for split, each in sizes.items() if each}
    people = list(enumerate(draw_identities(root, sum(counts.values()), DOMAINS[parameters.domain].taste), 1))
    rng.shuffle(people)  # an identity's neighbour may be its near twin: they are spread over both splits
    photos: list[tuple[int, str, tuple[tuple[int, Identity], ...]]] = []
    for split, count in counts.items():
        own, people = people[:count], people[count:]
        photos += [(camera, split, chosen) for camera, chosen in deal(own, sizes[split], rng)]
    rng.shuffle(photos)
    numbers: Counter[int] = Counter()
    tasks = []
    for camera, split, chosen in photos:
        numbers[camera] += 1
        name = f"c{camera + 1}s1_{numbers[camera]:06d}"
        tasks.append(Task(name, camera, split, chosen, root, parameters.domain))
    return sorted(tasks, key=lambda task: task.name)


def deal(
    people: list[tuple[int, Identity]], sizes: list[int], rng: random.Random
) -> list[tuple[int, tuple[tuple[int, Identity], ...]]]:
    """(camera, persons) of photos with so many persons: first those whom the camera has seen least."""
    by_camera: Counter[tuple[int, int]] = Counter()
    seen: Counter[int] = Counter()
    cameras: list[int] = []
    photos = []
    for size in sizes:
        cameras = cameras or rng.sample(range(NUM_CAMERAS), NUM_CAMERAS)
        camera = cameras.pop()
        order = {person: (by_camera[camera, person], seen[person], rng.random()) for person, _ in people}
        chosen = sorted(people, key=lambda each: order[each[0]])[:size]
        for person, _ in chosen:
            by_camera[camera, person] += 1
            seen[person] += 1
        rng.shuffle(chosen)
        photos.append((camera, tuple(chosen)))
    return photos
