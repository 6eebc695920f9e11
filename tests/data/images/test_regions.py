"""Regions of images, by their paths: decoded, cached, checked and written into shards as images are."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import data.images.decode
from data.annotations import missing_images
from data.check.images import EXTREME, UNREADABLE, find_oddities
from data.columns.records import Records
from data.images.cache import ImageCache
from data.images.contained import split_path
from data.images.decode import BadImageError, load_image
from data.images.regions import region_of, region_path, whole_image, with_margin
from data.shards.write import Shape, write_shards
from data.types import Record


@pytest.fixture
def frame(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def pixels_of(path: Path | str) -> np.ndarray:
    return np.array(load_image(path))


def test_the_path_of_a_region_is_that_of_its_image_and_the_box_in_whole_pixels() -> None:
    assert region_path("f/a.jpg", (1.4, 2.6, 10.2, 0.1)) == "f/a.jpg/1,3,11,1"
    assert region_of("f/a.jpg/1,-3,11,1") == ("f/a.jpg", (1, -3, 11, 1))
    assert region_of("f/a.jpg") is None
    assert region_of("f/1,2,3,4") is None
    assert whole_image("f/a.jpg/1,3,11,1") == whole_image("f/a.jpg") == "f/a.jpg"
    assert split_path("f/a.jpg/1,3,11,1") == ("f", "a.jpg")
    assert with_margin("f/a.jpg/10,20,30,40", 0.1) == "f/a.jpg/7,16,36,48"
    assert with_margin("f/a.jpg", 0.1) == "f/a.jpg"


@pytest.mark.parametrize(
    ("box", "rows", "columns"),
    [("10,20,30,15", slice(20, 35), slice(10, 40)), ("-5,-5,20,70", slice(0, 60), slice(0, 15))],
)
def test_a_region_has_the_pixels_of_its_image_within_it(
    frame: Path, box: str, rows: slice, columns: slice
) -> None:
    assert (pixels_of(f"{frame}/{box}") == pixels_of(frame)[rows, columns]).all()


def test_a_region_is_of_the_upright_image(tmp_path: Path) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.png", exif=exif)
    assert (pixels_of(tmp_path / "a.png/5,10,20,30") == pixels_of(tmp_path / "a.png")[10:40, 5:25]).all()


def test_an_image_is_decoded_once_for_regions_that_follow_each_other_and_again_when_it_changed(
    frame: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    original = data.images.decode.Image.open
    monkeypatch.setattr(
        data.images.decode.Image, "open", lambda *given: opened.append(given) or original(*given)
    )
    for left in range(5):
        load_image(f"{frame}/{left},0,10,10")
    assert len(opened) == 1
    Image.new("RGB", (20, 20), "red").save(frame)
    assert (pixels_of(f"{frame}/0,0,10,10") == (255, 0, 0)).all()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a.png/80,0,5,5", "the region is outside of the image of 80 x 60 pixels"),
        ("a.png/0,0,0,5", "the region is outside of the image of 80 x 60 pixels"),
        ("b.png/0,0,5,5", "it is not there"),
        ("c.png/0,0,5,5", "it is a text that begins"),
    ],
)
def test_a_region_that_cannot_be_read_is_named(frame: Path, name: str, reason: str) -> None:
    (frame.parent / "c.png").write_bytes(b"what is this")
    with pytest.raises(BadImageError) as error:
        load_image(frame.parent / name)
    assert name in str(error.value)
    assert error.value.reason.startswith(reason)


def test_what_a_truncated_image_lacks_is_an_error_also_after_it_was_accepted(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-2000])
    for _ in range(2):
        assert load_image(f"{path}/0,0,9,9", "accept").size == (9, 9)
        with pytest.raises(BadImageError, match="truncated"):
            load_image(f"{path}/0,0,9,9")


def test_regions_are_cached_each_for_itself_and_again_when_their_image_changed(
    frame: Path, tmp_path: Path
) -> None:
    cache = ImageCache(tmp_path / "cache")
    for box in ("0,0,10,10", "5,5,10,20"):
        path = Path(f"{frame}/{box}")
        assert (cache.load(path) == pixels_of(path)).all()
    assert len(list((tmp_path / "cache").iterdir())) == 2
    Image.new("RGB", (20, 20), "red").save(frame)
    assert (cache.load(Path(f"{frame}/0,0,10,10")) == (255, 0, 0)).all()


def test_a_region_is_missing_where_its_image_is(frame: Path) -> None:
    images = ["a.png/0,0,5,5", "b.png/0,0,5,5", "a.png"]
    assert missing_images(images, frame.parent) == ["b.png/0,0,5,5"]


def test_the_check_examines_regions(frame: Path) -> None:
    images = ["a.png/0,0,30,30", "a.png/0,0,30,5", "a.png/90,0,5,5"]
    found, digests = find_oddities(images, frame.parent, 1, lambda _: None)
    assert [(image, kind) for image, kind, _ in found] == [(images[1], EXTREME), (images[2], UNREADABLE)]
    assert digests[:16] != digests[16:32] != bytes(16) == digests[32:]


def test_shards_hold_the_pixels_of_regions(frame: Path, tmp_path: Path) -> None:
    records = [Record(f"a.png/{left},0,20,30", left, ("A man.",), (), "en") for left in (0, 30)]
    (tmp_path / "shards").mkdir()
    write_shards({"train": {"en": Records.of(records, "en")}}, frame.parent, tmp_path / "shards", Shape())
    with tarfile.open(tmp_path / "shards" / "train-00000.tar") as tar:
        images = [
            np.array(Image.open(io.BytesIO(tar.extractfile(m).read()))) for m in tar if m.name.endswith("png")
        ]
    expected = [pixels_of(f"{frame}/{left},0,20,30") for left in (0, 30)]
    assert sorted(image.tobytes() for image in images) == sorted(image.tobytes() for image in expected)
