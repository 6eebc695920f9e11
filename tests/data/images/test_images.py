"""Images as they come: every kind is read right, or refused in one line that names the file."""

import os
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from data.check.images import TURNED, UNREADABLE, find_oddities
from data.images.decode import MAX_PIXELS, BadImageError, load_image

RAMP = np.linspace(0, 65535, 8 * 4).reshape(8, 4).astype(np.uint16)  # 8 rows of 4 pixels, black to white
COLORS = np.random.default_rng(0).integers(0, 256, (8, 4, 3), dtype=np.uint8)
ORIENTATION, MAKE = 0x0112, 0x010F
PNG_GRAY, PNG_RGB, PNG_GRAY_ALPHA = 0, 2, 4


def png(rows: np.ndarray, kind: int, size: tuple[int, int] | None = None, **chunks: bytes) -> bytes:
    """A PNG file of `rows` (height, width[, channels]), whose header may tell of another `size`."""

    def chunk(name: str, content: bytes) -> bytes:
        named = name.encode() + content
        return struct.pack(">I", len(content)) + named + struct.pack(">I", zlib.crc32(named))

    width, height = size or rows.shape[1::-1]
    header = struct.pack(">IIBBBBB", width, height, 8 * rows.itemsize, kind, 0, 0, 0)
    pixels = b"".join(b"\0" + row.astype(rows.dtype.newbyteorder(">")).tobytes() for row in rows)
    parts = {"IHDR": header, **chunks, "IDAT": zlib.compress(pixels), "IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts.items())


def tiff(pixels: np.ndarray, sample_format: int, size: tuple[int, int] | None = None) -> bytes:
    """A grayscale TIFF file. `sample_format`: 1 without sign, 2 with one, 3 floating-point."""
    content, (width, height) = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes(), size or (4, 8)
    numbers = {256: width, 257: height, 258: 8 * pixels.itemsize, 259: 1, 262: 1, 273: 8, 277: 1}
    numbers |= {278: height, 279: len(content), 339: sample_format}
    fields = b"".join(struct.pack("<HHII", tag, 4, 1, number) for tag, number in numbers.items())
    return (
        b"II*\0" + struct.pack("<I", 8 + len(content)) + content + struct.pack("<H", 10) + fields + bytes(4)
    )


def read(tmp_path: Path, content: bytes, name: str = "a.jpg") -> np.ndarray:
    (tmp_path / name).write_bytes(content)
    image = load_image(tmp_path / name)
    assert image.mode == "RGB"
    return np.asarray(image)


SIXTEEN_BITS = {
    "png": png(RAMP, PNG_GRAY),
    "png in colour": png(np.stack([RAMP] * 3, axis=-1), PNG_RGB),
    "png that is opaque": png(np.stack([RAMP, np.full_like(RAMP, 65535)], axis=-1), PNG_GRAY_ALPHA),
    "tiff": tiff(RAMP, 1),
    "tiff of 32 bits": tiff(RAMP.astype(np.int32), 2),
    "pgm": b"P5 4 8 65535\n" + RAMP.astype(">u2").tobytes(),
}


@pytest.mark.parametrize("kind", SIXTEEN_BITS)
def test_of_sixteen_bits_the_upper_eight_are_kept(kind: str, tmp_path: Path) -> None:
    pixels = read(tmp_path, SIXTEEN_BITS[kind]).astype(int)
    assert (pixels == pixels[..., :1]).all()
    assert np.abs(pixels[..., 0] - RAMP / 257).max() < 1
    assert (pixels.min(), pixels.max()) == (0, 255)


@pytest.mark.parametrize(
    "content",
    [
        tiff((RAMP / 65535).astype(np.float32), 3),
        tiff(RAMP.astype(np.float32), 3),
        tiff(RAMP.astype(np.int32) * 1000, 2),
        tiff(RAMP.astype(np.uint32) * 65537, 1),
        tiff(RAMP.astype(np.int32) - 1, 2),
    ],
)
def test_pixels_whose_white_is_unknown_are_refused(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(BadImageError, match=r"a\.jpg' cannot be read \(.* nothing says what is white\)"):
        read(tmp_path, content)


def test_the_colour_that_is_said_to_be_transparent_becomes_white(tmp_path: Path) -> None:
    hole = struct.pack(">3H", *COLORS[2, 1].tolist())
    expected = COLORS.copy()
    expected[2, 1] = 255
    assert np.array_equal(read(tmp_path, png(COLORS, PNG_RGB, tRNS=hole)), expected)


def test_the_modes_of_print_palettes_and_fax_are_read_as_what_they_show(tmp_path: Path) -> None:
    flat = Image.new("RGB", (4, 8), (204, 51, 51))
    for mode, name in (("CMYK", "a.jpg"), ("P", "a.png"), ("PA", "a.tif")):
        flat.convert("P" if mode == "PA" else mode).convert(mode).save(tmp_path / name)
        assert np.abs(np.asarray(load_image(tmp_path / name)).astype(int) - (204, 51, 51)).max() < 6, mode
    squares = Image.fromarray(np.indices((8, 4)).sum(0) % 2 == 0)
    squares.save(tmp_path / "1.png")
    assert squares.mode == "1"
    assert np.array_equal(np.asarray(load_image(tmp_path / "1.png"))[..., 0] == 255, np.asarray(squares))


def test_of_an_animation_the_first_image_is_read_and_names_do_not_matter(tmp_path: Path) -> None:
    first, second = Image.fromarray(COLORS), Image.fromarray(COLORS[::-1].copy())
    for kind in ("PNG", "WEBP", "GIF", "TIFF"):
        path = tmp_path / f"{kind}.jpg"
        first.save(path, kind, save_all=True, append_images=[second], lossless=True)
        seen = np.asarray(load_image(path)).astype(int)
        limit = 40 if kind == "GIF" else 0  # a palette
        assert np.abs(seen - COLORS).max() <= limit < np.abs(seen - COLORS[::-1]).max(), kind


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_set_upright(orientation: int, tmp_path: Path) -> None:
    mirrored, turns = orientation in (2, 4, 5, 7), {3: 2, 4: 2, 5: 1, 6: 1, 7: 3, 8: 3}.get(orientation, 0)
    stored = np.rot90(COLORS, turns)  # against the clock, as the camera was held
    if mirrored:
        stored = stored[:, ::-1] if turns % 2 == 0 else stored[::-1]
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    for name in ("a.png", "a.tif"):
        Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / name, exif=exif)
        assert np.array_equal(np.asarray(load_image(tmp_path / name)), COLORS)


def exif_block(*fields: tuple[int, int, int, int]) -> bytes:
    """An EXIF block of (tag, type, count, value) fields."""
    packed = b"".join(struct.pack("<HHII", *field) for field in fields)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(fields)) + packed + bytes(12)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_damaged_exif_block_costs_no_image_and_does_not_end_the_check(tmp_path: Path) -> None:
    turned, upright = np.rot90(COLORS, -1), COLORS
    blocks = {
        b"no block at all, only noise": upright,
        b"II*\0\xff\xff\xff\xff": upright,
        exif_block((ORIENTATION, 3, 1, 9)): upright,
        exif_block((ORIENTATION, 2, 4, 0x00636261)): upright,
        exif_block((MAKE, 5, 1, 8), (ORIENTATION, 3, 1, 6)): turned,  # a maker that is no text
    }
    for block, expected in blocks.items():
        assert np.array_equal(read(tmp_path, png(COLORS, PNG_RGB, eXIf=block), "a.png"), expected), block
        found, _ = find_oddities(["a.png"], tmp_path, workers=1, advance=lambda number: None)
        assert (TURNED in {kind for _, kind, _ in found}) == (expected is turned), block


def test_images_of_one_pixel_and_of_the_most_pixels_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read(tmp_path, png(COLORS[:1, :1], PNG_RGB)).tolist() == COLORS[:1, :1].tolist()
    monkeypatch.setattr("data.images.decode.MAX_PIXELS", 32)
    assert read(tmp_path, png(COLORS, PNG_RGB)).shape == (8, 4, 3)
    with pytest.raises(BadImageError, match=r"a\.jpg' cannot be read \(4 x 9 pixels, but at most 32 are dec"):
        read(tmp_path, png(COLORS, PNG_RGB, size=(4, 9)))


@pytest.mark.parametrize("action", ["ignore", "error"])
def test_where_pillow_only_warns_of_a_bomb_nothing_is_decoded(
    action: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(ImageFile.ImageFile, "load")
    for side in (9460, 13377):
        assert MAX_PIXELS < side * side < 2 * MAX_PIXELS
        said = f"Image size .{side * side} pixels" if action == "error" else f"{side} x {side} pixels, but"
        with warnings.catch_warnings():
            warnings.simplefilter(action)
            with pytest.raises(BadImageError, match=rf"a\.jpg' cannot be read .{said}"):
                read(tmp_path, png(COLORS, PNG_RGB, size=(side, side)))


BOMBS = {
    "bomb.png": png(COLORS, PNG_RGB, size=(60_000, 60_000)),
    "near.png": png(COLORS, PNG_RGB, size=(13_000, 13_000)),
    "bomb.tif": tiff(RAMP, 1, size=(60_000, 60_000)),
    "bomb.gif": b"GIF89a" + struct.pack("<HH", 60_000, 60_000) + b"\0\0\0,\0\0\0\0`\xea`\xea\0\x08\2\0\1\0;",
    "bomb.bmp": b"BM"
    + struct.pack("<IHHI", 100, 0, 0, 54)
    + struct.pack("<IiiHHIIiiII", 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0),
    "bomb.jpg": b"\xff\xd8\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0\xff\xc0\0\x11\x08"
    + struct.pack(">HH", 60_000, 60_000)
    + b"\3\1\x22\0\2\x11\1\3\x11\1\xff\xda\0\x0c\3\1\0\2\x11\3\x11\0\x3f\0\xff\xd9",
}
PROGRAM = """
import resource, sys
from data.images.decode import load_image
from options import UserError

taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + 128 * 2**20,) * 2)
for path in sys.argv[1:]:
    try:
        print(path, load_image(path))
    except UserError as error:
        print(error)
"""


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="tells the memory of a process")
def test_bombs_pipes_and_what_is_no_image_are_refused_without_memory_waiting_or_noise(tmp_path: Path) -> None:
    for name, content in BOMBS.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "text.jpg").write_text("an image of a man\n")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "figure.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 40\n%%EndComments\n")
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    for name, target in {"zero.jpg": "/dev/zero", "dangling.jpg": "nowhere", "loop.jpg": "loop.jpg"}.items():
        (tmp_path / name).symlink_to(target)
    paths = [str(path) for path in sorted(tmp_path.iterdir())]
    command = [sys.executable, "-c", PROGRAM, *paths]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    said = done.stdout.splitlines()
    assert len(said) == len(paths) == len(BOMBS) + 8
    for path, line in zip(paths, said, strict=True):
        assert line.startswith(f"image '{path}' cannot be read ("), line
    reasons = {Path(path).name: line for path, line in zip(paths, said, strict=True)}
    assert all("pixels" in reasons[name] for name in BOMBS if name != "bomb.jpg"), reasons
    assert all("no regular file" in reasons[name] for name in ("folder.jpg", "pipe.jpg", "zero.jpg"))
    assert "it is not there" in reasons["dangling.jpg"]
    assert "the format EPS is not decoded" in reasons["figure.jpg"]
    assert done.stderr == ""
    images = sorted(path.name for path in tmp_path.iterdir() if path.name != "empty.jpg")
    found, _ = find_oddities(images, tmp_path, workers=1, advance=lambda number: None)
    assert [odd[:2] for odd in found] == [(image, UNREADABLE) for image in images]


def test_whatever_a_decoder_raises_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (RuntimeError("no planes\nat all"), AttributeError("_size"), MemoryError()):

        def load(file: Image.Image, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(ImageFile.ImageFile, "load", load)
        reason = " ".join(str(error).split()) or "MemoryError"
        with pytest.raises(BadImageError, match=rf"a\.jpg' cannot be read \({reason}\)"):
            read(tmp_path, png(COLORS, PNG_RGB))


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("kind", ["RGB.png", "RGBA.png", "P.png", "L.png", "I;16.png", "RGB.jpg", "CMYK.jpg"])
def test_a_reduced_image_is_the_image_at_that_size(kind: str, orientation: int, tmp_path: Path) -> None:
    mode, suffix = kind.split(".")
    ramp = np.linspace(20, 230, 90)[:, None, None] + np.linspace(0, 25, 130)[None, :, None] * [1, 0.5, 0]
    image = Image.fromarray(ramp.astype(np.uint8))
    if mode == "RGBA":
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    elif mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) << 8)
    else:
        image = image.convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / f"a.{suffix}", exif=exif)
    whole, reduced = (load_image(tmp_path / f"a.{suffix}", at_most=size) for size in (None, (30, 25)))
    assert reduced.size == ((30, 21) if orientation == 1 else (17, 25))
    difference = np.asarray(whole.resize(reduced.size), np.float32) - np.asarray(reduced, np.float32)
    assert np.abs(difference).mean() < 3
    assert load_image(tmp_path / f"a.{suffix}", at_most=(1000, 1000)).size == whole.size
