"""People found in photos: python -m misc.search.benchmark_people CHECKPOINT SCENES

SCENES is what `python -m data.synthetic --scenes N` wrote. Each English caption of a person in its photos is
a query. A result is right if its photo shows the person; of one that is a box, it is also counted whether
that overlaps the person's by half. Galleries: the whole photos, what a detector finds in them, the true
boxes, and the true boxes cut out by hand, without margin and without an index. A photo is a result once, by
its best entry.

Of videos, where SCENES has some (--videos N): the true boxes without their tracks are linked to tracks; the
captions of an appearance of a person, together, are a query, and a track of the person is right, in whatever
video.

With --overlap N it measures, instead, how long N photos of 12 megapixels take to be indexed, and how long
their decoding, the search for people and the encoder take alone, each on all cores.
"""

import argparse
import itertools
import json
import sys
import tempfile
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from data.images.decode import load_image
from data.images.regions import place_of
from data.synthetic.photos.videos import FRAME_RATE
from misc.cli import Parser, exit_status, path_text
from misc.detection.boxes import ALL, Limits, as_boxes, iou
from misc.detection.detectors import HOG, Detector, load_detector
from misc.process.workers import num_cores
from misc.search.benchmark import timed
from misc.search.encoder import Encoder, load_encoder
from misc.search.index import Index
from misc.search.indexing.boxes import GivenBoxes
from misc.search.indexing.people import People
from misc.search.indexing.update import update_index
from misc.search.ranking.answer import rank
from misc.search.ranking.queries import Query, query_features
from options import UserError

RANKS = (1, 5)
PHOTO = (4000, 3000)  # pixels
AT_HAND = 8  # photos that are in memory while people are looked for in them
LEAST_OVERLAP = 0.5


@dataclass(frozen=True)
class Scenes:
    """Photos with their people.

    Attributes:
        root: the folder of the photos.
        persons: {photo: {person: box}}.
        captions: (sentence, person) of all people in all photos.
    """

    root: Path
    persons: dict[str, dict[int, tuple[float, ...]]]
    captions: list[tuple[str, int]]

    def with_person(self, person: int) -> set[str]:
        """The photos that show a person."""
        return {photo for photo, people in self.persons.items() if person in people}


def read_scenes(folder: Path) -> Scenes:
    """The set in a folder; raises UserError if there is none."""
    try:
        content = json.loads((folder / "boxes.json").read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(
            f"SCENES: '{folder}' has no boxes.json; make one with data.synthetic --scenes"
        ) from error
    names = {image["id"]: image["file_name"] for image in content["images"]}
    scenes = Scenes(folder / "frames", {name: {} for name in names.values()}, [])
    for item in content["annotations"]:
        scenes.persons[names[item["image_id"]]][item["person_id"]] = tuple(item["bbox"])
        scenes.captions.extend((text, item["person_id"]) for text in item["captions"].get("en", ()))
    return scenes


def row(name: str, num_entries: int, photos: Sequence[Sequence[str]], scenes: Scenes, right: str) -> str:
    """A row of the table; `photos` are the best ones of each caption."""
    shares = []
    for number in RANKS:
        found = zip(photos, scenes.captions, strict=True)
        hits = [bool(scenes.with_person(person) & set(best[:number])) for best, (_, person) in found]
        shares.append(f"{100 * np.mean(hits):.1f}")
    return f"| {name} | {num_entries} | {' | '.join(shares)} | {right} |"


def of_index(name: str, encoder: Encoder, scenes: Scenes, people: People | None) -> str:
    """The row of an index."""
    with tempfile.TemporaryDirectory() as folder:
        update_index(encoder, scenes.root, Path(folder, "index"), people=people)
        index = Index.open(Path(folder, "index"))
        queries = [Query(((text, 1.0),)) for text, _ in scenes.captions]
        answers = rank(index, query_features(encoder, queries), queries, k=max(RANKS), per_file=True)
    photos = [[place_of(result.path).file for result in answer.results] for answer in answers]
    first = (place_of(answer.results[0].path) for answer in answers)
    pairs = zip(first, scenes.captions, strict=True)
    right = [
        place.box is not None
        and person in scenes.persons[place.file]
        and iou(as_boxes([[*place.box, 0]]), as_boxes([[*scenes.persons[place.file][person], 0]])).item()
        >= LEAST_OVERLAP
        for place, (_, person) in pairs
    ]
    return row(name, len(index.paths), photos, scenes, f"{100 * np.mean(right):.1f}" if people else "")


def by_hand(encoder: Encoder, scenes: Scenes) -> str:
    """The row of the true boxes, cut out."""
    crops, photos = [], []
    for photo, people in scenes.persons.items():
        with Image.open(scenes.root / photo) as image:
            for left, top, width, height in people.values():
                crops.append(image.convert("RGB").crop((left, top, left + width, top + height)))
                photos.append(photo)
    scores = encoder.encode_texts([text for text, _ in scenes.captions]) @ encoder.encode_images(crops).T
    best = [
        list(dict.fromkeys(photos[number] for number in order))[: max(RANKS)]
        for order in scores.argsort(dim=1, descending=True).tolist()
    ]
    return row("true boxes cut out by hand", len(crops), best, scenes, "")


def of_videos(encoder: Encoder, folder: Path) -> str:
    """What is found of the persons of videos."""
    persons = json.loads((folder / "persons.json").read_bytes())
    truth = {
        video: read_mot(folder / video / "gt" / "gt.txt") for video in {each["video"] for each in persons}
    }
    with tempfile.TemporaryDirectory() as temporary:
        boxes = Path(temporary, "boxes")
        boxes.mkdir()
        for video, rows in truth.items():
            lines = (f"{frame},-1,{','.join(map(str, box))},1,1\n" for frame, _, *box in rows)
            (boxes / f"{video}.txt").write_text("".join(lines))
        people = People(None, GivenBoxes(boxes), ALL)
        update_index(encoder, folder, Path(temporary, "index"), people=people, exclude=["img1"])
        index = Index.open(Path(temporary, "index"))
        features = torch.from_numpy(index.features_of(range(len(index.paths))).astype(np.float32))
        videos = [Path(file).stem for file in index.files()]
        shown = [person_in(truth[video], path) for video, path in zip(videos, index.paths, strict=True)]
    texts = [F.normalize(encoder.encode_texts(each["captions"]["en"]).mean(0), dim=0) for each in persons]
    scores = torch.stack(texts) @ features.T
    own = torch.tensor([[video == each["video"] for video in videos] for each in persons])
    lines = [
        f"{len(persons)} appearances of {len({each['person_id'] for each in persons})} persons in videos"
    ]
    lines[0] += f", {len(index.paths)} tracks; found first, of"
    for name, among in (("all tracks", scores), ("those of the video", scores.masked_fill(~own, -2))):
        pairs = zip(among.argmax(dim=1).tolist(), persons, strict=True)
        hits = [shown[best] == each["person_id"] for best, each in pairs]
        lines.append(f"{name}: {100 * np.mean(hits):.1f} %")
    return "\n".join(lines)


def read_mot(file: Path) -> list[tuple[float, ...]]:
    """(frame, track, left, top, width, height) of each line."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return [
        tuple(map(int, values[:2])) + tuple(map(float, values[2:6]))
        for values in (line.split(",") for line in lines)
    ]


def person_in(rows: Sequence[tuple[float, ...]], path: str) -> int:
    """Whose box overlaps most with that of an entry of a video."""
    place = place_of(path)
    same = [each for each in rows if each[0] == 1 + round(place.time * FRAME_RATE)]
    overlaps = iou(as_boxes([[*place.box, 0]]), as_boxes([[*each[2:], 0] for each in same]))
    return same[overlaps.argmax()][1]


def measure_overlap(encoder: Encoder, detector: Detector, scenes: Scenes, count: int) -> None:
    """Print the seconds of an index run, and of its three parts alone."""
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(num_cores()) as pool:
        root = Path(temporary, "photos")
        root.mkdir()
        files = [root / f"{number}.jpg" for number in range(count)]
        sources = list(itertools.islice(itertools.cycle(sorted(scenes.persons)), count))
        list(pool.map(enlarge, [scenes.root / source for source in sources], files, range(count)))
        indexing, done = timed(
            lambda: update_index(
                encoder, root, Path(temporary, "index"), people=People(detector, None, Limits())
            )
        )
        decoding, _ = timed(lambda: deque(pool.map(load_image, files), maxlen=0))
        images = [load_image(file) for file in files[:AT_HAND]]
        turns = [images[number % len(images)] for number in range(count)]
        detecting, _ = timed(lambda: list(pool.map(lambda image: detector.detect([image]), turns)))
    pixels = encoder.processor(images=images[:1], return_tensors="pt")["pixel_values"]
    batches = pixels.expand(done.entries, -1, -1, -1).split(encoder.batch_size)
    encoding, _ = timed(lambda: deque(encoder.encode_batches(batches), maxlen=0))
    parts = {"decoder": decoding, "detector": detecting, "encoder": encoding}
    print(f"{count} photos, {done.entries} entries: index run {indexing:.1f} s")
    print(", ".join(f"{name} alone {seconds:.1f} s" for name, seconds in parts.items()))
    print(f"index run: {indexing / max(parts.values()):.2f} x the slowest part")


def enlarge(source: Path, target: Path, number: int) -> None:
    """Write a JPEG of 12 megapixels, unlike that of another number."""
    image = load_image(source).resize(PHOTO, Image.Resampling.BICUBIC)
    image.putpixel((0, 0), (number % 256, number // 256 % 256, 0))
    image.save(target, quality=90)


def build_parser() -> Parser:
    """The command line."""
    parser = Parser(prog="python -m misc.search.benchmark_people", description=__doc__)
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="of the encoder")
    parser.add_argument("scenes", type=Path, metavar="SCENES", help="a folder of data.synthetic --scenes")
    parser.add_argument("--detector", type=path_text, default=HOG, help="hog, a model folder, or a hub id")
    parser.add_argument("--overlap", type=int, metavar="N", help="measure the speed on N large photos")
    return parser


def run(flags: argparse.Namespace) -> None:
    """Print the table."""
    scenes, encoder = read_scenes(flags.scenes), load_encoder(flags.checkpoint)
    detector = load_detector(flags.detector, str(encoder.device))
    if flags.overlap is not None:
        measure_overlap(encoder, detector, scenes, flags.overlap)
        return
    given = GivenBoxes(flags.scenes / "boxes.json")
    chance = np.mean([len(scenes.with_person(person)) for _, person in scenes.captions]) / len(scenes.persons)
    print(f"{len(scenes.captions)} captions, {len(scenes.persons)} photos; chance: R@1 {100 * chance:.1f}\n")
    print("| gallery | entries | R@1 | R@5 | R@1, right person |\n|---|---|---|---|---|")
    print(of_index("whole photos", encoder, scenes, None))
    print(of_index(flags.detector, encoder, scenes, People(detector, None, Limits())))
    print(of_index("true boxes", encoder, scenes, People(None, given, ALL)))
    print(by_hand(encoder, scenes))
    if (flags.scenes / "videos").is_dir():
        print(f"\n{of_videos(encoder, flags.scenes / 'videos')}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, or 2 and an error line for a user error."""
    return exit_status(lambda: run(build_parser().parse_args(arguments)))


if __name__ == "__main__":
    sys.exit(main())
