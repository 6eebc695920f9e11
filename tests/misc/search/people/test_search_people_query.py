"""Queries of an index of people in photos and videos: which entries share a place, and what is shown."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from misc.search.index import Index
from misc.search.ranking.answer import rank
from misc.search.ranking.filters import Filters
from misc.search.ranking.queries import Query
from misc.search.storage.sightings import Sighting
from options import UserError
from tests.helpers.search import index_of

PEOPLE = {"margin": 0.1}


def sighted(path: str, **of_entry: Any) -> dict[str, Any]:
    return {"path": path, "sighting": Sighting().text} | of_entry


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """200 people of 40 photos; photos 20 to 29 are copies of photos 0 to 9, and some features are equal."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 8)).astype(np.float16)
    images = []
    for number in range(200):
        photo, person = divmod(number, 5)
        if 20 <= photo < 30:
            features[number] = features[number - 100]
        if number % 17 == 0:
            features[number] = features[number // 2]
        digest = (photo - 20 if 20 <= photo < 30 else photo).to_bytes(16, "big")
        images.append(sighted(f"{photo:03d}.jpg/{person},0,9,20", digest=digest if photo % 7 else None))
    return index_of(tmp_path_factory.mktemp("crowd"), features, images, people=PEOPLE)


def loop(
    index: Index, query: np.ndarray, group: bool, left_out: set[int]
) -> list[tuple[int, set[int], set[int]]]:
    """(row, equal rows, other rows of their files) of each place, by comparing each row with each other."""
    features = index.features_of(range(len(index.paths))).astype(np.float64)
    digests = [index.facts.of([number])[number].digest for number in index.ids.tolist()]

    def is_equal(one: int, other: int) -> bool:
        is_copy = digests[one] is not None and digests[one] == digests[other]
        is_same_part = index.paths[one][7:] == index.paths[other][7:]
        return bool((is_copy and is_same_part) or (features[one] == features[other]).all())

    scores = (features @ query).round(5)
    places: list[tuple[int, set[int], set[int]]] = []
    of_file: dict[str, tuple[int, set[int], set[int]]] = {}  # where the best entry of the file is
    for row in np.lexsort((np.arange(len(scores)), -scores)).tolist():
        file = index.paths[row][:7]
        if any(is_equal(row, other) for other in left_out):
            continue
        equal = [place for place in places if any(is_equal(row, one) for one in (place[0], *place[1]))]
        if group and equal:
            equal[0][1].add(row)
            of_file.setdefault(file, equal[0])
        elif file in of_file:
            of_file[file][2].add(row)
        else:
            places.append((row, set(), set()))
            of_file[file] = places[-1]
    return places


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("group", [True, False])
@pytest.mark.parametrize("left_out", [(), (42, 111)])
def test_a_photo_has_one_place_as_a_loop_finds(
    crowd: Index, seed: int, group: bool, left_out: tuple[int, ...]
) -> None:
    feature = np.random.default_rng(seed + 10).normal(size=8).astype(np.float32)
    query = Query((("anything", 1.0),), tuple((number, 1.0) for number in left_out))
    expected = loop(crowd, feature, group, {crowd.row_of(number) for number in left_out})
    assert len(expected) == len({crowd.paths[row][:7] for row, _, _ in expected})
    for k, offset in ((1000, 0), (3, 0), (7, 9), (1000, 50)):
        (answer,) = rank(crowd, feature[None], [query], k=k, offset=offset, group=group, per_file=True)
        assert [result.row for result in answer.results] == [row for row, _, _ in expected][offset:][:k]
        assert answer.has_more == (len(expected) > offset + k)
        if answer.has_more:
            continue  # those that share a place are counted until the last one is filled
        for result, (_, equal, others) in zip(answer.results, expected[offset:], strict=True):
            assert {crowd.row_of(number) for number in result.duplicates} == equal
            assert {crowd.row_of(number) for number in result.others} == others


def test_copies_of_a_photo_are_grouped_and_its_people_are_not(tmp_path: Path) -> None:
    photo, copy, video = b"1" * 16, b"1" * 16, b"2" * 16
    images = [
        sighted("a.jpg/0,0,9,20", digest=photo),
        sighted("a.jpg/9,0,9,20", digest=photo),
        sighted("b.jpg/0,0,9,20", digest=copy),
        sighted("b.jpg/9,0,9,20", digest=copy),
        sighted("v.mp4/0.000s/0,0,9,20", digest=video),
        sighted("v.mp4/1.000s/0,0,9,20", digest=video),
    ]
    features = np.array([(6, 0), (5, 0), (6, 0), (5.5, 0), (4, 0), (3, 0)])  # one feature of the copy differs
    index, feature = index_of(tmp_path, features, images, people=PEOPLE), np.eye(1, 2, dtype=np.float32)
    (plain,) = rank(index, feature, [Query()], k=9)
    assert [result.row for result in plain.results] == [0, 2, 3, 1, 4, 5]
    (grouped,) = rank(index, feature, [Query()], k=9, group=True)
    assert [(r.row, r.duplicates, r.others) for r in grouped.results] == [
        (0, (2,), ()),
        (3, (1,), ()),
        (4, (), ()),
        (5, (), ()),
    ]
    (per_file,) = rank(index, feature, [Query()], k=9, group=True, per_file=True)
    assert [(r.row, r.duplicates, r.others) for r in per_file.results] == [(0, (2,), (3, 1)), (4, (), (5,))]


def test_without_people_each_file_has_its_place_anyway(tmp_path: Path) -> None:
    index = index_of(tmp_path, np.eye(3), [{"path": f"a.jpg/{n},0,9,20"} for n in range(3)])
    (answer,) = rank(index, np.ones((1, 3), np.float32), [Query()], k=9, per_file=True)
    assert [result.row for result in answer.results] == [0, 1, 2], "folders whose names look like regions"


def test_folders_and_patterns_are_of_the_file(tmp_path: Path) -> None:
    paths = ["a.jpg", "a.jpg/1,2,3,4", "cam/b.jpg/1,2,3,4", "cam/c.mp4/0.000s/1,2,3,4", "cam/c.mp4/2.500s"]
    index = index_of(tmp_path, np.eye(5), [sighted(path) for path in paths], people=PEOPLE)

    def passing(**filters: str) -> list[str]:
        return [index.paths[slot] for slot in index.select(Filters(**filters)).slots]

    assert passing(folder="cam") == paths[2:]
    assert passing(pattern="*.jpg") == paths[:3]
    assert passing(pattern="cam/*.mp4") == paths[3:]
    assert passing(pattern="*4") == paths[3:], "the box is no part of the name"
    assert passing(folder="cam/", pattern="b.*") == paths[2:3]
    for folder in ("cam/c.mp4", "cam/c.mp4/2.500s", "a.jpg", "cam/b.jpg/1,2,3,4"):
        with pytest.raises(UserError, match=r"folder: no image is below .*, such as 'cam'"):
            passing(folder=folder)
