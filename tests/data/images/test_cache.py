"""The cache of decoded images, with real processes that fill it at once, or die while they do."""

import dataclasses
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.annotations import read_splits
from data.columns.splits import Splits
from data.images import cache
from data.images.cache import ImageCache
from data.images.decode import BadImageError, load_image
from data.loaders import build_loaders
from data.types import VIEWS
from model.processor import ImageProcessor
from options import DataOptions, MiscOptions, Options, UserError
from text_utils.tokenizer import CLIPTokenizer

NUM_IMAGES = 8


@pytest.fixture(autouse=True)
def _room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "RESERVE", 0)  # tests run on nearly full disks too


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Images of several sizes and formats, one of them lying on its side."""
    (tmp_path / "imgs").mkdir()
    found = [tmp_path / "imgs" / f"{n}.{('jpg', 'png', 'bmp')[n % 3]}" for n in range(NUM_IMAGES)]
    generator = np.random.default_rng(0)
    for number, path in enumerate(found):
        pixels = generator.integers(0, 256, (30 + number, 20, 3), dtype=np.uint8)
        exif = Image.Exif()
        exif[0x0112] = 6 if number == 3 else 1
        Image.fromarray(pixels).save(path, exif=exif)
    return found


def loaded(path: Path) -> np.ndarray:
    return np.asarray(load_image(path))


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that the cache has had decoded."""
    files: list[Path] = []

    def counted(path: Path) -> Image.Image:
        files.append(path)
        return load_image(path)

    monkeypatch.setattr(cache, "load_image", counted)
    return files


def test_an_image_is_decoded_once_for_all_that_share_the_folder(
    paths: list[Path], tmp_path: Path, decoded: list[Path]
) -> None:
    for _ in range(3):
        images = ImageCache(tmp_path / "a" / "cache")
        for path in paths:
            pixels = images.load(path)
            assert np.array_equal(pixels, loaded(path))
            pixels[:] = 7  # the caller's own: the entry does not change
    assert decoded == paths
    assert len(entries(tmp_path / "a" / "cache")) == NUM_IMAGES


def test_a_changed_file_is_decoded_anew_in_place_of_the_old(
    paths: list[Path], tmp_path: Path, decoded: list[Path]
) -> None:
    images, path = ImageCache(tmp_path / "cache"), paths[2]
    images.load(path)
    for change in (
        lambda: Image.new("RGB", (20, 32), "red").save(path),  # a bitmap of the same size in bytes
        lambda: Image.new("RGB", (44, 10), "red").save(path),
        lambda: os.utime(path, ns=(0, 1)),
    ):
        before = path.stat()
        change()
        if path.stat().st_mtime_ns == before.st_mtime_ns:
            os.utime(path, ns=(0, before.st_mtime_ns + 1))
        assert np.array_equal(images.load(path), loaded(path))
    assert len(decoded) == 4
    assert len(entries(tmp_path / "cache")) == 1


def test_files_of_the_same_name_in_two_sets_are_two(paths: list[Path], tmp_path: Path) -> None:
    other = tmp_path / "other" / paths[0].name
    other.parent.mkdir()
    Image.new("RGB", (20, 30), "blue").save(other)
    shutil.copystat(paths[0], other)
    images = ImageCache(tmp_path / "cache")
    for path in (paths[0], other, paths[0], other):
        assert np.array_equal(images.load(path), loaded(path))


def test_a_path_is_the_same_however_it_is_spelt(
    paths: list[Path], tmp_path: Path, decoded: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for path in (paths[0], paths[0].relative_to(tmp_path)):
        ImageCache(tmp_path / "cache").load(path)
    assert len(decoded) == 1


@pytest.mark.parametrize(
    "change", [lambda b: b"", lambda b: b[:20], lambda b: b[:-1], lambda b: b + b"x", bytes.swapcase]
)
def test_a_damaged_entry_is_written_anew(
    change: Callable[[bytes], bytes], paths: list[Path], tmp_path: Path, decoded: list[Path]
) -> None:
    images = ImageCache(tmp_path / "cache")
    images.load(paths[0])
    (entry,) = (tmp_path / "cache").iterdir()
    entry.write_bytes(change(entry.read_bytes()))
    for _ in range(2):
        assert np.array_equal(images.load(paths[0]), loaded(paths[0]))
    assert len(decoded) == 2


def test_what_cannot_be_read_is_named_as_ever_and_never_kept(paths: list[Path], tmp_path: Path) -> None:
    images = ImageCache(tmp_path / "cache")
    images.load(paths[0])
    paths[0].unlink()
    paths[1].write_bytes(paths[1].read_bytes()[:200])
    for path, words in ((paths[0], "not there"), (paths[1], "cannot be read")):
        with pytest.raises(BadImageError, match=words):
            images.load(path)
    assert len(entries(tmp_path / "cache")) == 1


def start(code: str, *arguments: str | Path) -> subprocess.Popen:
    """Another process that runs `code` after the imports."""
    imports = "import os, resource, signal, sys\nfrom pathlib import Path\nfrom data.images import cache\n"
    imports += "from data.images.cache import ImageCache\ncache.RESERVE = 0\n"
    command = [sys.executable, "-c", imports + code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_processes_that_fill_a_cache_at_once_find_whole_entries_alone(
    paths: list[Path], tmp_path: Path, decoded: list[Path]
) -> None:
    code = (
        "import numpy as np\nfrom data.images.decode import load_image\n"
        "for _ in range(60):\n"
        "    for path in map(Path, sys.argv[2:]):\n"
        "        pixels = ImageCache(sys.argv[1]).load(path)\n"
        "        assert np.array_equal(pixels, np.asarray(load_image(path))), path\n"
        "    for entry in Path(sys.argv[1]).glob('?' * 32):\n"
        "        entry.unlink(missing_ok=True)\n"  # so that they write all the time
    )
    running = [start(code, tmp_path / "cache", *paths) for _ in range(3)]
    for process in running:
        _, errors = process.communicate(timeout=600)
        assert (process.returncode, errors) == (0, "")
    assert entries(tmp_path / "cache") == []
    for path in paths * 2:
        ImageCache(tmp_path / "cache").load(path)
    assert decoded == paths


LIMITED = "resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))\n"  # a disk that takes 500 bytes of a file
KILLED = "resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\nsignal.signal(signal.SIGXFSZ, signal.SIG_DFL)\n"


def test_a_process_killed_while_it_writes_leaves_no_entry(paths: list[Path], tmp_path: Path) -> None:
    process = start(
        KILLED + LIMITED + "ImageCache(sys.argv[1]).load(Path(sys.argv[2]))", tmp_path / "c", paths[0]
    )
    process.communicate(timeout=600)
    assert process.returncode < 0, "killed by the signal"
    (part,) = entries(tmp_path / "c")
    assert part.endswith(".part")
    assert np.array_equal(ImageCache(tmp_path / "c").load(paths[0]), loaded(paths[0]))
    assert len(entries(tmp_path / "c")) == 2


def test_a_full_disk_ends_nothing_and_is_told_once(paths: list[Path], tmp_path: Path) -> None:
    code = (
        LIMITED
        + "images = ImageCache(sys.argv[1])\n"
        + "for path in map(Path, sys.argv[2:]):\n    print(images.load(path).sum())\n"
    )
    process = start(code, tmp_path / "cache", *paths)
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 0
    assert output.split() == [str(loaded(path).sum()) for path in paths]
    (line,) = errors.splitlines()
    assert "data.cache: cannot write to" in line
    assert entries(tmp_path / "cache") == [], "nor is half an entry left"


def test_room_is_left_for_others(
    paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cache, "RESERVE", shutil.disk_usage(tmp_path).total)
    images = ImageCache(tmp_path / "cache")
    for path in paths:
        assert np.array_equal(images.load(path), loaded(path))
    assert entries(tmp_path / "cache") == []
    assert len(caplog.records) == 1


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"data\.cache: cannot make '.*file/cache'"):
        ImageCache(tmp_path / "file" / "cache")


def test_the_size_is_said_before(
    paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    images = ImageCache(tmp_path / "cache")
    images.log_size(paths * 50)
    assert cache._decoded_size(paths[0]) == 30 * 20 * 3
    monkeypatch.setattr(cache, "_decoded_size", lambda path: 500_000)
    images.log_size(paths * 5000)
    small, large = (record.getMessage() for record in caplog.records)
    assert "400 decoded images take about 0.0 GB" in small
    assert "40,000 decoded images take about 20.0 GB" in large
    assert str(tmp_path / "cache") in large


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_with_a_cache(people: Path, tmp_path: Path, workers: int) -> None:
    def batches(folder: Path | None) -> list[torch.Tensor]:
        place = {"image_root": str(people / "imgs"), "cleaning": "tbps-clip"}
        data = DataOptions(**place, batch_size=8, num_workers=workers, cache=folder and str(folder))
        options = dataclasses.replace(Options(), misc=MiscOptions(device="cpu"), data=data)
        processor = ImageProcessor((32, 16), (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
        splits = Splits(**read_splits(people))
        built = build_loaders(options, splits, CLIPTokenizer(), processor, VIEWS)
        return [view for _ in range(2) for batch in built.train for view in batch.images.values()]

    plain = batches(None)
    for _ in range(2):  # filling it, and full
        assert all(torch.equal(a, b) for a, b in zip(plain, batches(tmp_path / "cache"), strict=True))
    assert len(entries(tmp_path / "cache")) == 20
