"""Short videos of three persons who walk past each other, with their true tracks.

Each is a folder as in MOTChallenge (`img1/000001.jpg`, `gt/gt.txt`, `seqinfo.ini`) and, where PyAV is
installed, an .mp4 file beside it. `persons.json` describes each person of each video.
"""

import json
import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from data.synthetic.attributes import Identity, draw_identities
from data.synthetic.body import Pose
from data.synthetic.camera import camera_sensor, expose
from data.synthetic.captions import captions_of, items_in_view
from data.synthetic.domains import DOMAINS, Domain
from data.synthetic.photos.compose import Canvas, Sighting
from data.synthetic.photos.plan import Parameters, deal
from data.synthetic.photos.standing import Figure, stand
from data.synthetic.photos.view import View, background, camera_view
from data.synthetic.render import SUPERSAMPLING
from misc.process.workers import in_processes

FOLDER, PERSONS = "videos", "persons.json"
OWNED = tuple(
    f"{FOLDER}/{name}"
    for name in (
        PERSONS,
        "c[1-8]v*.mp4",
        *(f"c[1-8]v*/{part}" for part in ("img1/*.jpg", "gt/gt.txt", "seqinfo.ini")),
    )
)
SIZE = (800, 600)
FRAME_RATE, NUM_FRAMES = 10, 100  # frames of a second, and of a video
PEOPLE = 3  # of a video
MAGNIFIED, QUALITY = 2.8, 88
FOCAL = 0.9 * SIZE[0]  # length in pixels
SPEED, STROLL = 0.75, 0.3  # body heights of a second, of those who cross the picture, and of the others
STEP = 0.42  # body heights
SEQUENCE = """[Sequence]
name={name}
imDir=img1
frameRate={rate}
seqLength={length}
imWidth={width}
imHeight={height}
imExt=.jpg
"""


@dataclass(frozen=True)
class Walk:
    """A straight walk over the ground, in body heights: beside the middle (x) and from the camera (z).

    Attributes:
        start: (x, z) at the first frame.
        pace: (x, z) a second.
        view: side from which the person is seen.
    """

    person_id: int
    identity: Identity
    start: tuple[float, float]
    pace: tuple[float, float]
    view: str

    def figure(self, seconds: float, view: View) -> Figure:
        """The person in the frame at a time."""
        x, z = (begin + pace * seconds for begin, pace in zip(self.start, self.pace, strict=True))
        height = FOCAL / z
        foot = view.size[0] / 2 + x * height, view.row_at(height)
        stride = abs(math.sin(math.pi * math.hypot(*self.pace) * seconds / STEP))
        pose = Pose(self.view, 1 if self.pace[0] >= 0 else -1, stride)
        return stand(self.person_id, self.identity, pose, foot, view)


@dataclass(frozen=True)
class Video:
    """One to be drawn; `name` seeds its randomness."""

    name: str
    camera: int
    people: tuple[tuple[int, Identity], ...]  # (person id, identity)
    seed: str
    domain: str


def plan_videos(parameters: Parameters) -> list[Video]:
    """The videos: every person is in about two, of several cameras, and in no photo. None is a near twin of
    another, whom a description of clothes may not tell apart.
    """
    seed = f"{parameters.root}:videos"
    rng = random.Random(seed)
    number = max(PEOPLE, math.ceil(PEOPLE * parameters.videos / 2)) if parameters.videos else 0
    identities = draw_identities(seed, number, DOMAINS[parameters.domain].taste, twins=0)
    people = list(enumerate(identities, start=1001))  # photos have other persons, and lower ids
    dealt = deal(people, [PEOPLE] * parameters.videos, rng)
    return [
        Video(f"c{camera + 1}v{place:02d}", camera, chosen, parameters.root, parameters.domain)
        for place, (camera, chosen) in enumerate(dealt, start=1)
    ]


def draw_walks(video: Video, view: View, rng: random.Random) -> list[Walk]:
    """Two who cross the picture from its two sides, and one who does so, comes, or goes."""
    depths = [FOCAL / view.height_at(view.row(at)) for at in (1.0, 0.45)]  # the farthest, and the nearest
    first = rng.choice((-1, 1))
    kinds = ["side", "side", rng.choice(("side", "side", "front", "back"))]
    walks = []
    for (person, identity), kind, side in zip(video.people, kinds, (first, -first, first), strict=True):
        if kind == "side":
            z = rng.uniform(depths[1], depths[0])
            edge = view.size[0] / 2 * z / FOCAL + 0.4
            late = rng.uniform(0, 2.5)
            start, pace = (side * (edge + SPEED * late), z), (-side * SPEED, rng.uniform(-0.05, 0.05))
        else:
            sign = -1 if kind == "front" else 1
            far = depths[0] if kind == "front" else depths[0] - STROLL * NUM_FRAMES / FRAME_RATE
            start, pace = (
                (rng.uniform(-1, 1), max(far, depths[1] * 0.8)),
                (rng.uniform(-0.1, 0.1), sign * STROLL),
            )
        walks.append(Walk(person, identity, start, pace, kind))
    return walks


def draw_frames(video: Video, walks: list[Walk], view: View) -> Iterator[tuple[Image.Image, list[Sighting]]]:
    """Each frame, and who is in it. The camera's light and noise are the same in all."""
    domain = DOMAINS[video.domain]
    empty = background(video.seed, video.camera, domain, view, SUPERSAMPLING)
    for number in range(NUM_FRAMES):
        canvas = Canvas(empty, domain)
        figures = [walk.figure(number / FRAME_RATE, view) for walk in walks]
        figures.sort(key=lambda figure: figure.foot[1])
        for figure in figures:
            canvas.shadow(figure)
        for figure in figures:
            canvas.person(figure)
        yield record(canvas.photo(), video, domain), canvas.sightings()


def record(image: Image.Image, video: Video, domain: Domain) -> Image.Image:
    """The frame as the camera records it."""
    rng = random.Random(f"{video.seed}:{video.name}:light")
    return expose(image, camera_sensor(video.seed, video.camera, domain), rng, domain, MAGNIFIED)


def make_video(root: Path, video: Video) -> list[dict[str, object]]:
    """Draw and write a video under `root`; returns what `persons.json` says of the persons in it."""
    rng = random.Random(f"{video.seed}:{video.name}")
    view = camera_view(video.seed, video.camera, SIZE)
    walks = draw_walks(video, view, rng)
    folder = root / video.name
    for part in ("img1", "gt"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    rows: list[tuple[int, Sighting]] = []
    with film(root / f"{video.name}.mp4") as add:
        for number, (image, sightings) in enumerate(draw_frames(video, walks, view), start=1):
            image.save(folder / "img1" / f"{number:06d}.jpg", "JPEG", quality=QUALITY)
            add(image)
            rows += [(number, each) for each in sightings]
    rows.sort(key=lambda row: (row[1].figure.person_id, row[0]))
    lines = [
        f"{number},{each.figure.person_id},{','.join(map(str, each.box))},1,1,{each.visible}"
        for number, each in rows
    ]
    (folder / "gt" / "gt.txt").write_text("".join(f"{line}\n" for line in lines))
    settings = {"name": video.name, "rate": FRAME_RATE, "length": NUM_FRAMES}
    (folder / "seqinfo.ini").write_text(SEQUENCE.format(**settings, width=SIZE[0], height=SIZE[1]))
    return [
        describe(
            walk, [number for number, each in rows if each.figure.person_id == walk.person_id], video, rng
        )
        for walk in walks
    ]


def describe(walk: Walk, numbers: list[int], video: Video, rng: random.Random) -> dict[str, object]:
    """A person in a video: from which frame to which, with two captions in each language of what it shows."""
    seen = items_in_view(walk.identity, walk.view, set())
    texts = captions_of(seen, walk.identity.sex, rng, DOMAINS[video.domain])
    return {
        "video": video.name,
        "camera": video.camera + 1,
        "person_id": walk.person_id,
        "first_frame": min(numbers),
        "last_frame": max(numbers),
        "frame_rate": FRAME_RATE,
        "captions": {language: of_language["captions"] for language, of_language in texts.items()},
    }


def has_films() -> bool:
    """Whether .mp4 files are written."""
    return find_spec("av") is not None


@contextmanager
def film(path: Path) -> Iterator[Callable[[Image.Image], None]]:
    """A function that adds a frame to an .mp4 file of a constant frame rate, where PyAV is installed."""
    if not has_films():
        yield lambda image: None
        return
    import av

    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=FRAME_RATE, options={"threads": "1", "crf": "21"})
        (stream.width, stream.height), stream.pix_fmt = SIZE, "yuv420p"

        def add(image: Image.Image) -> None:
            container.mux(stream.encode(av.VideoFrame.from_image(image)))

        yield add
        container.mux(stream.encode(None))


def file_names(videos: list[Video]) -> list[str]:
    """The files of a set with these videos, relative to its folder."""
    parts = [*(f"img1/{number:06d}.jpg" for number in range(1, NUM_FRAMES + 1)), "gt/gt.txt", "seqinfo.ini"]
    films = [f"{video.name}.mp4" for video in videos if has_films()]
    names = [*films, *(f"{video.name}/{part}" for video in videos for part in parts)]
    return [f"{FOLDER}/{name}" for name in (names and [PERSONS, *names])]


def write_videos(out: Path, videos: list[Video], workers: int, progress: bool) -> None:
    """Draw and write the videos, and what is said of the persons in them."""
    (out / FOLDER).mkdir(exist_ok=True)
    persons: list[dict[str, object]] = []
    with tqdm(total=len(videos), unit="video", disable=not progress) as bar:
        for of_video in in_processes(partial(make_video, out / FOLDER), videos, workers):
            persons += of_video
            bar.update()
    text = json.dumps(persons, ensure_ascii=False, indent=0)
    (out / FOLDER / PERSONS).write_text(text + "\n", encoding="utf-8")
