"""Drawn videos: the same bytes, true tracks, persons who cross, and who is seen by several cameras."""

import configparser
import json
import random
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

from data.synthetic.photos import videos
from data.synthetic.photos.plan import Parameters
from data.synthetic.photos.videos import draw_walks, plan_videos
from data.synthetic.photos.view import camera_view
from data.synthetic.photos.write import generate

NUM_FRAMES = 10


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos of 10 seconds, a frame a second."""
    out = tmp_path_factory.mktemp("videos") / "a set"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(videos, "FRAME_RATE", 1)
        patch.setattr(videos, "NUM_FRAMES", NUM_FRAMES)
        assert generate(out, Parameters(0, 2, seed=1))
        before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
        assert not generate(out, Parameters(0, 2, seed=1))
        next(out.rglob("gt.txt")).unlink()
        assert generate(out, Parameters(0, 2, seed=1))
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    return out / "videos"


def test_the_tracks_are_those_of_three_persons_within_the_frames(drawn: Path) -> None:
    persons = json.loads((drawn / "persons.json").read_text(encoding="utf-8"))
    assert len(persons) == 6
    for folder in (path for path in drawn.iterdir() if path.is_dir()):
        info = configparser.ConfigParser()
        info.read(folder / "seqinfo.ini")
        length = int(info["Sequence"]["seqLength"])
        assert len(list((folder / "img1").glob("*.jpg"))) == length == NUM_FRAMES
        rows = [list(map(float, line.split(","))) for line in (folder / "gt/gt.txt").read_text().splitlines()]
        frames = defaultdict(list)
        for number, person, x, y, w, h, confidence, category, visible in rows:
            assert 0 <= x < x + w <= 800
            assert 0 <= y < y + h <= 600
            assert (confidence, category) == (1, 1)
            assert 0 <= visible <= 1
            frames[int(person)].append(int(number))
        own = {each["person_id"]: each for each in persons if each["video"] == folder.name}
        assert own.keys() == frames.keys()
        for person, numbers in frames.items():
            assert numbers == sorted(numbers)
            assert (own[person]["first_frame"], own[person]["last_frame"]) == (numbers[0], numbers[-1])
            assert all(len(set(texts)) == 2 for texts in own[person]["captions"].values())


def test_every_person_is_seen_by_two_cameras() -> None:
    cameras = defaultdict(set)
    for video in plan_videos(Parameters(0, 10, seed=0)):
        assert len({person for person, _ in video.people}) == 3
        for person, _ in video.people:
            cameras[person].add(video.camera)
    assert len(cameras) == 15
    assert all(len(each) == 2 for each in cameras.values())


def test_two_persons_of_each_video_cross_while_both_are_in_the_picture() -> None:
    for video in plan_videos(Parameters(0, 10, seed=0)):
        view = camera_view(video.seed, video.camera, videos.SIZE)
        first, second, _ = draw_walks(video, view, random.Random(0))
        at = [[walk.figure(n / 10, view).foot[0] for walk in (first, second)] for n in range(100)]
        inside = [pair for pair in at if all(0 < x < videos.SIZE[0] for x in pair)]
        assert {a < b for a, b in inside} == {True, False}


@pytest.mark.skipif(find_spec("av") is None, reason="PyAV is optional")
def test_a_film_has_the_frames_at_a_constant_rate(drawn: Path) -> None:
    import av

    path = next(drawn.glob("*.mp4"))
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        assert container.streams.video[0].average_rate == 1
    assert [frame.time for frame in frames] == list(range(NUM_FRAMES))
    with Image.open(drawn / path.stem / "img1" / "000005.jpg") as image:
        assert frames[4].to_image().size == image.size


def test_without_pyav_the_frames_are_written_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(videos, "has_films", lambda: False)
    with videos.film(tmp_path / "a.mp4") as add:
        add(Image.new("RGB", videos.SIZE))
    assert not (tmp_path / "a.mp4").exists()
    assert not any(name.endswith(".mp4") for name in videos.file_names(plan_videos(Parameters(0, 2, 0))))
