"""Images inside tar files: at their place, from whatever process, and damaged files in one line."""

import json
import multiprocessing
import tarfile
from pathlib import Path

import numpy as np
import pytest

from data.annotations import load_data, missing_images
from data.images.contained import Member, tar_members
from data.images.decode import BadImageError, load_image
from options import UserError, load_options
from tests.data.tars import add, png


@pytest.fixture
def root(tmp_path: Path) -> Path:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number in range(20):
            add(tar, f"{number:03d}.png", png(number))
            add(tar, f"{number:03d}.json", b"{}")
    return tmp_path


def places(root: Path) -> dict[str, Member]:
    return {member.name: member for member in tar_members(root / "a.tar")}


def path_of(root: Path, name: str) -> Path:
    return root / f"a.tar/{places(root)[name].offset}/{name}"


def value_of(path: Path) -> int:
    (value,) = set(np.asarray(load_image(path))[..., 0].flatten().tolist())
    return value


def test_an_image_is_that_of_its_place_in_any_order_and_process(root: Path) -> None:
    paths = [path_of(root, f"{number:03d}.png") for number in (7, 0, 19, 3)]
    assert list(map(value_of, paths)) == [7, 0, 19, 3]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(value_of, paths * 5) == [7, 0, 19, 3] * 5


def test_places_that_are_not_in_it_are_missing(root: Path) -> None:
    own = path_of(root, "003.png").relative_to(root).as_posix()
    others = ["a.tar/999999999/003.png", "a.tar/-512/003.png", "a.tar/003.png", "b.tar/0/003.png"]
    assert missing_images([own, *others], root) == others
    for name in [*others, "a.tar/0/001.png", own.replace("/003.png", "/3.png")]:
        with pytest.raises(BadImageError) as caught:
            load_image(root / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(BadImageError, match="it is a text that begins"):
        load_image(path_of(root, "003.json"))


@pytest.mark.parametrize("kept", ["half of the image", "the header", "half of the header", "nothing"])
def test_an_image_of_a_file_that_was_cut_short_is_one_line(kept: str, root: Path) -> None:
    member, path = places(root)["010.png"], path_of(root, "010.png")
    lengths = {"half of the image": 512 + member.size // 2, "the header": 512, "half of the header": 256}
    whole = (root / "a.tar").read_bytes()
    (root / "a.tar").write_bytes(whole[: member.offset + lengths.get(kept, -9 * 1024)])
    with pytest.raises(BadImageError, match="cannot be read") as caught:
        load_image(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["images.arrow", "images.parquet"])
def test_a_damaged_file_of_images_is_an_error_line_of_the_data(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"no such file")
    items = [
        {"split": split, "id": 1, "file_path": f"{name}/0", "captions": ["a man"]}
        for split in ("train", "test")
    ]
    (tmp_path / "all.json").write_text(json.dumps(items))
    options = load_options({}, [f"data.annotation_file={tmp_path}/all.json", f"data.image_root={tmp_path}"])
    with pytest.raises(UserError, match=rf"data\.image_root: '.*{name}' cannot be read \("):
        load_data(options)
