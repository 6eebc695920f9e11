"""Which boxes are kept, against loops written from the definitions."""

import random

import numpy as np
import pytest

from misc.detection.boxes import Limits, as_boxes, free_shares, iou, kept, without_parts


def overlap(a: list[float], b: list[float]) -> float:
    """Intersection over union, by counting."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    common = width * height if width > 0 and height > 0 else 0.0
    return common / (a[2] * a[3] + b[2] * b[3] - common)


def some_boxes(seed: int, number: int) -> list[list[float]]:
    rng = random.Random(seed)
    return [
        [rng.uniform(-40, 180), rng.uniform(-40, 180), rng.uniform(1, 90), rng.uniform(1, 120), rng.random()]
        for _ in range(number)
    ]


def test_the_intersection_over_union_is_that_of_the_definition() -> None:
    first, second = some_boxes(0, 20), some_boxes(1, 30)
    wanted = [[overlap(a, b) for b in second] for a in first]
    np.testing.assert_allclose(iou(as_boxes(first), as_boxes(second)), wanted)
    assert iou(as_boxes([]), as_boxes(second)).shape == (0, 30)
    assert iou(as_boxes([[0, 0, 0, 0, 1]]), as_boxes([[0, 0, 0, 0, 1]])) == 0  # of nothing: not a number


@pytest.mark.parametrize("seed", range(5))
def test_boxes_within_the_limits_are_cut_to_the_image_and_the_doubled_ones_left_out(seed: int) -> None:
    boxes, limits = some_boxes(seed, 200), Limits(None, 20, 0.4, 0.5)
    candidates = []
    for left, top, width, height, score in boxes:
        right, bottom = min(max(left + width, 0), 200), min(max(top + height, 0), 160)
        inside = [min(max(left, 0), 200), min(max(top, 0), 160)]
        inside += [right - inside[0], bottom - inside[1]]
        is_seen = inside[2] * inside[3] >= 0.5 * width * height
        if score >= 0.3 and inside[3] >= 20 and inside[2] >= 1 and is_seen:
            candidates.append([*inside, score])
    wanted: list[list[float]] = []
    for box in sorted(candidates, key=lambda box: -box[4]):
        if all(overlap(box, other) <= 0.4 for other in wanted):
            wanted.append(box)
    assert 3 < len(wanted) < len(candidates) < len(boxes)
    np.testing.assert_allclose(kept(as_boxes(boxes), (200, 160), limits, min_score=0.3), wanted)


def test_the_order_of_boxes_of_one_score_does_not_decide_which_are_kept() -> None:
    boxes = as_boxes([[left, 0, 40, 80, 0.5] for left in (0, 10, 20, 30)])
    first = kept(boxes, (200, 200), Limits(), 0.1)
    np.testing.assert_array_equal(kept(boxes[::-1], (200, 200), Limits(), 0.1), first)


def test_a_score_of_the_user_takes_the_place_of_the_detectors() -> None:
    boxes = as_boxes([[0, 0, 40, 80, 0.4], [100, 0, 40, 80, 0.2]])
    assert len(kept(boxes, (200, 200), Limits(), 0.3)) == 1
    assert len(kept(boxes, (200, 200), Limits(min_score=0.1), 0.3)) == 2
    assert kept(as_boxes([]), (200, 200), Limits(), 0.3).shape == (0, 5)


@pytest.mark.parametrize("seed", range(5))
def test_boxes_that_lie_within_better_ones_are_left_out(seed: int) -> None:
    rng = np.random.default_rng(seed)
    boxes = np.hstack([rng.integers(0, 50, (30, 2)), rng.integers(5, 60, (30, 2)), rng.random((30, 1))])

    def common(first: np.ndarray, second: np.ndarray) -> float:
        pixels = np.zeros((2, 120, 120), bool)
        for mask, (left, top, width, height) in zip(pixels, (first[:4], second[:4]), strict=True):
            mask[int(top) : int(top + height), int(left) : int(left + width)] = True
        return float((pixels[0] & pixels[1]).sum())

    expected = [
        box
        for box in boxes
        if all(common(box, other) < 0.8 * box[2] * box[3] for other in boxes if other[4] > box[4])
    ]
    expected.sort(key=lambda box: -box[4])
    assert 0 < len(expected) < 30
    assert without_parts(boxes, 0.8).tolist() == np.array(expected).tolist()
    assert without_parts(as_boxes([]), 0.8).shape == (0, 5)


def test_what_is_free_of_a_box_is_what_lower_boxes_leave_of_it() -> None:
    boxes = as_boxes([[0, 0, 10, 100, 1], [5, 50, 10, 70, 1], [0, 90, 100, 5, 1], [200, 0, 5, 5, 1]])
    # The second, of the lowest edge, covers a quarter of the first; both cover a tenth of the third.
    assert free_shares(boxes).tolist() == [1 - 0.25, 1, 1 - 0.2, 1]
    assert free_shares(as_boxes([[0, 0, 9, 9, 1], [0, 1, 9, 9, 1], [0, 2, 9, 20, 1]]))[0] == 0
    assert free_shares(as_boxes([])).shape == (0,)
