"""The server of an index of people: crops, scenes, videos by ranges of bytes, details, exports."""

import csv
import io
import json
import shutil
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.images.regions import place_of
from misc.search.explain import explain, overlay
from misc.search.web.access import Access
from misc.search.web.cache import DiskCache
from misc.search.web.gate import HEADERS
from misc.search.web.page import Page
from misc.search.web.pictures import (
    FRAMES_HELD,
    THUMBNAIL,
    Pictures,
    PixelBudget,
    Source,
    picture_name,
)
from tests.helpers.search import FRAME_RATE, HOURS, MARGIN, SPAN, ask, people_page, running

PHOTO, NOBODY = "entrance/0.png/20,60,50,150", "yard/nobody.png"
BEST = "yard/walk.mp4/2.400s/116,50,50,150"
SENTENCE = "a woman in a red coat"


@pytest.fixture(scope="module")
def server(page_of_people: Page) -> Iterator[str]:
    with running(page_of_people) as address:
        yield address


@pytest.fixture
def video() -> str:
    pytest.importorskip("av", reason="no videos: pip install av")
    return BEST


def id_of(page: Page, path: str) -> int:
    return int(page.index.ids[page.index.paths.index(path)])


def search(server: str, **asked: Any) -> list[dict[str, Any]]:
    status, answer = ask(f"{server}/api/search", {"text": SENTENCE, "k": 50, **asked})
    assert status == 200, answer
    return json.loads(answer)["results"]


def details(server: str, number: int) -> dict[str, Any]:
    return json.loads(ask(f"{server}/api/images/{number}")[1])


def picture(server: str, number: int, part: str) -> np.ndarray:
    status, content = ask(f"{server}/api/images/{number}/{part}")
    assert status == 200, content
    return pixels(Image.open(io.BytesIO(content)))


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"), np.float32)


def expect_alike(found: np.ndarray, expected: np.ndarray, mean: float = 3) -> None:
    """Up to what JPEG, and for a frame H.264, lose."""
    assert found.shape == expected.shape
    assert np.abs(found - expected).mean() < mean


def test_results_say_where_people_are(page_of_people: Page, server: str) -> None:
    found = {result["path"]: result for result in search(server)}
    assert set(found) == set(page_of_people.index.paths)
    photo, nobody = found[PHOTO], found[NOBODY]
    expected = {"file": "entrance/0.png", "video": False, "box": [20, 60, 50, 150], "detection": 0.9}
    assert expected.items() <= photo.items()
    assert [photo[name] for name in ("time", "first", "last")] == [None] * 3
    assert {"file": NOBODY, "video": False, "box": None, "detection": None}.items() <= nobody.items()


def test_a_photo_can_have_one_place_which_names_its_other_people(server: str) -> None:
    all_, by_file = search(server), search(server, per_file=True)
    best: dict[str, dict[str, Any]] = {}
    for result in all_:
        best.setdefault(result["file"], result)
    assert [result["id"] for result in by_file] == [result["id"] for result in best.values()]
    for result in by_file:
        others = {one["id"]: one["path"] for one in all_ if one["file"] == result["file"]}
        others.pop(result["id"])
        assert result["num_others"] == len(others)
        assert {one["id"]: one["path"] for one in result["others"]} == others
        assert {one["file"] for one in result["others"]} <= {result["file"]}
        for number, path in others.items():
            found = details(server, number)
            assert (found["path"], found["file"]) == (path, result["file"])
    assert {result["num_others"] for result in all_} == {0}


@pytest.mark.parametrize(
    ("hours", "wanted"),
    [("08:00-12:30", {9, 12}), ("18:00-06:30", {18, 21, 6}), ("07:00-08:00", set())],
)
def test_hours_of_the_day_are_a_filter(server: str, hours: str, wanted: set[int]) -> None:
    expected = {file for file, hour in HOURS.items() if hour in wanted}
    found = {result["file"] for result in search(server, filters={"hours": hours})}
    assert found == expected - (set() if find_spec("av") else {"yard/walk.mp4"})


def test_results_of_whole_images_do_not(page: Page) -> None:
    with running(page) as server:
        result = search(server)[0]
        about = json.loads(ask(f"{server}/api/about")[1])
        found = details(server, result["id"])
        for part in ("view?crop=1", "video"):
            assert ask(f"{server}/api/images/{result['id']}/{part}")[0] == 404
    names = ("file", "video", "box", "time", "first", "last", "detection")
    assert [result[name] for name in names] == [found[name] for name in names] == [None] * len(names)
    assert found["scene"] == [result["width"], result["height"]]
    assert (about["has_people"], about["has_videos"]) == (False, False)


def test_of_a_track_results_have_its_span_and_details_its_other_crops(
    page_of_people: Page, server: str, video: str
) -> None:
    (result,) = (one for one in search(server) if one["path"] == video)
    expected = {"file": "yard/walk.mp4", "video": True, "time": 2.4, "first": SPAN[0], "last": SPAN[1]}
    assert expected.items() <= result.items()
    found = details(server, result["id"])
    assert expected.items() <= found.items()
    assert found["scene"] == [320, 240]
    crops = [{"time": n / FRAME_RATE, "box": [20 + 8 * n, 50, 50, 150]} for n in (8, 16)]
    assert found["crops"] == crops
    about = json.loads(ask(f"{server}/api/about")[1])
    assert (about["has_people"], about["has_videos"]) == (True, True)
    assert about["folders"] == ["entrance", "yard"]


def test_pictures_are_the_crop_with_its_margin_and_the_scene(page_of_people: Page, server: str) -> None:
    number, root = id_of(page_of_people, PHOTO), page_of_people.index.image_root
    scene = Image.open(root / "entrance/0.png")
    crop = pixels(scene.crop((20 - 5, 60 - 15, 70 + 5, 210 + 15)))
    for part in ("thumbnail", "view"):
        expect_alike(picture(server, number, part), crop)
    expect_alike(picture(server, number, "scene"), pixels(scene))
    found = details(server, number)
    assert [found[name] for name in ("scene", "width", "height")] == [[320, 240], 50, 150]
    assert found["taken"] == f"2024-05-06 {HOURS['entrance/0.png']:02d}:30:00"
    whole = id_of(page_of_people, NOBODY)
    for part in ("thumbnail", "view", "scene"):
        expect_alike(picture(server, whole, part), pixels(Image.open(root / NOBODY)))


def test_a_photo_that_is_turned_is_cropped_upright_and_a_large_one_is_reduced(
    people: Path, tmp_path: Path
) -> None:
    page = people_page(people, tmp_path)
    path, number = page.index.image_root / "entrance/0.png", id_of(page, PHOTO)
    upright = Image.effect_mandelbrot((3000, 2400), (-2, -1.5, 1, 1.5), 100).convert("RGB")
    tags = Image.Exif()
    tags[0x0112] = 6  # the camera was turned by a quarter
    upright.transpose(Image.Transpose.ROTATE_90).save(path, exif=tags)
    with running(page) as server:
        expect_alike(picture(server, number, "view"), pixels(upright.crop((15, 45, 75, 225))))
        assert picture(server, number, "scene").shape == (1600, 2000, 3)
        assert details(server, number)["scene"] == [3000, 2400]


def test_a_photo_that_became_smaller_than_its_boxes_cannot_be_read(people: Path, tmp_path: Path) -> None:
    page = people_page(people, tmp_path)
    path, number = page.index.image_root / "entrance/0.png", id_of(page, PHOTO)
    Image.new("RGB", (12, 30)).save(path)
    with running(page) as server:
        for part in ("thumbnail", "view"):
            status, content = ask(f"{server}/api/images/{number}/{part}")
            expected = "the box (20, 60, 50, 150) is outside of its image of 12 x 30 pixels"
            assert (status, json.loads(content)) == (404, {"error": expected})


def test_pictures_of_a_track_are_its_frames(page_of_people: Page, server: str, video: str) -> None:
    number = id_of(page_of_people, video)
    frames = all_frames(page_of_people.index.image_root / "yard/walk.mp4")
    for crop, frame in ((0, 12), (1, 8), (2, 16)):
        scene = Image.fromarray(frames[frame])
        left = 20 + 8 * frame
        expected = scene.crop((left - 5, 50 - 15, left + 55, 200 + 15))
        expect_alike(picture(server, number, f"scene?crop={crop}"), pixels(scene))
        expect_alike(picture(server, number, f"view?crop={crop}"), pixels(expected))
    for crop, status in ((3, 404), (-1, 400), ("x", 400)):
        assert ask(f"{server}/api/images/{number}/view?crop={crop}")[0] == status
    assert ask(f"{server}/api/images/{id_of(page_of_people, PHOTO)}/view?crop=1")[0] == 404


def all_frames(path: Path) -> list[np.ndarray]:
    import av

    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_cached_pictures_of_a_file_differ_by_place_and_margin(page_of_people: Page, video: str) -> None:
    root = page_of_people.index.image_root
    paths = ["entrance/0.png", PHOTO, "entrance/0.png/20,60,50,151", video, video.replace("2.400", "2.600")]
    sources = [Source(root, place_of(path), margin) for path in paths for margin in (0.1, 0.2)]
    sources += [source.scene for source in sources]
    names = {picture_name(source, size) for source in sources for size in (THUMBNAIL, (2000, 2000))}
    # A whole photo, and a whole frame at each of two times, have no margin.
    assert len(names) == 2 * (2 * 4 + 3)
    assert all("/" not in name for name in names)


def test_the_budget_counts_the_whole_scene(
    page_of_people: Page, tmp_path: Path, video: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[int] = []
    monkeypatch.setattr(PixelBudget, "taken", lambda self, number: nullcontext(counted.append(number)))
    pictures, root = Pictures(DiskCache(tmp_path), "error"), page_of_people.index.image_root
    for path in (PHOTO, video):
        pictures.load(Source(root, place_of(path), MARGIN), THUMBNAIL)
    assert counted == [320 * 240, FRAMES_HELD * 320 * 240]


def test_an_explanation_is_of_the_crop(page_of_people: Page, server: str) -> None:
    crop = Image.open(page_of_people.index.image_root / "entrance/0.png").crop((15, 45, 75, 225))
    expected = overlay(crop, explain(page_of_people.encoder, crop, SENTENCE))
    number = id_of(page_of_people, PHOTO)
    status, content = ask(f"{server}/api/images/{number}/explain", {"text": SENTENCE})
    assert status == 200
    expect_alike(pixels(Image.open(io.BytesIO(content))), pixels(expected))


def test_an_explanation_of_another_crop_of_a_track_is_of_that(
    page_of_people: Page, server: str, video: str
) -> None:
    frame = all_frames(page_of_people.index.image_root / "yard/walk.mp4")[16]
    crop = Image.fromarray(frame).crop((20 + 8 * 16 - 5, 50 - 15, 20 + 8 * 16 + 55, 200 + 15))
    expected = overlay(crop, explain(page_of_people.encoder, crop, SENTENCE))
    address = f"{server}/api/images/{id_of(page_of_people, video)}/explain"
    found, of_best = (ask(f"{address}{query}", {"text": SENTENCE})[1] for query in ("?crop=2", ""))
    expect_alike(pixels(Image.open(io.BytesIO(found))), pixels(expected))
    assert found != of_best
    assert ask(f"{address}?crop=3", {"text": SENTENCE})[0] == 404


def get(address: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers)) as answer:
            return answer.status, {k.lower(): v for k, v in answer.headers.items()}, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, {k.lower(): v for k, v in error.headers.items()}, error.read()


def test_a_video_is_served_by_ranges_of_bytes(page_of_people: Page, server: str, video: str) -> None:
    content = (page_of_people.index.image_root / "yard/walk.mp4").read_bytes()
    size, address = len(content), f"{server}/api/images/{id_of(page_of_people, video)}/video"
    status, headers, body = get(address)
    assert (status, body) == (200, content)
    assert (headers["content-type"], headers["accept-ranges"]) == ("video/mp4", "bytes")
    assert headers["content-disposition"] == "inline; filename*=utf-8''walk.mp4"
    assert HEADERS.items() <= headers.items()
    assert "media-src 'self'" in headers["content-security-policy"]
    for asked, start, end in (
        ("0-", 0, size),
        ("0-0", 0, 1),
        ("100-199", 100, 200),
        (f"{size - 5}-", size - 5, size),
        ("-7", size - 7, size),
        (f"-{10 * size}", 0, size),
        (f"10-{10 * size}", 10, size),
    ):
        status, headers, body = get(address, range=f"bytes={asked}")
        assert (status, body) == (206, content[start:end]), asked
        assert headers["content-range"] == f"bytes {start}-{end - 1}/{size}"
        assert HEADERS.items() <= headers.items()
    status, headers, body = get(address, range="bytes=0-3,100-103,-2")
    assert status == 206
    assert headers["content-type"].startswith("multipart/byteranges; boundary=")
    for start, end in ((0, 4), (100, 104), (size - 2, size)):
        assert f"bytes {start}-{end - 1}/{size}\r\n\r\n".encode() + content[start:end] + b"\r\n" in body
    status, headers, body = get(address, range=f"bytes={size}-")
    assert (status, headers["content-range"]) == (416, f"bytes */{size}")
    assert json.loads(body) == {"error": "range: expected bytes of the file"}
    assert HEADERS.items() <= headers.items()
    status, headers, body = get(address, range="pages=1-2")
    assert (status, json.loads(body).keys()) == (400, {"error"})
    assert headers["content-type"] == "application/json"
    tag = get(address)[1]["etag"]
    assert get(address, range="bytes=1-2", **{"if-range": tag})[0] == 206
    assert get(address, range="bytes=1-2", **{"if-range": '"another"'})[0] == 200


def test_only_videos_of_the_index_are_served(people: Path, tmp_path: Path, video: str) -> None:
    page = people_page(people, tmp_path)
    number, root = id_of(page, video), page.index.image_root
    shutil.copy(root / "yard/walk.mp4", root / "yard/other.mp4")
    with running(page) as server:
        for other in (id_of(page, PHOTO), 10_000, "yard%2Fother.mp4", "..%2Findex.db", -1):
            assert get(f"{server}/api/images/{other}/video")[0] in (400, 404)
        for part in ("other.mp4", "../other.mp4", "..%2fother.mp4"):
            assert get(f"{server}/api/images/{number}/video/{part}")[0] == 404
        (root / "yard/walk.mp4").unlink()
        for part in ("video", "file", "thumbnail", "view", "scene"):
            status, _, answer = get(f"{server}/api/images/{number}/{part}", range="bytes=0-1")
            assert status == 404
            assert "walk.mp4" in json.loads(answer)["error"]
        assert details(server, number)["scene"] is None


def test_nothing_of_people_is_served_without_the_password(page_of_people: Page, video: str) -> None:
    with running(page_of_people, access=Access("long enough")) as server:
        for part in ("", "/scene", "/video", "/view?crop=1"):
            status, headers, _ = get(f"{server}/api/images/{id_of(page_of_people, video)}{part}")
            assert status == 401
            assert HEADERS.items() <= headers.items()


def test_a_damaged_video_is_an_error_of_one_line(people: Path, tmp_path: Path, video: str) -> None:
    page = people_page(people, tmp_path)
    (page.index.image_root / "yard/walk.mp4").write_bytes(b"no video")
    with running(page) as server:
        for part in ("thumbnail", "view", "scene"):
            status, _, answer = get(f"{server}/api/images/{id_of(page, video)}/{part}")
            assert status == 404
            assert "walk.mp4" in json.loads(answer)["error"]


def test_the_files_of_people_are_exported_once_and_their_crops_each(
    page_of_people: Page, server: str, video: str
) -> None:
    root = page_of_people.index.image_root
    paths = [PHOTO, "entrance/0.png/200,40,60,160", NOBODY, video]
    ids = [id_of(page_of_people, path) for path in paths]
    files = _archive(server, ids, "zip")
    assert files.namelist() == ["entrance/0.png", NOBODY, "yard/walk.mp4"]
    assert all(files.read(name) == (root / name).read_bytes() for name in files.namelist())
    crops = _archive(server, ids, "crops")
    assert crops.namelist() == [f"{path}.jpg" for path in paths]
    scene = Image.open(root / "entrance/0.png")
    found = Image.open(io.BytesIO(crops.read(f"{PHOTO}.jpg")))
    expect_alike(pixels(found), pixels(scene.crop((15, 45, 75, 225))))


def _archive(server: str, ids: list[int], kind: str) -> zipfile.ZipFile:
    status, content = ask(f"{server}/api/export", {"ids": ids, "as": kind})
    assert status == 200
    archive = zipfile.ZipFile(io.BytesIO(content))
    assert archive.testzip() is None
    return archive


def test_crops_that_cannot_be_made_are_named_in_the_archive(people: Path, tmp_path: Path) -> None:
    page = people_page(people, tmp_path)
    (page.index.image_root / "entrance/0.png").write_bytes(b"no image")
    with running(page) as server:
        archive = _archive(server, [id_of(page, PHOTO), id_of(page, NOBODY)], "crops")
    assert archive.namelist() == [f"{NOBODY}.jpg", "not exported.txt"]
    assert archive.read("not exported.txt").decode().startswith(PHOTO)


def test_a_table_of_people_says_where_they_are(page_of_people: Page, server: str, video: str) -> None:
    ids = [id_of(page_of_people, path) for path in (video, PHOTO, NOBODY)]
    body = {"ids": ids, "as": "csv", "query": {"text": SENTENCE}}
    rows = list(csv.DictReader(io.StringIO(ask(f"{server}/api/export", body)[1].decode("utf-8-sig"))))
    assert [row["path"] for row in rows] == [video, PHOTO, NOBODY]
    names = ("image", "box", "time", "first", "last", "detection")
    assert [[row[name] for name in names] for row in rows] == [
        ["yard/walk.mp4", "116,50,50,150", "2.4", "1.0", "4.0", "0.8"],
        ["entrance/0.png", "20,60,50,150", "", "", "", "0.9"],
        [NOBODY, "", "", "", "", ""],
    ]
