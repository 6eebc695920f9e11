"""Images in tar files: those of their names, from whatever process, and damaged files in one line."""

import io
import multiprocessing
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.annotations import missing_images
from data.images import contained
from data.images.decode import BadImageError, load_image


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def png(number: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((6, 4, 3), number, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    contained.tar_members.cache_clear()
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number in range(20):
            add(tar, f"{number:03d}.png", png(number))
            add(tar, f"{number:03d}.json", b"{}")
    return tmp_path


def value_of(path: Path) -> int:
    (value,) = set(np.asarray(load_image(path)).flatten().tolist())
    return value


def test_an_image_is_that_of_its_name_in_any_order_and_process(root: Path) -> None:
    paths = [root / f"a.tar/{number:03d}.png" for number in (7, 0, 19, 3)]
    assert list(map(value_of, paths)) == [7, 0, 19, 3]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(value_of, paths * 5) == [7, 0, 19, 3] * 5


def test_names_that_are_not_in_it_are_missing(root: Path) -> None:
    names = ["a.tar/003.png", "a.tar/020.png", "a.tar/x", "b.tar/003.png"]
    assert missing_images(names, root) == names[1:]
    for name in names[1:]:
        with pytest.raises(BadImageError) as caught:
            load_image(root / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(BadImageError, match="it is a text that begins with"):
        load_image(root / "a.tar/003.json")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("within a file", "unexpected end of data"),
        ("within a header", "was cut short"),
        ("before the end", "was cut short"),
        ("twice", r"holds '003\.png' twice"),
        ("text", "not a tar|invalid header|bad checksum|file could not be opened"),
    ],
)
def test_a_damaged_tar_file_is_one_line(damage: str, message: str, root: Path) -> None:
    whole = (root / "a.tar").read_bytes()
    offset, size = contained.tar_members(root / "a.tar")["010.png"]
    contained.tar_members.cache_clear()
    if damage == "twice":
        with tarfile.open(root / "a.tar", "a") as tar:
            add(tar, "003.png", png(99))
    else:
        ends = {"within a file": offset + size // 2, "within a header": offset - 300, "text": 0}
        last, _ = contained.tar_members(root / "a.tar")["019.json"]
        contained.tar_members.cache_clear()
        ends["before the end"] = last + 512
        (root / "a.tar").write_bytes(whole[: ends[damage]] or b"no tar file at all" * 100)
    with pytest.raises(BadImageError, match=message) as caught:
        load_image(root / "a.tar/003.png")
    assert "\n" not in str(caught.value)
