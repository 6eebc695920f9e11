"""Tracks: people who walk past each other keep their numbers."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.synthetic.__main__ import main as draw
from misc.detection.boxes import Boxes, as_boxes
from misc.detection.tracks import Motion, Tracker


def walk(time: float, starts: list[tuple[float, float, float, float]]) -> Boxes:
    """The boxes of people (left, top, height, speed in pixels a second) who walk to the right or left."""
    return as_boxes(
        [[left + speed * time, top, height / 3, height, 1] for left, top, height, speed in starts]
    )


def test_three_people_who_cross_keep_their_numbers_whatever_the_order_of_the_boxes() -> None:
    people = [(0, 100, 150, 90), (600, 110, 160, -80), (300, 90, 140, 10)]
    rng, tracker, numbers = np.random.default_rng(0), Tracker(), []
    for step in range(30):
        order = rng.permutation(3)
        found = tracker.update(0.2 * step, walk(0.2 * step, people)[order])
        numbers.append([found[list(order).index(person)] for person in range(3)])
    assert sorted(numbers[0]) == [0, 1, 2]
    assert all(row == numbers[0] for row in numbers)


def test_at_most_a_tenth_of_noisy_crossings_change_numbers() -> None:
    changes, crossings = 0, 60
    for seed in range(crossings):
        rng, tracker, first, last = np.random.default_rng(seed), Tracker(), None, None
        people = [(0, 100, 150, rng.uniform(60, 120)), (500, 100, 150, -rng.uniform(60, 120))]
        for step in range(35):
            boxes = walk(0.2 * step, people)
            boxes[:, :4] += rng.normal(0, 4, (2, 4))
            seen = [n for n in range(2) if rng.random() > 0.1]  # a detector misses some
            if abs(boxes[0, 0] - boxes[1, 0]) < 25 and len(seen) == 2:
                seen = [1]  # hidden by the other
            numbers = tracker.update(0.2 * step, boxes[seen])
            if len(seen) == 2:
                first, last = first or numbers, numbers
        changes += first != last
    assert changes <= crossings / 10


def test_appearance_decides_where_motion_cannot() -> None:
    """Two people meet, wait in one place, and one of them comes back: who, only their looks tell."""
    looks = np.eye(2, dtype=np.float32)
    for order in ([0, 1], [1, 0]):
        tracker = Tracker()
        places = as_boxes([[100, 100, 50, 150, 1], [130, 100, 50, 150, 1]])
        assert tracker.update(0, places, looks) == [0, 1]
        assert tracker.update(0.5, places[order], looks) == [0, 1]


@pytest.mark.parametrize(("pause", "same"), [(1.5, True), (2.5, False)])
def test_who_is_hidden_for_longer_than_the_gap_is_somebody_else(pause: float, same: bool) -> None:
    tracker, box = Tracker(Motion(max_gap=2.0)), as_boxes([[100, 100, 50, 150, 1]])
    assert tracker.update(0, box) == [0]
    assert tracker.update(1, as_boxes([])) == []
    assert tracker.update(pause, box) == [0 if same else 1]


@pytest.mark.parametrize("other", [[400, 100, 50, 150, 1], [100, 100, 20, 60, 1]])
def test_what_is_far_away_or_of_another_size_is_somebody_else(other: list[float]) -> None:
    tracker = Tracker()
    tracker.update(0, as_boxes([[100, 100, 50, 150, 1]]))
    assert tracker.update(0.2, as_boxes([other])) == [1]


def test_who_comes_into_the_frame_or_leaves_it_is_the_same_whatever_part_was_seen() -> None:
    """Of somebody at an edge a detector, or a true box, has the foot that is in the frame."""
    tracker, size = Tracker(), (800, 600)
    boxes = [[790, 400, 10, 20], [690, 240, 90, 200], [560, 240, 90, 200]]
    leaving = [[190, 240, 90, 200], [60, 240, 90, 200], [0, 390, 12, 30]]
    for step, (first, second) in enumerate(zip(boxes, leaving, strict=True)):
        found = tracker.update(step, as_boxes([[*second, 1], [*first, 1]]), size=size)
        assert found == [0, 1]
    assert Tracker().update(0, as_boxes([[*boxes[0], 1]])) == [0]


@pytest.mark.parametrize("looks", [None, np.eye(3, 4, dtype=np.float32)])
def test_a_tracker_continues_from_its_state(looks: np.ndarray | None) -> None:
    people = [(0, 100, 150, 90), (600, 110, 160, -80), (300, 90, 140, 10)]
    whole, latest = Tracker(), Tracker()
    for step in range(30):
        boxes = walk(0.2 * step, people)[: 3 if step % 4 else 2]
        continued = Tracker()
        continued.restore(latest.state())
        features = None if looks is None else looks[: len(boxes)]
        expected = whole.update(0.2 * step, boxes, features)
        assert continued.update(0.2 * step, boxes, features) == expected
        assert all((continued.state()[name] == state).all() for name, state in whole.state().items())
        latest = continued


def test_who_is_missing_in_one_frame_is_found_again_however_far_apart_the_frames_are() -> None:
    tracker, box = Tracker(Motion.at(10)), as_boxes([[100, 100, 50, 150, 1]])
    assert [tracker.update(time, box) for time in (0, 20, 46)] == [[0], [0], [1]]


def looks(image: Image.Image, boxes: Boxes) -> np.ndarray:
    """(n, 36) normalised: the mean colors of 12 parts of each box, in place of features."""
    parts = [
        np.asarray(image.resize((2, 6), Image.Resampling.BOX, (left, top, left + width, top + height)), float)
        for left, top, width, height, _ in boxes.tolist()
    ]
    colors = np.array(parts, np.float32).reshape(-1, 36) - 128
    return colors / np.linalg.norm(colors, axis=1, keepdims=True)


@pytest.mark.slow
def test_at_most_a_tenth_of_the_crossings_of_drawn_videos_change_numbers(tmp_path: Path) -> None:
    """With the true boxes, of whatever part of a person is seen, but without the true tracks."""
    assert draw(["--videos", "10", "--out", str(tmp_path)]) == 0
    changes, crossings = 0, 0
    for video in sorted(path.parent.parent for path in tmp_path.glob("videos/*/gt/gt.txt")):
        rows = np.loadtxt(video / "gt" / "gt.txt", delimiter=",")
        middles = {
            person: {row[0]: row[2] + row[4] / 2 for row in rows if row[1] == person}
            for person in np.unique(rows[:, 1])
        }
        for step in (5, 10):  # every half a second, and every second
            tracker, numbers = Tracker(Motion.at(step / 10)), dict[float, int]()
            for frame in range(1, 101, step):
                seen = rows[rows[:, 0] == frame]
                boxes = seen[:, 2:7]  # behind a box the file has a score of 1
                image = Image.open(video / "img1" / f"{frame:06d}.jpg")
                found = tracker.update(frame / 10, boxes, looks(image, boxes), image.size)
                changes += sum(numbers.get(who, n) != n for who, n in zip(seen[:, 1], found, strict=True))
                numbers.update(zip(seen[:, 1], found, strict=True))
            for first, second in itertools.combinations(middles.values(), 2):
                order = [first[frame] > second[frame] for frame in sorted(first.keys() & second.keys())]
                crossings += sum(one != other for one, other in itertools.pairwise(order))
    assert crossings > 40
    assert changes <= crossings / 10
