"""The people of videos, as tracks: their spans, crops and features, and that a killed run continues."""

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.images.regions import place_of
from misc.detection.boxes import ALL, Limits, as_boxes
from misc.detection.video import Facts, Frame, frame_at, sampled_frames
from misc.search.encoder import Encoder
from misc.search.index import Index
from misc.search.indexing import videos
from misc.search.indexing.boxes import GivenBoxes
from misc.search.indexing.outcome import Update
from misc.search.indexing.people import People
from misc.search.indexing.tracks import Done, Tracks, quality_of
from misc.search.indexing.update import update_index
from misc.search.indexing.videos import VideoPeople, people_of_video
from misc.search.storage.database import digest_of
from misc.search.storage.sightings import Sighting
from misc.search.views import crop_of, load_view
from tests.helpers.search import Kill, save_run
from tests.misc.search.people.drawn import COLORS, SIZE, ByColor, draw, walk, write_video

av = pytest.importorskip("av", reason="no videos: pip install av")
TIMES = [n / 10 for n in range(120)]
PEOPLE = [walk(1.0, 7.0, 10, 20), walk(3.0, 11.0, 130, -12, 50), walk(8.0, 10.0, 5, 4)]


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve seconds in which three people are seen, two of whom cross."""
    return write_video(tmp_path_factory.mktemp("street") / "street.mp4", PEOPLE, TIMES)


def people(**settings: object) -> People:
    return People(ByColor(), None, Limits(min_height=10), **settings)


def tracks_of(path: Path, encoder: Encoder, state: Path, **settings: object) -> VideoPeople:
    return people_of_video(path, digest_of(path), encoder, people(**settings), state, lambda share: None)


def color_of(image: Image.Image) -> int:
    """Whose color the middle of a picture has."""
    middle = np.asarray(image)[image.height // 2, image.width // 2].astype(int)
    return int(np.abs(np.array(COLORS) - middle).sum(axis=1).argmin())


def same(first: VideoPeople, second: VideoPeople) -> bool:
    """Whether two results are equal, bit for bit."""
    pairs = zip(first.tracks, second.tracks, strict=True)
    features = [(first.whole, second.whole), *((one.feature, other.feature) for one, other in pairs)]
    plain = [[each[:-1] for each in found.tracks] for found in (first, second)]
    return first[:4] == second[:4] and plain[0] == plain[1] and all((a == b).all() for a, b in features)


@pytest.mark.parametrize("every", [1.0, 0.5, 0.25])
def test_each_person_is_a_track_from_when_it_is_seen_first_to_when_it_is_seen_last(
    street: Path, encoder: Encoder, tmp_path: Path, every: float
) -> None:
    found, shares = [], []
    result = people_of_video(
        street, "street", encoder, people(every=every), tmp_path / "state", shares.append
    )
    assert result[:4] == (*SIZE, None, 12.0)
    for track in result.tracks:
        person = color_of(crop_of(frame_at(street, track.time), track.box, 0))
        found.append(person)
        times = sorted(PEOPLE[person])
        assert 0 <= track.first - times[0] < every
        assert 0 <= times[-1] - track.last < every
        hidden = 2 if person < 2 else 0  # the two who cross, while they cover each other
        multiples = np.arange(0, TIMES[-1], every) - 1e-6
        sampled = [
            time for time in (min(t for t in TIMES if t >= each) for each in multiples) if time in times
        ]
        assert len(sampled) - hidden / every <= track.seen <= len(sampled)
        crops = [(track.time, track.box), *track.crops]
        assert len(crops) == min(4, track.seen)
        for moment, box in crops:
            assert color_of(crop_of(frame_at(street, round(moment, 3)), box, 0)) == person
            assert np.abs(np.subtract(box, PEOPLE[person][round(moment, 1)])).max() <= 5
        gaps = [abs(a - b) for (a, _), (b, _) in itertools.combinations(crops, 2)]
        assert track.seen < 8 or min(gaps) > 1.5 * every
    assert sorted(found) == [0, 1, 2]
    assert shares == sorted(shares)
    assert 0 < shares[0] < shares[-1] <= 1


def test_a_feature_is_the_mean_of_those_of_all_crops_by_their_quality(
    tmp_path: Path, encoder: Encoder
) -> None:
    """One person, whom the edges do not cut, of two heights."""
    person = walk(0, 2, 30, 10) | walk(2.1, 4, 52, 10, 30, 80)
    path = write_video(tmp_path / "a.mp4", [person], TIMES[:41])
    (track,) = tracks_of(path, encoder, tmp_path / "state", every=0.5, margin=0.2).tracks
    total = np.zeros(encoder.embed_dim)
    for frame in sampled_frames(path, 0.5):
        (box,) = ByColor().detect([frame.image])[0][:, :4].astype(int).tolist()
        crop = crop_of(frame.image, tuple(box), 0.2)
        total += box[3] * encoder.encode_images([crop])[0].double().numpy()
    np.testing.assert_allclose(track.feature, total / np.linalg.norm(total), atol=2e-3)
    assert track.box[3] >= 78  # the best crop is a high one


def test_the_quality_of_a_crop_falls_where_others_are_before_it_or_the_frame_ends() -> None:
    boxes = as_boxes([[10, 10, 20, 60, 1], [10, 50, 10, 60, 1], [100, 20, 20, 100, 1]])
    free = 1 - 20 * 10 / (20 * 60)
    np.testing.assert_allclose(quality_of(boxes, SIZE), [60 * free**2, 60, 0.1 * 100])


def test_people_of_a_turned_video_are_upright(encoder: Encoder, tmp_path: Path) -> None:
    path = turned(write_video(tmp_path / "a.mp4", PEOPLE, TIMES))
    result = tracks_of(path, encoder, tmp_path / "state")
    assert (result.width, result.height) == SIZE[::-1]
    for track in result.tracks:
        assert track.box[2] > 1.5 * track.box[3]  # who stands in the file lies in what is shown
        assert color_of(crop_of(frame_at(path, track.time), track.box, 0)) in (0, 1, 2)
    assert len(result.tracks) == 3


def test_tracks_of_the_user_are_taken_as_they_are(street: Path, encoder: Encoder, tmp_path: Path) -> None:
    """Two people are one for the user, and boxes are not looked for in the frames."""

    def given(frame: Frame) -> tuple[np.ndarray, list[int]]:
        rows = [(person, draw_box) for person, draw_box in enumerate(boxes_at(frame.time)) if draw_box]
        return as_boxes([[*box, 1] for _, box in rows]), [7 if n == 2 else 9 for n, _ in rows]

    def boxes_at(moment: float) -> list[tuple[int, int, int, int] | None]:
        return [person.get(round(moment, 1)) for person in PEOPLE]

    settings = People(None, None, Limits(min_height=1, max_overlap=1, min_inside=0))
    result = people_of_video(
        street, "street", encoder, settings, tmp_path / "state", lambda share: None, given
    )
    assert [(track.first, track.last, track.seen) for track in result.tracks] == [(1, 11, 16), (8, 10, 3)]


def test_somebody_found_once_with_a_low_score_is_noise(
    street: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 0.5, where the detector's least score is 0.4; it stays where there is only one frame."""
    original = ByColor._detect

    def noisy(self: ByColor, pixels: np.ndarray) -> np.ndarray:
        found = original(self, pixels)
        return found if len(found) else as_boxes([[100, 60, 20, 50, 0.5]])

    monkeypatch.setattr(ByColor, "_detect", noisy)
    assert len(tracks_of(street, encoder, tmp_path / "state", every=3.0).tracks) < 4
    (alone,) = tracks_of(street, encoder, tmp_path / "state", every=20.0).tracks
    assert (alone.score, alone.seen) == (0.5, 1)


def test_a_detector_on_the_device_of_the_encoder_gives_the_same(
    street: Path, encoder: Encoder, tmp_path: Path
) -> None:
    on_device = People(ByColor(takes_device=True), None, Limits(min_height=10))
    result = people_of_video(street, "street", encoder, on_device, tmp_path / "state", lambda share: None)
    assert same(result, tracks_of(street, encoder, tmp_path / "state"))


def damaged(path: Path) -> Path:
    """The same with bytes changed in several places."""
    content, rng = bytearray(path.read_bytes()), np.random.default_rng(0)
    for place in rng.integers(len(content) // 6, len(content), 12):
        content[place : place + 20] = rng.bytes(20)
    path.write_bytes(content)
    return path


def cut(path: Path) -> Path:
    """The first two thirds of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    return path


def turned(path: Path) -> Path:
    """The same as a phone on its side writes it, with a matrix in the header of the track."""
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 44
    quarter = [0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30]
    content[at : at + 36] = b"".join(number.to_bytes(4, "big", signed=True) for number in quarter)
    path.write_bytes(content)
    return path


VIDEOS: dict[str, Callable[[Path], Path]] = {
    "whole": lambda path: write_video(path / "a.mp4", PEOPLE, TIMES),
    "damaged": lambda path: damaged(write_video(path / "a.ts", PEOPLE, TIMES, gap=10)),
    "cut": lambda path: cut(write_video(path / "a.ts", PEOPLE, TIMES, gap=10)),
    "turned": lambda path: turned(write_video(path / "a.mp4", PEOPLE, TIMES)),
    "of one group of pictures": lambda path: write_video(path / "a.mkv", PEOPLE, TIMES, gap=500),
    "of a varying rate": lambda path: write_video(path / "a.mkv", PEOPLE, [*TIMES[::3], 12.0, 12.7, 14.1]),
}


@pytest.mark.parametrize("kind", VIDEOS)
def test_a_run_that_is_killed_at_any_write_continues_to_the_same_result(
    kind: str, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(videos, "SECONDS_PER_STATE", 0.0)
    monkeypatch.setattr(videos, "PART", 4)
    path, state = VIDEOS[kind](tmp_path), tmp_path / "state"
    whole = tracks_of(path, encoder, state, every=0.5)
    state.unlink()
    original, encoded = Tracks.save, []

    def save(self: Tracks, *arguments: object) -> None:
        """Kill before every second write, and after every other."""
        encoded.append(self.done.last)
        if len(encoded) % 2:
            original(self, *arguments)
        raise Kill

    result, num_runs = None, 0
    while result is None:
        num_runs += 1
        assert num_runs < 30
        monkeypatch.setattr(Tracks, "save", save if num_runs % 5 else original)
        try:
            result = tracks_of(path, encoder, state, every=0.5)
        except Kill:
            continue
    assert num_runs > 4
    assert len(set(encoded)) < len(encoded)  # what was not written was done again
    assert same(result, whole)


def test_a_state_of_another_video_of_other_settings_or_damaged_is_ignored(
    street: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(videos, "SECONDS_PER_STATE", 0.0)
    state, expected = tmp_path / "state", tracks_of(street, encoder, tmp_path / "other")
    tracks_of(street, encoder, state, margin=0.3)
    assert same(tracks_of(street, encoder, state), expected)
    write_video(tmp_path / "b.mp4", PEOPLE[:1], TIMES[:40])
    tracks_of(tmp_path / "b.mp4", encoder, state)
    assert same(tracks_of(street, encoder, state), expected)
    content = state.read_bytes()
    for part in (content[:100], content[:-30], b"", content.replace(b"about", b"above"), b"\x80\x04."):
        state.write_bytes(part)
        assert same(tracks_of(street, encoder, state), expected)
    changed = bytearray(content)
    changed[len(content) // 2] ^= 255
    state.write_bytes(changed)
    assert same(tracks_of(street, encoder, state), expected)


@pytest.mark.parametrize("bit", [1, 16, 128])
def test_no_damaged_byte_of_a_state_is_an_error(bit: int, tmp_path: Path) -> None:
    """What is read from one is all of it, or nothing."""
    tracks, state, features = Tracks(1.0), tmp_path / "state", np.eye(2, 4, dtype=np.float32)
    tracks.size, tracks.whole, tracks.done = SIZE, np.ones(4, np.float16), Done(0.0, 3.0, "ab")
    for time in range(4):
        boxes = as_boxes([[10 + time, 10, 20, 60, 0.9], [90, 20, 20, 50, 0.8]])
        tracks.add(float(time), SIZE, boxes, features)
    tracks.save(state, "settings")
    content = state.read_bytes()
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= bit
        state.write_bytes(damaged)
        loaded = Tracks(1.0)
        loaded.load(state, "settings")
        assert len(loaded.tracks()) == (0 if loaded.done is None else 2)


def update(encoder: Encoder, root: Path, **settings: object) -> Update:
    return update_index(encoder, root, root.parent / "index", people=people(**settings))


def entries(folder: Path) -> dict[str, Sighting]:
    index = Index.open(folder)
    details = index.facts.of(index.ids.tolist())
    return {
        path: Sighting.of_text(details[number].sighting)
        for path, number in zip(index.paths, index.ids.tolist(), strict=True)
    }


@pytest.fixture
def root(street: Path, tmp_path: Path) -> Path:
    """A photo, a video of three people, one of none, one that is none, and one of sound."""
    (tmp_path / "files").mkdir()
    draw([], 0).save(tmp_path / "files" / "photo.png")
    (tmp_path / "files" / "street.mp4").write_bytes(street.read_bytes())
    write_video(tmp_path / "files" / "empty.mp4", [], TIMES[:20])
    (tmp_path / "files" / "broken.mov").write_bytes(street.read_bytes()[:3000])
    with av.open(str(tmp_path / "files" / "sound.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.int16), format="s16", layout="mono")
        frame.sample_rate, frame.pts = 8000, 0
        for packet in itertools.chain(stream.encode(frame), stream.encode()):
            container.mux(packet)
    return tmp_path / "files"


def test_an_index_has_the_tracks_of_videos_and_tells_which_ones_cannot_be_read(
    root: Path, encoder: Encoder
) -> None:
    found = update(encoder, root)
    assert (found.found, found.new, found.total, found.num_skipped, found.entries) == (5, 3, 3, 2, 5)
    assert found.skipped["sound.mkv"] == "has no pictures, only sound or a cover"
    assert found.skipped["broken.mov"].startswith("cannot be read as a video (")
    assert "broken.mov\tcannot be read" in found.listing.read_text()
    known = entries(root.parent / "index")
    assert {"empty.mp4/0.000s", "photo.png"} < known.keys()
    tracks = {path: sighting for path, sighting in known.items() if path.startswith("street.mp4/")}
    assert {color_of(load_view(root, path, margin=0.1)) for path in tracks} == {0, 1, 2}
    for path, sighting in tracks.items():
        assert sighting.of == 3
        assert sighting.first <= place_of(path).time <= sighting.last
        for crop in sighting.crops:
            assert color_of(load_view(root, crop)) == color_of(load_view(root, path))
    assert not list((root.parent / "index").glob("video*"))
    again = update(encoder, root)
    assert (again.kept, again.new, again.num_skipped) == (3, 0, 2)
    (root / "street.mp4").rename(root / "moved.mp4")
    assert update(encoder, root).moved == 1
    moved = entries(root.parent / "index")
    assert {path.replace("street", "moved") for path in tracks} < moved.keys()


def test_a_person_of_a_video_has_the_time_of_its_crop_and_without_pyav_videos_are_skipped(
    root: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = Facts(12.0, 10.0, "2024-05-06 23:59:57")
    monkeypatch.setattr(videos, "facts_of", lambda path: recorded)
    update(encoder, root)
    index = Index.open(root.parent / "index")
    details = index.facts.of(index.ids.tolist())
    for path, number in zip(index.paths, index.ids.tolist(), strict=True):
        detail, seconds = details[number], place_of(path).time
        if seconds is not None:
            day, second = (6, 57 + int(seconds)) if seconds < 3 else (7, int(seconds) - 3)
            assert detail.taken == f"2024-05-{day:02d} {'23:59' if day == 6 else '00:00'}:{second:02d}"
    monkeypatch.delattr("av.stream.Disposition")  # as in a version before 14.2
    (root / "street.mp4").write_bytes((root / "empty.mp4").read_bytes()[:-1])
    found = update(encoder, root)
    expected = "PyAV is not installed, or is older than 14.2; pip install -U av"
    assert found.skipped["street.mp4"] == expected
    monkeypatch.setitem(sys.modules, "av.stream", None)
    assert update(encoder, root).skipped["street.mp4"] == expected


def test_boxes_of_the_user_are_taken_in_the_frames_that_are_looked_at_with_a_word_if_there_are_none(
    encoder: Encoder, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of ten frames a second the first and the eleventh."""
    lines = [f"street.mp4,{10 * frame},20,30,40,{frame}" for frame in (1, 2, 11, 12)]
    lines += [f"empty.mp4,10,20,30,40,{frame}" for frame in (2, 12)]
    file = root.parent / "boxes.csv"
    file.write_text("\n".join(["file,left,top,width,height,frame", *lines]))
    given = People(None, GivenBoxes(file), ALL)
    update_index(encoder, root, root.parent / "index", people=given)
    known = entries(root.parent / "index")
    places = [
        "empty.mp4/0.000s",
        "photo.png",
        "street.mp4/0.000s/10,20,30,40",
        "street.mp4/1.000s/110,20,30,40",
    ]
    assert sorted(known) == places
    assert [known[path].score for path in places] == 4 * [None]
    assert "--boxes: 'empty.mp4' has boxes in 2 frames, but" in caplog.text
    assert "'street.mp4' has" not in caplog.text


@pytest.mark.parametrize("missing", [0, 6])
def test_boxes_of_frames_that_are_not_evenly_spaced_are_told(
    encoder: Encoder, tmp_path: Path, caplog: pytest.LogCaptureFixture, missing: int
) -> None:
    times = [time for n, time in enumerate(TIMES[:40]) if n % 5 or n // 5 >= missing]
    root = tmp_path / "root"
    root.mkdir()
    write_video(root / "a.mp4", [walk(0, 4, 30, 10)], times)
    (tmp_path / "a.txt").write_text("".join(f"{n},-1,10,20,30,40,1\n" for n in range(1, 41)))
    given = People(None, GivenBoxes(tmp_path / "a.txt"), ALL)
    update_index(encoder, root, tmp_path / "index", people=given)
    assert ("not evenly spaced" in caplog.text) == (missing > 0)


def test_a_video_that_took_the_place_of_an_interrupted_one_is_read_from_its_start(
    street: Path, root: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the same size and time, as a camera that reserves the space of its files leaves them."""
    monkeypatch.setattr(videos, "SECONDS_PER_STATE", 0.0)
    other = write_video(root.parent / "other.mp4", PEOPLE[2:], TIMES[:-1]).read_bytes()
    contents = [street.read_bytes(), other]
    size = max(map(len, contents)) + 8
    padded = [part + (size - len(part)).to_bytes(4, "big") + b"free" for part in contents]

    def place(content: bytes) -> None:
        (root / "street.mp4").write_bytes(content.ljust(size, b"\0"))
        os.utime(root / "street.mp4", (1e9, 1e9))

    def save(self: Tracks, *arguments: object) -> None:
        original(self, *arguments)
        raise KeyboardInterrupt

    place(padded[0])
    original = Tracks.save
    (root / "empty.mp4").unlink()
    with monkeypatch.context() as patched:
        patched.setattr(Tracks, "save", save)
        with pytest.raises(KeyboardInterrupt):
            update(encoder, root)
    place(padded[1])
    update(encoder, root)
    found = {path: sighting for path, sighting in entries(root.parent / "index").items() if "," in path}
    (person,) = found.values()
    assert (person.first, person.last) == (8, 10)


def test_an_interrupted_update_continues_in_the_middle_of_a_video(
    root: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(videos, "SECONDS_PER_STATE", 0.0)
    monkeypatch.setattr(videos, "PART", 4)
    original = Tracks.save

    def save(self: Tracks, *arguments: object) -> None:
        original(self, *arguments)
        if self.done.last > 6:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Tracks, "save", save)
        with pytest.raises(KeyboardInterrupt):
            update(encoder, root)
    decoded = []

    def counted(*arguments: float) -> Iterator[Frame]:
        for frame in sampled_frames(*arguments):
            decoded.append(frame)
            yield frame

    monkeypatch.setattr(videos, "sampled_frames", counted)
    update(encoder, root)
    assert len(decoded) < 12  # a second time the last part, and then the others
    assert min(frame.time for frame in decoded) == 4
    assert len([path for path in entries(root.parent / "index") if path.startswith("street")]) == 3


@pytest.mark.slow
def test_killed_processes_leave_an_index_that_becomes_that_of_an_undisturbed_one(
    root: Path, tmp_path: Path
) -> None:
    """kill -9 while a video is encoded, before and behind a write of what has been done."""
    for number in range(3):
        write_video(root / f"{number}.mp4", PEOPLE[number:], [n / 10 for n in range(300)])
    checkpoint = save_run(tmp_path / "run.pth")
    script = tmp_path / "index.py"
    script.write_text(
        "import os, signal, sys; from pathlib import Path\n"
        "from misc.search.indexing import videos; videos.SECONDS_PER_STATE = 0.0; videos.PART = 2\n"
        "from misc.search.indexing.tracks import Tracks\n"
        "from misc.search.indexing.update import update_index\n"
        "from misc.search.encoder import load_encoder\n"
        "from tests.misc.search.people.test_people_videos import people\n"
        "left, save = int(sys.argv[4]), Tracks.save\n"
        "def killed(tracks, *arguments):\n"
        "    global left\n"
        "    left -= 1\n"
        "    if sys.argv[5] == 'behind' or left: save(tracks, *arguments)\n"
        "    if not left: os.kill(os.getpid(), signal.SIGKILL)\n"
        "Tracks.save = killed\n"
        "checkpoint, root, folder = map(Path, sys.argv[1:4])\n"
        "update_index(load_encoder(checkpoint), root, folder, people=people())\n"
    )

    def status(folder: str, write: int, side: str = "behind") -> int:
        command = [sys.executable, script, checkpoint, root, tmp_path / folder, str(write), side]
        return subprocess.run(command, env=os.environ | {"PYTHONPATH": "."}, check=False).returncode

    assert status("whole", -1) == 0
    for write, side in ((1, "before"), (3, "behind"), (14, "before"), (7, "behind")):
        assert status("killed", write, side) == -signal.SIGKILL
    assert status("killed", -1) == 0
    assert entries(tmp_path / "whole") == entries(tmp_path / "killed")
    features = []
    for name in ("whole", "killed"):
        index = Index.open(tmp_path / name)
        features.append(index.features_of(range(len(index.paths)))[np.argsort(index.paths)])
    assert (features[0] == features[1]).all()
    assert not list((tmp_path / "killed").glob("video*"))
