"""Answers: places, offsets, minimum scores and duplicates, as a loop over all images would have them."""

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from misc.search.index import Index
from misc.search.ranking.answer import Answer, rank
from misc.search.ranking.engines import ExactEngine
from misc.search.ranking.filters import Filters
from misc.search.ranking.queries import Query, descriptions, query_features
from options import UserError
from tests.helpers.search import index_of

WIDTH, NUM_IMAGES = 16, 300


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def random_features(count: int, seed: int = 0) -> np.ndarray:
    return unit(np.random.default_rng(seed).normal(size=(count, WIDTH))).astype(np.float16)


def digest(number: int) -> bytes:
    return number.to_bytes(16, "big")


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """300 images, every third one a copy: of equal features, of equal content, or of both."""
    features, digests = random_features(NUM_IMAGES), [digest(number) for number in range(NUM_IMAGES)]
    rng = np.random.default_rng(1)
    for number in range(0, NUM_IMAGES, 3):
        original = int(rng.integers(40))  # some have many copies
        if number % 2:
            digests[number] = digests[original]
        if number % 4 < 2:
            features[number] = features[original]
        if number % 5 == 0:
            digests[number] = None  # of an index that an earlier version wrote
    images = [
        {"path": f"{'ab'[number % 2]}/{number:03d}.jpg", "digest": digest, "width": number + 1, "height": 9}
        for number, digest in enumerate(digests)
    ]
    return index_of(tmp_path_factory.mktemp("answers"), features, images)


def loop(
    index: Index, query: np.ndarray, folder: str, min_score: float, group: bool, left_out: set[int]
) -> tuple[list[tuple[float, list[int]]], int]:
    """The (score, rows) of all places, and how many images pass."""
    features = index.features_of(range(len(index.paths))).astype(np.float64)
    digests = {number: detail.digest for number, detail in index.facts.of(index.ids.tolist()).items()}

    def is_same(one: int, other: int) -> bool:
        if digests[int(index.ids[one])] and digests[int(index.ids[one])] == digests[int(index.ids[other])]:
            return True
        return bool((features[one] == features[other]).all())

    scores = features @ query
    order = [
        row for row in np.lexsort((np.arange(len(scores)), -scores.round(6))) if scores[row] >= min_score
    ]
    order = [row for row in order if index.paths[row].startswith(folder) and row not in left_out]
    number = len(order)
    places: list[tuple[float, list[int]]] = []
    for row in order:
        if any(is_same(row, other) for other in left_out):
            continue
        place = next((p for p in places if group and any(is_same(row, other) for other in p[1])), None)
        if place is None:
            places.append((scores[row], [row]))
        else:
            place[1].append(row)
    return places, number


@pytest.mark.parametrize(("seed", "left_out"), [(0, ()), (1, ()), (2, (7,)), (3, (0, 5))])
def test_every_page_of_every_ranking_is_that_of_a_loop(
    index: Index, seed: int, left_out: tuple[int, ...]
) -> None:
    feature = random_features(1, seed + 10)[0].astype(np.float32)
    query = Query((("anything", 1.0),), tuple((number, 1.0) for number in left_out))
    rows = {index.row_of(number) for number in left_out}
    for folder, min_score, group in itertools.product(("", "a"), (None, -0.1, 0.3, 2.0), (False, True)):
        settings = {"filters": Filters(folder=folder), "min_score": min_score, "group": group}
        minimum = -np.inf if min_score is None else min_score
        places, passing = loop(index, feature, folder and "a/", minimum, group, rows)
        for k, offset in ((1, 0), (20, 0), (20, 20), (7, 100), (1000, 0), (5, 5000)):
            (answer,) = rank(index, feature[None], [query], k=k, offset=offset, **settings)
            expected = places[offset : offset + k]
            assert [result.row for result in answer.results] == [rows[0] for _, rows in expected]
            assert [result.score for result in answer.results] == pytest.approx(
                [score for score, _ in expected], abs=1e-4
            )
            assert [result.rank for result in answer.results] == [
                *range(offset + 1, offset + 1 + len(expected))
            ]
            assert answer.has_more == (len(places) > offset + k)
            assert answer.passing == (None if min_score is None else passing)
            assert answer.total == NUM_IMAGES
            assert answer.matching == sum(
                path.startswith(folder) and row not in rows for row, path in enumerate(index.paths)
            )


def copies(answer: Answer, index: Index) -> list[set[int]]:
    return [{index.row_of(number) for number in result.duplicates} for result in answer.results]


def test_duplicates_share_a_place_and_are_all_named(tmp_path: Path) -> None:
    features = np.repeat(random_features(40), 18, axis=0)
    images = [{"path": f"{number:03d}.jpg"} for number in range(len(features))]
    index = index_of(tmp_path, features, images)
    query = Query((("anything", 1.0),))
    feature = features[-1:].astype(np.float32)
    (plain,) = rank(index, feature, [query], k=20)
    assert {result.row // 18 for result in plain.results[:18]} == {39}
    (grouped,) = rank(index, feature, [query], k=20, group=True)
    assert len({result.row // 18 for result in grouped.results}) == 20
    assert grouped.has_more
    for result, others in zip(grouped.results, copies(grouped, index), strict=True):
        assert {result.row, *others} == set(range(result.row, result.row + 18))
        assert result.row % 18 == 0, "the first path represents the others"


def test_copies_of_an_image_of_the_query_are_left_out(tmp_path: Path) -> None:
    features = random_features(30)
    features[10:25] = features[3]
    index = index_of(tmp_path, features, [{"path": f"{number:03d}.jpg"} for number in range(30)])
    query = Query(images=((3, 1.0),))
    feature = query_features(Axes(), [query], index)
    for group in (False, True):
        (answer,) = rank(index, feature, [query], k=30, group=group)
        assert {result.row for result in answer.results} == {*range(3), *range(4, 10), *range(25, 30)}


def test_an_answer_has_what_is_known_of_each_image(tmp_path: Path) -> None:
    known = {"path": "a.jpg", "width": 3, "height": 5, "taken": "2024-05-06 07:08:09"}
    index = index_of(tmp_path, np.eye(2), [known, {"path": "b.jpg"}])
    query = Query((("anything", 1.0),))
    (answer,) = rank(index, np.array([[2, 1]], np.float32), [query], k=9)
    first, second = answer.results
    assert vars(first) == {
        **known,
        "rank": 1,
        "row": 0,
        "id": 0,
        "score": 2.0,
        "sighting": None,
        "duplicates": (),
        "others": (),
    }
    assert (second.width, second.height, second.taken) == (None, None, None)
    assert (answer.total, answer.matching, answer.passing, answer.has_more) == (2, 2, None, False)
    assert answer.warnings == []
    (answer,) = rank(index, np.eye(1, 2, dtype=np.float32), [query], k=9, filters=Filters(min_size=(1, 1)))
    assert answer.warnings == [
        "the sizes of 1 images are not known, so that a filter by size leaves them out"
    ]


def test_more_images_than_a_ranking_fetches_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ExactEngine, "num_free", 1000)
    features = random_features(9000)
    index = index_of(tmp_path, features, [{"path": f"{number:04d}.jpg"} for number in range(9000)])
    feature = random_features(1, 5)[0].astype(np.float32)
    exact = features.astype(np.float64) @ feature
    filters = Filters(pattern="*[02468].jpg")
    for min_score in (-2.0, 0.0, 0.1, 0.9):
        settings = {"k": 3, "min_score": min_score}
        (answer,) = rank(index, feature[None], [Query()], **settings)
        assert answer.passing == (exact >= min_score).sum()
        (answer,) = rank(index, feature[None], [Query()], **settings, filters=filters)
        assert answer.passing == (exact[::2] >= min_score).sum()


AXES = {"red": (1.0, 0.0, 0.0), "hat": (0.0, 1.0, 0.0), "bag": (0.0, 0.0, 1.0)}


class Axes:
    """An encoder of sentences that lie on axes."""

    tokenizer = SimpleNamespace(clean=str)

    def encode_texts(self, captions: list[str]) -> Tensor:
        return torch.tensor([AXES[caption] for caption in captions]).reshape(-1, 3)

    def encode_images(self, images: list[object]) -> Tensor:
        assert not images
        return torch.zeros(0, 3)


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Index:
    features = unit(np.array([(1, 1, 0), (1, 0, 1), (0, 1, 1), (1, 2, 3)], np.float64))
    return index_of(tmp_path_factory.mktemp("gallery"), features, [{"path": f"{n}.jpg"} for n in range(4)])


def test_a_query_is_the_weighted_sum_of_its_parts_and_of_feedback(gallery: Index) -> None:
    stored = gallery.features_of(range(4)).astype(np.float64)
    upload = np.array((0.6, 0.0, 0.8), np.float32)
    query = Query(
        (("red", 2.0), ("hat", 0.5)), ((upload, 1.0), (3, 0.25)), ("bag", "hat"), more=(0, 1), less=(2,)
    )
    (feature,) = query_features(Axes(), [query], gallery)
    red, hat, bag = np.eye(3)
    parts = unit(2 * red + 0.5 * hat + upload + 0.25 * stored[3])
    fed_back = unit(parts + 0.75 * (stored[0] + stored[1]) / 2 - 0.15 * stored[2])
    assert feature == pytest.approx(fed_back - 0.5 * (bag + hat) / 2, abs=1e-6)
    assert feature.dtype == np.float32


def test_feedback_alone_is_a_query_and_a_part_alone_is_not_changed(gallery: Index) -> None:
    stored = gallery.features_of(range(4)).astype(np.float64)
    queries = [Query(more=(1,)), Query(images=((2, 7.0),)), Query((("red", 3.0),), less=(0,))]
    more, alone, less = query_features(Axes(), queries, gallery)
    assert more == pytest.approx(unit(stored[1]), abs=1e-6)
    assert (alone == stored[2].astype(np.float32)).all()
    assert less == pytest.approx(unit(np.eye(3)[0] - 0.15 * stored[0]), abs=1e-6)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (Query(), "query 1: expected words that describe a person, found nothing"),
        (Query(less=(1,)), "found nothing"),
        (Query((("", 1.0),)), "found ''"),
        (Query((("red", -1.0),)), "query 1: expected weights of at least 0, one of them above, found -1.0"),
        (Query((("red", float("nan")),)), "expected weights"),
        (Query((("red", 0.0),), ((1, 0.0),)), "found only 0"),
        (Query(images=((9, 1.0),)), "There is no image 9"),
        (Query((("red", 1.0),), more=(-1,)), "There is no image -1"),
    ],
)
def test_queries_that_cannot_be_answered_are_user_errors(gallery: Index, query: Query, message: str) -> None:
    with pytest.raises(UserError, match=message):
        query_features(Axes(), [query], gallery)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["a hat, a bag"], ("a hat", "a bag")),
        (["帽子，背包、眼镜", "un chapeau"], ("帽子", "背包", "眼镜", "un chapeau")),
        (["قبعة، حقيبة؛ نظارة"], ("قبعة", "حقيبة", "نظارة")),
        (["a hat;; a bag ;"], ("a hat", "a bag")),
        ([" , "], (" , ",)),
        ([], ()),
    ],
)
def test_descriptions_are_divided_at_the_commas_of_every_script(
    texts: list[str], expected: tuple[Any, ...]
) -> None:
    assert descriptions(texts) == expected
