"""Image files of other programs, machines and downloads: long texts, cut ends, plugins, what is no image."""

import sys
from io import BytesIO
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image, ImageFile, PngImagePlugin, features

import data.images.decode
from data.check.__main__ import main as check
from data.check.images import CUT_SHORT, UNREADABLE, find_oddities, unnamed_images
from data.images.cache import ImageCache
from data.images.decode import BadImageError, image_suffixes, load_image
from data.synthetic.render import render_people
from main import main
from misc.search.indexing.walk import find_images

PIXELS = np.random.default_rng(0).integers(0, 256, (64, 32, 3), dtype=np.uint8)
IMAGE = Image.fromarray(PIXELS)


def encoded(kind: str, **settings: object) -> bytes:
    buffer = BytesIO()
    IMAGE.save(buffer, kind, **settings)
    return buffer.getvalue()


def reason(path: Path, truncated: str = "error") -> str:
    with pytest.raises(BadImageError) as caught:
        load_image(path, truncated)
    assert str(caught.value).startswith(f"image '{path}' cannot be read ({caught.value.reason})")
    assert "\n" not in str(caught.value)
    return caught.value.reason


@pytest.mark.parametrize("kind", ["text", "zipped text", "international text", "many texts", "profile"])
def test_a_png_file_with_long_texts_is_read(tmp_path: Path, kind: str) -> None:
    texts, settings, long = PngImagePlugin.PngInfo(), {}, "workflow " * 500_000
    if kind == "international text":
        texts.add_itxt("XML:com.adobe.xmp", long, zip=True)
    elif kind == "profile":
        settings["icc_profile"] = long.encode()
    else:
        for number in range(40 if kind == "many texts" else 1):
            texts.add_text(f"prompt {number}", long[: 2_000_000 if number else None], zip=kind != "text")
    IMAGE.save(tmp_path / "a.png", pnginfo=texts, **settings)
    assert np.array_equal(np.asarray(load_image(tmp_path / "a.png")), PIXELS)


def test_accepting_is_no_advice_where_a_file_ends_within_its_header(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(encoded("JPEG")[:100])
    assert reason(tmp_path / "a.jpg") == reason(tmp_path / "a.jpg", "accept") == "Truncated File Read"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "PPM"])
def test_a_file_that_is_cut_short_is_read_where_that_is_accepted(tmp_path: Path, kind: str) -> None:
    path, content = tmp_path / "a.jpg", encoded(kind)
    path.write_bytes(content[: -len(content) // 3])
    assert reason(path).endswith("; data.truncated=accept uses what is there")
    assert load_image(path, "accept").size == IMAGE.size
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    cache = ImageCache(tmp_path / "cache")
    assert np.array_equal(cache.load(path, "accept"), np.asarray(load_image(path, "accept")))
    with pytest.raises(BadImageError):  # what one run accepted, another one does not find
        cache.load(path)


def test_a_jpeg_without_its_last_two_bytes_has_all_its_pixels(tmp_path: Path) -> None:
    content = encoded("JPEG")
    for name, part in (("whole.jpg", content), ("cut.jpg", content[:-2])):
        (tmp_path / name).write_bytes(part)
    whole, cut = (np.asarray(load_image(tmp_path / name, "accept")) for name in ("whole.jpg", "cut.jpg"))
    assert np.array_equal(whole, cut)


def test_where_nothing_of_a_file_can_be_used_accepting_is_no_advice(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(encoded("JPEG")[:200])
    assert "accept" not in reason(tmp_path / "a.jpg", "accept")


def test_the_check_lists_what_is_cut_short_as_training_would_take_it(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(encoded("JPEG")[:-2])
    for truncated, kind in (("error", UNREADABLE), ("accept", CUT_SHORT)):
        oddities, _ = find_oddities(["a.jpg"], tmp_path, 1, lambda number: None, truncated)
        ((image, found, what),) = oddities
        assert (image, found) == ("a.jpg", kind)
        assert what.startswith("image file is truncated")


def test_training_evaluation_and_check_accept_the_same_files(
    people: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "imgs"
    for file in (people / "imgs").rglob("*.*"):
        target = images / file.relative_to(people / "imgs")
        target.parent.mkdir(parents=True, exist_ok=True)
        buffer = BytesIO()
        Image.open(file).save(buffer, "JPEG")
        target.write_bytes(buffer.getvalue()[:-2])
    run = ["--config", str(config), f"data.image_root={images}", "schedule.epoch=1"]
    assert main(run) == 2
    assert "data.truncated=accept uses what is there" in capsys.readouterr().err
    assert main([*run, "data.truncated=accept", "output.overwrite=true"]) == 0
    flags = [str(people), str(images), "--out", str(tmp_path / "out")]
    assert check(flags) == 1
    assert check([*flags, "--truncated", "accept"]) == 0
    assert "warning: images that are cut short" in capsys.readouterr().out


FOREIGN = {
    "page.jpg": (b"<!DOCTYPE html><title>Quota exceeded", "it is an HTML page"),
    "pointer.jpg": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "it is a Git LFS pointer"),
    "empty.jpg": (b"", "it is an empty file"),
    "zeros.jpg": (bytes(5000), "it is a file of zeros"),
    "paper.jpg": (b"%PDF-1.4\n", "it is a PDF document"),
    "clip.jpg": (b"\0\0\0\x20ftypisom\0\0\2\0isom", "it is a video (MP4)"),
    "denied.jpg": (b'{"error": "denied"}', "it is a text that begins with"),
    "._a.jpg": (b"\0\5\x16\7\0\2\0\0Mac OS X", "it is an AppleDouble file"),
    "damaged.png": (b"\x89PNG\r\n\x1a\n" + bytes(range(40)), "it begins as a PNG image does, and is damaged"),
    "unknown.jpg": (bytes(range(1, 255)), "its format is not known"),
    "phone.heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "it is a HEIC image, which needs a plugin"),
    "a.jxl": (
        b"\xff\x0a\xfa\x1f\x01\x91",
        "it is a JPEG XL image, which needs a plugin of Pillow: pip install",
    ),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_of_a_file_that_is_no_image_it_is_said_what_it_is(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "registered_extensions", dict)  # no plugin is installed
    content, said = FOREIGN[name]
    (tmp_path / name).write_bytes(content)
    assert reason(tmp_path / name).startswith(said)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif_is_read_and_listed(tmp_path: Path) -> None:
    IMAGE.save(tmp_path / "a.avif", quality=100, subsampling="4:4:4")
    assert load_image(tmp_path / "a.avif").size == IMAGE.size
    assert [image.path for image in find_images(tmp_path, Path("/"), {})] == ["a.avif"]


def test_a_plugin_is_registered_where_images_are_opened_and_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`pillow_heif` stands for all: here a plugin that reads any HEIC file as a red image."""

    class Heif(ImageFile.ImageFile):
        format = "HEIF"

        def _open(self) -> None:
            self._mode, self._size = "RGB", (3, 2)

        def load(self) -> object:
            self.im = Image.new("RGB", self.size, "red").im
            return None

    def register() -> None:
        Image.register_open("HEIF", Heif, lambda start: start[4:12] == b"ftypheic")
        Image.register_extension("HEIF", ".hif")

    plugin = ModuleType("pillow_heif")
    plugin.register_heif_opener = register
    for registry in ("ID", "OPEN", "EXTENSION"):
        monkeypatch.setattr(Image, registry, type(getattr(Image, registry))(getattr(Image, registry)))
    monkeypatch.setitem(sys.modules, "pillow_heif", plugin)
    data.images.decode._prepare_pillow.cache_clear()
    (tmp_path / "phone.hif").write_bytes(FOREIGN["phone.heic"][0])
    assert ".hif" in image_suffixes()
    assert np.asarray(load_image(tmp_path / "phone.hif")).tolist() == [[[255, 0, 0]] * 3] * 2
    data.images.decode._prepare_pillow.cache_clear()


def test_a_heic_file_is_listed_without_a_plugin_so_that_it_is_named_as_skipped(tmp_path: Path) -> None:
    (tmp_path / "IMG_1.HEIC").write_bytes(FOREIGN["phone.heic"][0])
    assert [image.path for image in find_images(tmp_path, Path("/"), {})] == ["IMG_1.HEIC"]


def test_what_systems_put_beside_images_is_no_image(tmp_path: Path) -> None:
    ((_, image),) = render_people(1)
    for name in ("cam/a.png", "cam/._a.png", "__MACOSX/cam/._a.png", "__MACOSX/a.png", "@eaDir/b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(tmp_path / name)
    assert [found.path for found in find_images(tmp_path, Path("/"), {})] == ["cam/a.png"]
    assert unnamed_images([], tmp_path) == ["cam/a.png"]
