"""Queries of an index of people in photos and videos: which entries share a place, and what is shown."""

import csv
import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from misc.search.__main__ import main
from misc.search.encoder import Encoder
from misc.search.index import Index
from misc.search.ranking.answer import rank
from misc.search.ranking.filters import Filters
from misc.search.ranking.queries import Query
from misc.search.storage.sightings import Sighting
from options import UserError, to_dict
from tests.helpers.search import Search, index_of

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


RED, GREEN, BLUE, GREY = (200, 0, 0), (0, 150, 0), (0, 0, 200), (120, 120, 120)
BOXES = {RED: (10, 20, 20, 60), GREEN: (50, 20, 20, 60)}  # beside them, the margin is grey, too
TRACK = Sighting(2, 0.75, 12.5, 17.0, 5, ("cam2/walk.mp4/13.000s/6,0,40,90",))
VIDEO = {
    "cam2/walk.mp4/12.500s/5,0,40,90": TRACK,
    "cam2/walk.mp4/20.000s/0,0,30,80": Sighting(2, 0.5, 20.0, 21.0, 2),
}


@pytest.fixture(scope="module")
def sightings(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Two people in each of a photo and its copy, a photo without any, and two people of a video (a file that
    cannot be read: what is known of them is in the index).
    """
    root = tmp_path_factory.mktemp("sighted")
    photo = Image.new("RGB", (100, 100), GREY)
    for color, (left, top, width, height) in BOXES.items():
        photo.paste(color, (left, top, left + width, top + height))
    (root / "cam1").mkdir()
    (root / "cam2").mkdir()
    photo.save(root / "cam1/a.png")
    shutil.copy(root / "cam1/a.png", root / "cam2/b.png")
    Image.new("RGB", (30, 40), BLUE).save(root / "cam2/nobody.png")
    (root / "cam2/walk.mp4").write_bytes(b"no video")
    crops = {color: photo.crop((x - 2, y - 6, x + w + 2, y + h + 6)) for color, (x, y, w, h) in BOXES.items()}
    views, images = [], []
    for path in ("cam1/a.png", "cam2/b.png"):
        for color, box in BOXES.items():
            views.append(crops[color])
            of_entry = {"digest": b"1" * 16, "width": box[2], "height": box[3]}
            text = Sighting(2, 0.9).text
            images.append({"path": f"{path}/{','.join(map(str, box))}", "sighting": text, **of_entry})
    views.append(Image.open(root / "cam2/nobody.png"))
    images.append(sighted("cam2/nobody.png", width=30, height=40))
    for path, sighting in VIDEO.items():
        views.append(Image.effect_noise((40, 90), 60 + len(views)).convert("RGB"))
        taken = "2024-05-06 23:30:00"
        images.append({"path": path, "sighting": sighting.text, "taken": taken, "width": 40, "height": 90})
    origin = {"image_root": str(root), "checkpoint": str(encoder.checkpoint), "identity": encoder.identity}
    origin |= {"options": to_dict(encoder.options), "people": PEOPLE}
    return index_of(root.parent / "index of people", encoder.encode_images(views).numpy(), images, **origin)


@pytest.fixture
def query(sightings: Index, search: Search) -> Callable[..., dict[str, Any]]:
    """query(*arguments): the answer to one query of `sightings`."""
    return lambda *arguments: search(*arguments, folder=sightings.folder)[0]


def test_json_csv_and_table_say_who_was_found_where(
    sightings: Index, query: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    found = {result["path"]: result for result in query("a man", "--no-group")["results"]}
    assert sorted(found) == sightings.paths
    track = found["cam2/walk.mp4/12.500s/5,0,40,90"]
    expected = {"image": "cam2/walk.mp4", "box": [5, 0, 40, 90], "time": 12.5, "first": 12.5, "last": 17.0}
    expected |= {"detection": 0.75, "crops": ["cam2/walk.mp4/13.000s/6,0,40,90"], "width": 40, "height": 90}
    expected |= {"missing": False, "duplicates": [], "taken": "2024-05-06 23:30:00"}
    assert {name: track[name] for name in expected} == expected
    person, whole = found["cam1/a.png/50,20,20,60"], found["cam2/nobody.png"]
    nothing = {"time": None, "first": None, "last": None, "crops": []}
    for result, image, box, detection in (
        (person, "cam1/a.png", [50, 20, 20, 60], 0.9),
        (whole, "cam2/nobody.png", None, None),
    ):
        assert {"image": image, "box": box, "detection": detection} | nothing == {
            name: result[name] for name in ("image", "box", "detection", *nothing)
        }
    assert main(["query", str(sightings.folder), "a man", "--no-group", "--csv"]) == 0
    rows = {row["path"]: row for row in csv.DictReader(io.StringIO(capsys.readouterr().out))}
    assert rows.keys() == found.keys()
    row = rows["cam2/walk.mp4/12.500s/5,0,40,90"]
    assert (row["image"], row["box"], row["time"]) == ("cam2/walk.mp4", "5,0,40,90", "12.5")
    assert (row["first"], row["last"], row["detection"], row["crops"]) == ("12.5", "17.0", "0.75", "1")
    assert rows["cam2/nobody.png"]["box"] == rows["cam2/nobody.png"]["time"] == ""
    assert main(["query", str(sightings.folder), "a man", "--hours", "23:30-23:30"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert f"  {track['score']:.4f}  cam2/walk.mp4/12.500s/5,0,40,90  12.5 to 17.0 s" in "".join(table)
    assert table[-1] == "2 of 7 entries pass the filters"


def test_a_photo_or_a_video_has_one_result_and_names_the_others(
    sightings: Index, query: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    every, per_file = query("a man")["results"], query("a man", "--per-file")["results"]
    assert [len(result["duplicates"]) for result in every if result["image"] == "cam1/a.png"] == [1, 1]
    assert "others" not in every[0]
    assert [result["image"] for result in per_file] == list(dict.fromkeys(r["image"] for r in every))
    photo = next(result for result in per_file if result["image"] == "cam1/a.png")
    copy = photo["path"].replace("cam1/a.png", "cam2/b.png")
    assert photo["duplicates"] == [copy]
    left = {path for path in sightings.paths if "a.png" in path or "b.png" in path} - {photo["path"], copy}
    assert set(photo["others"]) == left
    command = ["query", str(sightings.folder), "a man", "--per-file"]
    assert main(command) == 0
    assert f"{photo['path']}  (+1 duplicates)  (+2 others)" in capsys.readouterr().out
    assert main([*command, "--csv"]) == 0
    rows = {row["path"]: row for row in csv.DictReader(io.StringIO(capsys.readouterr().out))}
    assert (rows[photo["path"]]["duplicates"], rows[photo["path"]]["others"]) == ("1", "2")


def test_files_are_listed_and_copied_once(
    sightings: Index, query: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    results = query("a man", "--no-group")["results"]
    assert main(["query", str(sightings.folder), "a man", "--no-group", "--files-only"]) == 0
    files = list(dict.fromkeys(result["image"] for result in results))
    assert capsys.readouterr().out.splitlines() == [str(sightings.image_root / file) for file in files]
    query("a man", "--no-group", "--copy", str(tmp_path / "copied"))
    first = {file: next(r["rank"] for r in results if r["image"] == file) for file in files}
    expected = {f"{rank}-{Path(file).name}": file for file, rank in first.items()}
    assert {file.name for file in (tmp_path / "copied").iterdir()} == expected.keys()
    for name, file in expected.items():
        assert (tmp_path / "copied" / name).read_bytes() == (sightings.image_root / file).read_bytes()


def test_crops_are_what_the_model_saw(
    sightings: Index, query: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    photos = ("a man", "--pattern", "*.png", "--no-group")
    results = query(*photos, "--copy", str(tmp_path / "crops"), "--crops")["results"]
    names = {}
    for result in results:
        box = f"-{','.join(map(str, result['box']))}" if result["box"] else ""
        names[f"{result['rank']}-{Path(result['image']).stem}{box}.jpg"] = result
    assert {file.name for file in (tmp_path / "crops").iterdir()} == names.keys()
    for name, result in names.items():
        with Image.open(tmp_path / "crops" / name) as crop:
            if result["box"] is None:
                assert crop.size == (30, 40)
                continue
            assert crop.size == (24, 72), "a tenth of the width and of the height on each side"
            color = RED if result["box"][0] == 10 else GREEN
            assert np.abs(np.subtract(crop.getpixel((12, 36)), color)).max() < 8
            assert np.abs(np.subtract(crop.getpixel((12, 1)), GREY)).max() < 8
    assert main(["query", str(sightings.folder), *photos, "--copy", str(tmp_path / "crops"), "--crops"]) == 2
    assert "nothing is overwritten" in capsys.readouterr().err


def test_figures_and_explanations_show_the_person(
    sightings: Index, query: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    query(
        "a man", "--folder", "cam1", "--figure", str(tmp_path / "a.png"), "--explain", str(tmp_path / "why")
    )
    with Image.open(tmp_path / "a.png") as figure:
        pixels = np.asarray(figure, np.int64).reshape(-1, 3)
    # The crop is as high as a cell, 80 x 240 pixels, and the person takes 10/12 of it each way.
    for color in (RED, GREEN):
        shown = (abs(pixels - color).max(axis=1) < 9).sum()
        assert shown == pytest.approx(80 * 240 * (10 / 12) ** 2, rel=0.1)
    sizes = {Image.open(file).size for file in (tmp_path / "why").iterdir()}
    assert sizes == {(24, 72)}


def test_people_of_videos_are_shown_at_their_time(encoder: Encoder, search: Search, tmp_path: Path) -> None:
    av = pytest.importorskip("av", reason="no videos: pip install av")
    shades = [30, 60, 90, 120, 150, 180]
    with av.open(str(tmp_path / "walk.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=2)
        (stream.width, stream.height), stream.pix_fmt = (64, 96), "yuv420p"
        for shade in shades:
            frame = Image.new("RGB", (64, 96), (shade, shade, shade))
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode(None))
    images = [sighted("walk.mp4/0.500s/10,10,20,60"), sighted("walk.mp4/2.000s/20,10,30,60")]
    origin = {"checkpoint": str(encoder.checkpoint), "identity": encoder.identity, "people": PEOPLE}
    origin |= {"options": to_dict(encoder.options), "image_root": str(tmp_path)}
    text = encoder.encode_texts(["a man"]).numpy()
    features = np.concatenate([text, encoder.encode_texts(["a woman"]).numpy()])
    index = index_of(tmp_path / "index", features, images, **origin)
    outputs = {"--copy": tmp_path / "crops", "--figure": tmp_path / "a.png", "--explain": tmp_path / "why"}
    flags = [str(part) for pair in outputs.items() for part in pair]
    search("a man", "--crops", *flags, folder=index.folder)
    expected = {
        "1-walk-0.500s-10,10,20,60.jpg": ((24, 72), 60),
        "2-walk-2.000s-20,10,30,60.jpg": ((36, 72), 150),
    }
    assert {file.name for file in (tmp_path / "crops").iterdir()} == expected.keys()
    with Image.open(tmp_path / "a.png") as figure:
        pixels = np.asarray(figure.convert("L"), np.int64)
    for number, (name, (size, shade)) in enumerate(expected.items(), start=1):
        with (
            Image.open(tmp_path / "crops" / name) as crop,
            Image.open(tmp_path / f"why/1-{number}.png") as why,
        ):
            assert crop.size == why.size == size
            assert np.asarray(crop).mean() == pytest.approx(shade, abs=4)
        assert (abs(pixels - shade) < 5).sum() > 0.9 * 80 * 240


def test_people_are_named_as_the_table_does_and_files_of_one_by_their_name(
    sightings: Index, query: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    person = "cam1/a.png/50,20,20,60"
    (best, *_) = query("--like", person)["results"]
    assert person in (best["path"], *best["duplicates"])
    assert best["score"] == pytest.approx(1, abs=2e-3)
    by_file = query("--like", str(sightings.image_root / person))["results"]
    assert by_file[0] == best
    assert query("--unlike", "cam2/nobody.png", "a man")["query"] == "a man, unlike [cam2/nobody.png]"
    capsys.readouterr()
    for name, message in (
        ("cam1/a.png", "'cam1/a.png' has 2 people; name one of 'cam1/a.png/10,20,20,60', 'cam1/a.png/50,20,"),
        ("cam2/walk.mp4", "'cam2/walk.mp4' has 2 people"),
        ("cam2/walk.mp4/12.500s", "is not an image of the index"),
        ("cam2", "is not an image of the index"),
        ("cam1/a.png/1,2,3,4", "is not an image of the index"),
    ):
        assert main(["query", str(sightings.folder), "--like", name]) == 2
        assert message in capsys.readouterr().err


def test_a_file_of_one_person_is_a_name_of_theirs(tmp_path: Path) -> None:
    from misc.search.commands.asking import id_of

    index = index_of(tmp_path, np.eye(2), [sighted("a.jpg/1,2,3,4"), sighted("b.jpg/1,2,3,4")], people=PEOPLE)
    assert [id_of(index, name, "like") for name in ("a.jpg", "b.jpg", "b.jpg/1,2,3,4")] == [0, 1, 1]


def test_what_cannot_be_shown_is_told(
    sightings: Index, search: Search, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for flags in (["--figure", str(tmp_path / "a.png")], ["--copy", str(tmp_path / "crops"), "--crops"]):
        caplog.clear()
        search("a man", "--folder", "cam2", "-k", "9", *flags, folder=sightings.folder)
        assert len(caplog.messages) == 2
        assert all("walk.mp4' " in message for message in caplog.messages)
    assert len(list((tmp_path / "crops").iterdir())) == 3, "the others"


def test_flags_for_people_have_no_effect_without_them(
    index: Index, sightings: Index, search: Search, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (plain,) = search("a man")
    columns = ["rank", "score", "image", "missing", "width", "height", "taken", "duplicates"]
    assert list(plain["results"][0]) == columns
    for flag in ("--per-file", "--crops"):
        caplog.clear()
        (answer,) = search("a man", flag, "--copy", str(tmp_path / flag))
        assert caplog.messages == [f"{flag} has no effect: the index has whole images, no people in them"]
        assert [result["image"] for result in answer["results"]] == [r["image"] for r in plain["results"]]
        assert {file.suffix for file in (tmp_path / flag).iterdir()} == {".png"}, "the files"
    caplog.clear()
    search("a man", "--crops", folder=sightings.folder)
    assert caplog.messages == ["--crops has no effect without --copy"]


def test_a_file_that_is_gone_is_reported_once(
    sightings: Index, search: Search, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(sightings.folder, tmp_path / "index")
    file = sightings.image_root / "cam2/walk.mp4"
    file.rename(tmp_path / "walk.mp4")
    try:
        (answer,) = search("a man", folder=tmp_path / "index")
    finally:
        (tmp_path / "walk.mp4").rename(file)
    assert [r["image"] for r in answer["results"] if r["missing"]] == ["cam2/walk.mp4"] * 2
    assert caplog.messages == ["1 of the files no longer exist; run the index command again"]
