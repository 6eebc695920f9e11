"""What `index` leaves out or skips is counted and named; large JPEGs and raw photos are indexed."""

import importlib.util
import os
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.images import decode
from data.images.decode import BadImageError, load_image
from misc.search.__main__ import main
from misc.search.encoder import Encoder
from misc.search.index import Index
from misc.search.indexing.exclusion import Exclusion
from misc.search.indexing.update import update_index
from options import UserError
from tests.helpers.search import save_image


def skipped(folder: Path) -> dict[str, str]:
    """What skipped.txt says of each path."""
    return dict(line.split("\t") for line in (folder / "skipped.txt").read_text().splitlines())


def test_every_image_and_video_that_is_not_taken_is_counted_and_named(
    encoder: Encoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, index = tmp_path / "images", tmp_path / "index"
    for number, name in enumerate(
        ("a.png", "cam/b.png", "cam/b.gif", "old/c.png", "x/old/d.png", "x/.e.png", "x/@eaDir/a.png/f.png")
    ):
        save_image(root / name, number)
    for name in ("clip.MP4", "x/logo.svg", "notes.txt", "broken.jpg"):
        (root / name).write_bytes(b"?")
    command = ["index", str(encoder.checkpoint), str(root), "--out", str(index), "data.test_batch_size=4"]
    assert main([*command, "--exclude", "*.gif", "--exclude", "./old/"]) == 0
    out = capsys.readouterr().out
    assert skipped(index) == {
        "broken.jpg": "it is a text that begins with '?'",
        "cam/b.gif": "excluded by '*.gif'",
        "clip.MP4": "a video; index --people finds the people in it",
        "old/": "excluded by 'old'",
        "x/.e.png": "hidden",
        "x/@eaDir/": "left out, as all folders of this name",
        "x/logo.svg": "an image in a format that is not decoded (svg)",
        "x/old/": "excluded by 'old'",
    }
    assert "7 found = 0 kept + 0 moved + 0 copied + 2 new + 0 changed + 3 skipped + 2 excluded" in out
    assert Index.open(index).paths == ["a.png", "cam/b.png"]


def test_patterns_are_of_names_or_of_paths_and_invalid_ones_are_refused() -> None:
    exclusion = Exclusion.of(["cam3_*", "2023/*/raw", "./tmp/"])
    for path in ("cam3_1.png", "a/cam3_x", "2023/a/raw", "2023/a/b/raw", "a/tmp", ".git", "node_modules"):
        assert exclusion.reason(path), path
    for path in ("a/xcam3_1.png", "x/2023/a/raw", "2023/raw", "tmp.png", "cam3"):
        assert not exclusion.reason(path), path
    covered = [path for path in ("x/tmp/y/a.png", "x/tmp/", "x/y.png") if exclusion.covers(path)]
    assert covered == ["x/tmp/y/a.png", "x/tmp/"]
    for pattern in ("", "/", "/data/images"):
        with pytest.raises(UserError, match="--exclude: expected a name"):
            Exclusion.of([pattern])


def test_excluded_images_are_missing_and_return_without_being_encoded(
    encoder: Encoder, images: Path, index_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = update_index(encoder, images, index_folder, exclude=["b"])
    assert (found.kept, found.total, found.missing, found.hidden, found.encoded) == (5, 5, 5, 5, 0)
    assert found.excluded == {"b/": "excluded by 'b'"}
    found = update_index(encoder, images, index_folder, exclude=["nothing"])
    assert (found.total, found.missing, found.hidden, found.encoded) == (10, 0, 0, 0)
    assert caplog.text.count("--exclude 'nothing' has no effect") == 1
    found = update_index(encoder, images, index_folder, exclude=["b"], prune=True)
    assert (found.total, found.missing, found.dropped) == (5, 0, 5)
    with pytest.raises(UserError, match="no image below"):
        update_index(encoder, images, index_folder, exclude=["*"])


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_jpeg_of_too_many_pixels_is_indexed_at_reduced_size_and_counted(
    orientation: int,
    encoder: Encoder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pixels = np.linspace(0, 255, 400 * 300 * 3).reshape(300, 400, 3).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    root = tmp_path / "images"
    root.mkdir()
    for name, settings in (("large.jpg", {}), ("progressive.jpg", {"progressive": True}), ("large.png", {})):
        Image.fromarray(pixels).save(root / name, exif=exif, **settings)
    save_image(root / "small.jpg", 1)
    whole = load_image(root / "large.jpg")
    monkeypatch.setattr(decode, "MAX_PIXELS", 50_000)
    monkeypatch.setattr(decode, "MAX_PROGRESSIVE", 75_000)
    monkeypatch.setattr("misc.search.indexing.encoding.MAX_PIXELS", 50_000)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50_000)  # Pillow refuses what is twice as large
    command = ["index", str(encoder.checkpoint), str(root), "--out", str(tmp_path / "index")]
    assert main([*command, "data.test_batch_size=4"]) == 0
    out = capsys.readouterr().out
    assert "1 of them have more than 50,000 pixels: read at reduced size" in out
    assert list(skipped(tmp_path / "index")) == ["large.png", "progressive.jpg"]
    index = Index.open(tmp_path / "index")
    assert index.paths == ["large.jpg", "small.jpg"]
    reduced = load_image(root / "large.jpg", large=True)
    assert reduced.size == ((100, 75) if orientation == 1 else (75, 100))
    assert reduced.info[decode.SIZE_IN_FILE] == whole.size
    difference = np.asarray(whole.resize(reduced.size), int) - np.asarray(reduced)
    assert np.abs(difference).mean() < 2
    expected = encoder.encode_images([reduced]).numpy()
    assert index.features_of([0]) == pytest.approx(expected, abs=1e-3)
    for path in (root / "large.jpg", root / "large.png"):  # training never gets other pixels
        with pytest.raises(BadImageError, match="pixels"):
            load_image(path)


def dng(pixels: np.ndarray) -> bytes:
    """(H, W) values of an RGGB sensor as a raw photo, to be turned by a quarter."""
    height, width = pixels.shape
    ones = [1, 1, 0, 1, 0, 1, 0, 1, 1, 1, 0, 1, 0, 1, 0, 1, 1, 1]  # of a unit matrix
    tags: list[tuple[int, str, list[int]]] = [
        *((254, "I", [0]), (256, "I", [width]), (257, "I", [height]), (258, "H", [16]), (259, "H", [1])),
        *((262, "H", [32803]), (273, "I", [500]), (274, "H", [6]), (277, "H", [1]), (278, "I", [height])),
        *((279, "I", [2 * pixels.size]), (33421, "H", [2, 2]), (33422, "B", [0, 1, 1, 2])),
        *((50706, "B", [1, 4, 0, 0]), (50708, "B", list(b"Camera\0")), (50721, "ii", ones)),
        *((50728, "II", [1] * 6), (50778, "H", [21])),
    ]
    kinds = {"B": 1, "H": 3, "I": 4, "II": 5, "ii": 10}
    entries, values = b"", b""
    for tag, kind, numbers in tags:
        value = struct.pack(f"<{len(numbers)}{kind[0]}", *numbers)
        place = value.ljust(4, b"\0") if len(value) <= 4 else struct.pack("<I", 300 + len(values))
        values += value if len(value) > 4 else b""
        entries += struct.pack("<HHI", tag, kinds[kind], len(numbers) // len(kind)) + place
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    return (head.ljust(300, b"\0") + values).ljust(500, b"\0") + pixels.astype("<u2").tobytes()


@pytest.mark.skipif(not importlib.util.find_spec("rawpy"), reason="needs rawpy: pip install rawpy")
def test_a_raw_photo_is_developed_upright(encoder: Encoder, tmp_path: Path) -> None:
    pixels = np.zeros((48, 64), np.uint16)
    pixels[0::2, 0:32:2] = 60_000  # the left half is red; turned, that is the upper one
    root = tmp_path / "images"
    root.mkdir()
    (root / "a.DNG").write_bytes(dng(pixels))
    image = load_image(root / "a.DNG")
    assert image.size == (48, 64)
    shown = np.asarray(image).astype(int)
    assert shown[8:24, 8:40, 0].min() > 150 > 60 > shown[8:24, 8:40, 1:].max()
    assert shown[40:, 8:40].max() < 60
    assert update_index(encoder, root, tmp_path / "index").encoded == 1
    (root / "b.nef").write_bytes(b"no photo")
    assert skipped_reason(root / "b.nef").startswith("LibRaw cannot read it: ")


def skipped_reason(path: Path) -> str:
    with pytest.raises(BadImageError) as caught:
        load_image(path)
    return caught.value.reason


def test_a_raw_photo_without_rawpy_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rawpy", None)
    (tmp_path / "a.cr2").write_bytes(b"II*\0")
    assert skipped_reason(tmp_path / "a.cr2") == "it is a raw photo, which needs rawpy: pip install rawpy"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes")
def test_a_pipe_is_skipped(encoder: Encoder, images: Path, tmp_path: Path) -> None:
    os.mkfifo(images / "pipe.png")
    found = update_index(encoder, images, tmp_path / "index")
    assert found.skipped == {"pipe.png": "it is no regular file"}
