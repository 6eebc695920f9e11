"""Decoding, and the random views of an image."""

import io
import random
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from data.images import transforms
from data.images.decode import load_image
from options import UserError

RED = (204, 51, 51)  # a colour of the web palette, so a palette image holds it exactly
JITTER, ROTATION, CROP, GRAYSCALE, FLIP, ERASING = transforms.POOL


def a_picture(height: int = 250, width: int = 100, seed: int = 0) -> Tensor:
    """Smooth coloured noise, (3, height, width) uint8."""
    noise = torch.rand(1, 3, 8, 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(noise, (height, width), mode="bilinear")[0].mul(255).byte()


def test_every_mode_is_read_as_its_colour(tmp_path: Path) -> None:
    for mode, name in [
        ("RGB", "a.bmp"),
        ("CMYK", "b.tif"),
        ("P", "c.gif"),
        ("RGBA", "d.png"),
        ("RGB", "e.jpg"),
    ]:
        Image.new("RGB", (20, 40), RED).convert(mode).save(tmp_path / name)
        image = load_image(tmp_path / name)
        assert (image.mode, image.size) == ("RGB", (20, 40))
        assert np.abs(np.asarray(image).astype(int) - RED).max() <= 4, mode


def test_a_damaged_image_of_any_format_is_named(tmp_path: Path) -> None:
    image = Image.effect_noise((20, 40), 60).convert("RGB")
    for suffix in ("jpg", "png", "bmp", "gif", "tif", "webp", "dds"):
        path = tmp_path / f"a.{suffix}"
        image.save(path)
        whole = path.read_bytes()
        # Of a DDS the eighty-first byte says how pixels are laid out, others are told by their end.
        path.write_bytes(whole[:80] + bytes(len(whole) - 80) if suffix == "dds" else whole[: len(whole) // 2])
        with pytest.raises(UserError, match=f"image '{path}' cannot be read"):
            load_image(path)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_becomes_white(tmp_path: Path, mode: str) -> None:
    if mode == "P":
        image = Image.new("P", (4, 4), 0)
        image.putpalette([10, 20, 30] + [0] * 765)
        image.save(tmp_path / "a.png", transparency=0)
    else:
        Image.new(mode, (4, 4), 0).save(tmp_path / "a.png")
    assert np.asarray(load_image(tmp_path / "a.png")).min() == 255


def test_transparency_is_blended_with_white_in_every_part_of_a_large_image(tmp_path: Path) -> None:
    """The image holds more than two strips, and is turned."""
    rng = np.random.default_rng(0)
    pixels = np.tile(rng.integers(0, 256, (60, 40, 4), np.uint8), (42, 32, 1))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif, compress_level=1)
    colors, share = pixels[..., :3].astype(float), pixels[..., 3:] / 255
    expected = (255 + (colors - 255) * share)[::-1, ::-1]
    assert np.abs(np.asarray(load_image(tmp_path / "a.png")) - expected).max() <= 1


def test_a_large_image_with_transparency_takes_little_more_memory_than_its_pixels(tmp_path: Path) -> None:
    Image.new("RGBA", (6000, 6000), (10, 20, 30, 100)).save(tmp_path / "a.png", compress_level=1)
    program = (
        "import sys, numpy\nfrom data.images.decode import load_image\n"
        "from misc.process.workers import memory_of_process\n"
        "load_image(sys.argv[2])\nbefore = memory_of_process()\nload_image(sys.argv[1])\n"
        "print(memory_of_process() - before)"
    )
    Image.new("RGBA", (4, 4)).save(tmp_path / "b.png")
    command = [sys.executable, "-c", program, tmp_path / "a.png", tmp_path / "b.png"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 9 * 6000 * 6000, "4 bytes a pixel as it is in the file, and 3 of RGB"


def a_jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(a_picture().permute(1, 2, 0).numpy()).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "not there"),
        (b"", "cannot"),
        (b"no image at all", "a text that begins with 'no image at all'"),
        (a_jpeg()[:900], "truncated"),
    ],
)
def test_an_unreadable_image_is_named_in_one_line(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "a.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_image(path)
    assert str(path) in str(caught.value)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_training_view_draws_two_operations_with_replacement(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []

    def operation(number: int) -> transforms.Operation:
        def apply(pixels: Tensor, rng: random.Random) -> Tensor:
            drawn.append(number)
            return pixels

        return apply

    monkeypatch.setattr(transforms, "POOL", tuple(operation(n) for n in range(len(transforms.POOL))))
    rng = random.Random(0)
    for _ in range(3000):
        transforms.train_view(a_picture(8, 4), (8, 4), rng)
    assert len(drawn) == 6000
    pairs = [tuple(drawn[n : n + 2]) for n in range(0, 6000, 2)]
    for first in range(6):
        for second in range(6):
            assert pairs.count((first, second)) == pytest.approx(3000 / 36, abs=4 * 9)


def test_a_crop_of_a_tall_view_keeps_nearly_all_of_it() -> None:
    ramp = torch.arange(128, dtype=torch.uint8)[None, :, None].expand(3, 128, 48)
    rng = random.Random(0)
    for _ in range(200):
        rows = CROP(ramp, rng)[0, :, 0].float()
        assert rows[-1] - rows[0] > 0.75 * 127  # area 0.9 at the widest aspect: sqrt(0.9 * 3/4) of the height


@pytest.mark.parametrize("size", [(224, 224), (384, 128)])
def test_crops_have_the_area_and_aspect_of_random_resized_crop(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    boxes = []
    monkeypatch.setattr(transforms, "resize", lambda pixels, size: boxes.append(pixels.shape[1:]))
    rng = random.Random(0)
    for _ in range(500):
        transforms.random_crop(torch.zeros(3, *size), rng, scale=(0.2, 1.0))
    areas = [height * width / (size[0] * size[1]) for height, width in boxes]
    aspects = [width / height * size[0] / size[1] for height, width in boxes]
    assert 0.19 < min(areas) < 0.25
    assert 0.9 < max(areas) <= 1.0
    assert 0.73 < min(aspects) < 0.8
    assert 1.25 < max(aspects) < 1.36


def test_erasing_blackens_ten_to_twenty_percent_half_of_the_time() -> None:
    rng = random.Random(0)
    white = torch.full((3, 128, 128), 255, dtype=torch.uint8)
    black = [ERASING(white, rng)[0] == 0 for _ in range(1000)]
    boxes = [(mask.any(1).sum().item(), mask.any(0).sum().item()) for mask in black if mask.any()]
    areas = [height * width / 128**2 for height, width in boxes]
    assert len(boxes) == pytest.approx(500, abs=4 * 16)
    assert 0.095 < min(areas) < 0.11
    assert 0.19 < max(areas) < 0.205
    assert 0.29 < min(height / width for height, width in boxes) < 0.36
    assert 2.8 < max(height / width for height, width in boxes) < 3.4


def test_rotation_turns_by_up_to_15_degrees_about_the_centre() -> None:
    bar = torch.zeros(3, 101, 101, dtype=torch.uint8)
    bar[:, 50] = 255
    rng = random.Random(0)
    angles = []
    for _ in range(200):
        turned = ROTATION(bar, rng)
        assert turned[0, 50, 50] == 255
        y, x = torch.nonzero(turned[0]).float().sub(50).T
        angles.append(torch.rad2deg(torch.atan((x * y).sum() / (x * x).sum())).item())
    assert -15.5 < min(angles) < -13
    assert 13 < max(angles) < 15.5


def test_jitter_changes_brightness_and_contrast_by_up_to_a_tenth() -> None:
    """Of the grays 100 and 200, brightness scales the mean of 150, contrast distance over mean, 2/3."""
    grays = torch.tensor([100, 200], dtype=torch.uint8).expand(3, 8, 2)
    rng = random.Random(0)
    pairs = [JITTER(grays, rng)[0, 0].tolist() for _ in range(300)]
    brightness = [(low + high) / 2 / 150 for low, high in pairs]
    contrast = [(high - low) / (high + low) * 2 / (2 / 3) for low, high in pairs]
    for factors in (brightness, contrast):
        assert 0.87 < min(factors) < 0.93
        assert 1.07 < max(factors) < 1.13


def test_jitter_changes_saturation_by_up_to_a_tenth() -> None:
    """On one flat colour, contrast and saturation both scale the chroma: 0.9 * 0.9 to 1.1 * 1.1."""
    red = torch.tensor(RED, dtype=torch.uint8)[:, None, None].expand(3, 8, 8)
    rng = random.Random(0)
    colors = torch.stack([JITTER(red, rng)[:, 0, 0] for _ in range(300)]).float()
    chroma = (colors[:, 0] - colors[:, 1]) / (colors @ torch.tensor([0.299, 0.587, 0.114])) / (153 / 96.75)
    assert 0.79 < chroma.min() < 0.86
    assert 1.16 < chroma.max() < 1.24


def test_gray_and_mirrored_views_come_at_their_rates() -> None:
    picture = a_picture(8, 4)
    rng = random.Random(0)
    gray = sum(is_gray(GRAYSCALE(picture, rng)) for _ in range(2000))
    flipped = sum(torch.equal(FLIP(picture, rng), picture.flip(-1)) for _ in range(2000))
    assert gray == pytest.approx(200, abs=4 * 13.4)
    assert flipped == pytest.approx(1000, abs=4 * 22.4)


def test_strong_views_are_jittered_grayed_and_blurred_at_their_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """On one flat colour: crop and flip do nothing, so what is neither gray nor RED has been jittered."""
    sigmas = []
    monkeypatch.setattr(transforms, "blur", lambda pixels, sigma: sigmas.append(sigma) or pixels)
    red = torch.tensor(RED, dtype=torch.uint8)[:, None, None].expand(3, 16, 8)
    rng = random.Random(0)
    views = [transforms.simclr_view(red, (16, 8), rng) for _ in range(1000)]
    colored = [view[:, 0, 0].tolist() for view in views if not is_gray(view)]
    assert len(colored) == pytest.approx(800, abs=4 * 12.6)
    assert sum(color == list(RED) for color in colored) == pytest.approx(160, abs=4 * 11.6)
    assert len(sigmas) == pytest.approx(500, abs=4 * 16)
    assert 0.1 <= min(sigmas) < 0.15
    assert 1.95 < max(sigmas) <= 2.0


@pytest.mark.parametrize("hue", [0.0, 0.1])
def test_a_jitter_is_that_of_torchvision_on_floats_to_a_few_levels(hue: float) -> None:
    """Of three or four operations each rounds, and those after it stretch by up to 1.4 what it rounded."""
    for seed in range(40):
        picture = a_picture(60, 40, seed)
        rng = random.Random(seed)
        strengths = [rng.uniform(-0.4, 0.4) for _ in range(3)]
        changes = [
            lambda image, by=by, factor=1 + strength: by(image, factor)
            for by, strength in zip(
                (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation), strengths, strict=True
            )
        ]
        if hue:
            changes.append(partial(tv.adjust_hue, hue_factor=rng.uniform(-hue, hue)))
        rng.shuffle(changes)
        exact = picture.float() / 255
        for change in changes:
            exact = change(exact)
        made = transforms.color_jitter(picture, random.Random(seed), 0.4, 0.4, 0.4, hue)
        difference = made.float() - 255 * exact
        assert difference.abs().max() <= 5
        assert difference.abs().mean() < 1
        assert difference.mean().abs() < 0.6


def test_resizes_and_turns_are_those_of_torchvision() -> None:
    for size in ((224, 224), (48, 20), (250, 100), (300, 90)):
        expected = tv.resize(a_picture(), list(size), InterpolationMode.BILINEAR, antialias=True)
        assert torch.equal(transforms.resize(a_picture(), size), expected)
    image = Image.fromarray(a_picture().permute(1, 2, 0).numpy())
    expected = tv.pil_to_tensor(tv.rotate(image, random.Random(5).uniform(-15, 15)))
    assert torch.equal(ROTATION(a_picture(), random.Random(5)), expected)


@pytest.mark.parametrize("name", [*range(6), "simclr"])
def test_how_the_numbers_of_an_image_lie_in_memory_changes_nothing(name: int | str) -> None:
    """Decoded images have a pixel's three numbers side by side, later ones each channel by itself."""
    planes = a_picture(64, 40)
    pixels = planes.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    for seed in range(20):
        views = [
            transforms.simclr_view(image, (48, 20), random.Random(seed))
            if name == "simclr"
            else transforms.POOL[name](image, random.Random(seed))
            for image in (planes, pixels)
        ]
        assert torch.equal(*views)


def is_gray(view: Tensor) -> bool:
    return bool((view[0] == view[1]).all() and (view[1] == view[2]).all())
