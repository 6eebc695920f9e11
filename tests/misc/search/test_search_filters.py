"""Filters: each of them, and several at once, as a loop over the images would have it."""

import fnmatch
import itertools
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from misc.search.index import MAX_SELECTIONS, Index
from misc.search.ranking.filters import Filters
from misc.search.storage.facts import Columns
from options import UserError
from tests.helpers.search import index_of


def seconds(text: str) -> int:
    """Seconds since 1970 of a local time."""
    return int(datetime.fromisoformat(text).timestamp())


def image(path: str, modified: str, taken: str | None, size: tuple[int, int] | None) -> dict[str, Any]:
    width, height = size or (None, None)
    mtime_ns = seconds(modified) * 10**9 + 999_999_999
    return {"path": path, "mtime_ns": mtime_ns, "taken": taken, "width": width, "height": height}


NEW = "2024-05-07 10:00:00"
IMAGES = [
    image("a.jpg", "2024-05-06 07:08:09", None, (64, 128)),
    image("cam1/a.jpg", "2024-05-06 23:59:59", None, (64, 128)),
    image("cam1/b.PNG", NEW, "2024-05-06 07:08:09", (32, 300)),
    image("cam1/day2/a.jpg", NEW, "2024-05-05 23:59:59", (640, 480)),
    image("cam1-old/a.jpg", "2024-05-06 00:00:00", None, None),
    image("cam1.jpg", NEW, "0000:00:00 00:00:00", (1, 1)),
    image("cam10/x[1].jpg", NEW, "2024-05-06 07:08:10", (64, 64)),
    image("cam2/\udcff.jpg", NEW, None, (128, 64)),
    image("Ünï/é.jpg", "2023-01-01 00:00:00", None, (65, 129)),
]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    folder = tmp_path_factory.mktemp("filtered")
    return index_of(folder, np.random.default_rng(0).normal(size=(len(IMAGES), 8)), IMAGES)


def passing(index: Index, **filters: Any) -> set[str]:
    """The paths of the images that are selected."""
    slots = set(index.select(Filters(**filters)).slots.tolist())
    return {path for path, slot in zip(index.paths, index.engine.rows.slots, strict=True) if slot in slots}


def time_of(image: dict[str, Any]) -> str:
    taken = image["taken"]
    if taken and not taken.startswith("0000"):
        return taken
    return str(datetime.fromtimestamp(image["mtime_ns"] // 10**9))


def is_at_least(image: dict[str, Any], size: tuple[int, int]) -> bool:
    return image["width"] is not None and image["width"] >= size[0] and image["height"] >= size[1]


def is_at_most(image: dict[str, Any], size: tuple[int, int]) -> bool:
    return image["width"] is not None and image["width"] <= size[0] and image["height"] <= size[1]


CHOICES = {
    "folder": {
        "": lambda image: True,
        "cam1": lambda image: image["path"].startswith("cam1/"),
        "cam1/day2/": lambda image: image["path"].startswith("cam1/day2/"),
        "./Ünï": lambda image: image["path"].startswith("Ünï/"),
    },
    "pattern": {
        "": lambda image: True,
        "*.jpg": lambda image: image["path"].endswith(".jpg"),
        "[ab].*": lambda image: Path(image["path"]).name in ("a.jpg", "b.PNG"),
        "cam1*/*": lambda image: fnmatch.fnmatchcase(image["path"], "cam1*/*"),
    },
    "since": {
        "": lambda image: True,
        "2024-05-06": lambda image: time_of(image) >= "2024-05-06 00:00:00",
        "2024-05-06T07:08:10": lambda image: time_of(image) >= "2024-05-06 07:08:10",
    },
    "until": {
        "": lambda image: True,
        "2024-05-06": lambda image: time_of(image) <= "2024-05-06 23:59:59",
        "2024-05-06 07:08": lambda image: time_of(image) <= "2024-05-06 07:08:59",
        "9999-12-31": lambda image: True,
    },
    "hours": {
        "": lambda image: True,
        "00:00-07:08": lambda image: time_of(image)[11:16] <= "07:08",
        "23:59-7:07": lambda image: time_of(image)[11:16] >= "23:59" or time_of(image)[11:16] <= "07:07",
    },
    "min_size": {
        None: lambda image: True,
        (64, 0): lambda image: is_at_least(image, (64, 0)),
        (0, 0): lambda image: image["width"] is not None,
    },
    "max_size": {
        None: lambda image: True,
        (128, 128): lambda image: is_at_most(image, (128, 128)),
    },
}


def test_all_combinations_of_filters_pass_what_a_loop_finds(index: Index) -> None:
    combinations = list(itertools.product(*(choices.items() for choices in CHOICES.values())))
    assert len(combinations) > 1000
    sizes = set()
    for combination in combinations:
        given = dict(zip(CHOICES, (value for value, _ in combination), strict=True))
        if given["since"] == "2024-05-06T07:08:10" and given["until"] == "2024-05-06 07:08":
            continue  # nothing is in such a span of time: below
        expected = {image["path"] for image in IMAGES if all(holds(image) for _, holds in combination)}
        assert passing(index, **given) == expected, given
        sizes.add(len(expected))
    assert sizes == {*range(10)}


def test_a_time_with_a_zone_is_the_local_time_of_that_moment(index: Index) -> None:
    moment = datetime.fromisoformat("2024-05-06 07:08:10").astimezone()
    later = passing(index, since=moment.isoformat())
    assert later == passing(index, since="2024-05-06 07:08:10")
    assert "cam10/x[1].jpg" in later
    assert passing(index, until="2024-05-06T07:08Z") <= passing(index, until="2024-05-07")


@pytest.mark.parametrize(
    "zone", ["Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe"]
)
def test_hours_are_local_also_where_clocks_are_changed(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        moments = np.arange(seconds("2023-12-31"), seconds("2025-01-01"), 1_237)
        times = [str(datetime.fromtimestamp(moment))[11:16] for moment in moments.tolist()]
        unknown = np.zeros_like(moments)
        for first, last in (("01:30", "02:29"), ("00:00", "23:59"), ("22:15", "03:00")):
            passes = Filters(hours=f"{first}-{last}").spans_time(Columns(moments, *[unknown] * 3))
            spans = [(first <= t) + (t <= last) + (first > last) == 2 for t in times]
            assert passes.tolist() == spans
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_wildcard_in_brackets_is_a_character(index: Index) -> None:
    assert passing(index, pattern="x[[]1].jpg") == {"cam10/x[1].jpg"}
    assert passing(index, pattern="\udcff.*") == {"cam2/\udcff.jpg"}
    assert passing(index, pattern="*.png") == set(), "as in shells, case counts"


def test_everything_is_selected_without_filters_or_where_all_images_pass(index: Index) -> None:
    assert index.select(Filters()) is index.select(Filters(pattern="*")) is index.engine.rows.all


def test_a_selection_is_made_once_and_the_latest_ones_are_kept(index: Index) -> None:
    first, second = Filters(pattern="a*"), Filters(pattern="b*")
    kept, dropped = index.select(first), index.select(second)
    for number in range(MAX_SELECTIONS - 1):
        index.select(Filters(pattern=str(number)))
        assert index.select(first) is kept
    assert index.select(second) is not dropped


def test_what_an_update_removed_meanwhile_has_no_time_and_no_size(tmp_path: Path) -> None:
    index = index_of(tmp_path / "1", np.eye(2), IMAGES[:2])
    other = index_of(tmp_path / "2", np.eye(1), IMAGES[:1])
    index.facts._folder = other.folder
    assert passing(index, min_size=(1, 1)) == {"a.jpg"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"folder": "cam"},
            "folder: no image is below 'cam'; name a folder of the image root, such as 'cam1'",
        ),
        ({"folder": "../cam1"}, "folder: no image"),
        ({"folder": "a.jpg"}, "folder: no image"),
        ({"since": "yesterday"}, "since: expected a time such as 2024-05-06 or .*, found 'yesterday'"),
        ({"until": "2024-02-30"}, "until: expected a time"),
        ({"until": "20240506"}, "until: expected a time"),
        ({"since": "2024-05-06 25:00"}, "since: expected a time"),
        ({"since": "0001-01-01"}, "since: expected a time"),
        ({"since": "2024-05-07", "until": "2024-05-06"}, "since: '2024-05-07' is after until"),
        *(
            ({"hours": text}, "hours: expected times of day such as 08:00-17:30 or 22:00-06:00, found")
            for text in ("8-17", "08:00", "08:00-24:00", "08:60-09:00", "08:00-17:30:00", "-1:00-02:00")
        ),
        ({"min_size": (-1, 1)}, r"min-size: expected width and height in pixels, found \(-1, 1\)"),
        ({"max_size": (1, 1, 1)}, "max-size: expected width and height"),
        ({"max_size": (1.5, 1)}, "max-size: expected width and height"),
        ({"min_size": (9, 9), "max_size": (99, 8)}, r"min-size: \(9, 9\) is larger than max-size"),
    ],
)
def test_values_that_are_no_filters_are_user_errors(
    index: Index, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        index.select(Filters(**values))
