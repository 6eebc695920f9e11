"""An index follows its folder: what is known is not encoded again, and what is only away is not lost."""

import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.images.decode import load_image
from misc.search.__main__ import main
from misc.search.encoder import Encoder
from misc.search.index import Index
from misc.search.indexing import encoding
from misc.search.indexing.update import Update, update_index
from misc.search.storage.store import Store
from options import UserError
from tests.helpers.search import image_folder, save_image


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches that are encoded from now on."""
    sizes, real = [], Encoder.encode_batches

    def counting(self: Encoder, batches: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
        for features in real(self, batches):
            sizes.append(len(features))
            yield features

    monkeypatch.setattr(Encoder, "encode_batches", counting)
    return sizes


def images_below(root: Path) -> int:
    """An independent walk."""
    return sum(name.endswith((".png", ".jpg")) for _, _, names in os.walk(root) for name in names)


def updated(encoder: Encoder, images: Path, folder: Path, prune: bool = False) -> Update:
    """The outcome of an update, whose counts must add up to those of an independent walk."""
    found = update_index(encoder, images, folder, prune=prune)
    parts = found.kept + found.moved + found.copied + found.new + found.changed
    assert found.found == images_below(images) == parts + found.num_skipped
    index = Index.open(folder)
    assert len(index.paths) == found.total == parts
    assert index.num_missing == found.missing
    return found


def assert_right(encoder: Encoder, folder: Path) -> Index:
    """Each row has the feature of its image."""
    index = Index.open(folder)
    expected = [
        encoder.encode_images([load_image(index.image_root / path)]).numpy()[0] for path in index.paths
    ]
    assert index.features_of(range(len(index.paths))) == pytest.approx(np.stack(expected), abs=1e-3)
    return index


def test_renamed_copied_and_touched_images_are_not_encoded_again(
    encoder: Encoder, images: Path, index_folder: Path, encoded: list[int]
) -> None:
    updated(encoder, images, index_folder)
    ids = dict(zip(*(lambda index: (index.paths, index.ids))(Index.open(index_folder)), strict=True))
    (images / "a").rename(images / "c")
    shutil.copyfile(images / "b" / "01.png", images / "copy.png")
    shutil.copyfile(images / "b" / "01.png", images / "b" / "03.png")  # over another image
    os.utime(images / "b" / "05.png", (0, 0))
    one, other, middle = images / "b" / "07.png", images / "b" / "09.png", images / "middle.png"
    for source, target in ((one, middle), (other, one), (middle, other)):
        source.rename(target)
    for file in (one, other):
        os.utime(file)
    found = updated(encoder, images, index_folder)
    assert (found.kept, found.moved, found.copied, found.missing) == (2, 7, 2, 0)
    assert not encoded
    index = assert_right(encoder, index_folder)
    now = dict(zip(index.paths, index.ids, strict=True))
    assert [now[f"c/0{n}.png"] for n in (0, 2)] == [ids[f"a/0{n}.png"] for n in (0, 2)]
    assert now["b/09.png"] == ids["b/07.png"]
    assert len(set(index.ids.tolist())) == len(index.paths)
    assert updated(encoder, images, index_folder).kept == 11


def test_an_image_that_is_away_is_kept_but_not_ranked_until_it_is_pruned(
    encoder: Encoder, images: Path, index_folder: Path, tmp_path: Path
) -> None:
    updated(encoder, images, index_folder)
    (images / "a").rename(tmp_path / "away")
    found = updated(encoder, images, index_folder)
    assert (found.kept, found.missing, found.dropped) == (5, 5, 0)
    index = assert_right(encoder, index_folder)
    queries = np.eye(2, encoder.embed_dim, dtype=np.float32)
    assert np.sort(index.search(queries, 10)[1]).tolist() == 2 * [list(range(5))]
    (tmp_path / "away").rename(images / "a")
    for file in (images / "a").iterdir():
        os.utime(file)
    assert updated(encoder, images, index_folder).kept == 10
    assert_right(encoder, index_folder)
    (images / "a").rename(tmp_path / "away")
    found = updated(encoder, images, index_folder, prune=True)
    assert (found.kept, found.missing, found.dropped) == (5, 0, 5)
    assert [file.stat().st_size for file in index_folder.glob("features-*")] == [5 * 2 * encoder.embed_dim]
    (tmp_path / "away").rename(images / "a")
    assert updated(encoder, images, index_folder).new == 5
    assert_right(encoder, index_folder)


def test_an_unmounted_root_or_a_wrong_one_changes_nothing(
    encoder: Encoder, images: Path, index_folder: Path, tmp_path: Path
) -> None:
    update_index(encoder, images, index_folder)
    before = Index.open(index_folder).header
    (tmp_path / "empty").mkdir()
    others = image_folder(tmp_path / "others", 12)  # with the same names
    for file in others.rglob("*.png"):
        save_image(file, 100 + int(file.stem))
    for root, message in (
        (tmp_path / "empty", "no image below"),
        (others, "none of the 10 images .*first: 'a/00.png'.*unchanged.*--out"),
    ):
        for prune in (False, True):
            with pytest.raises(UserError, match=f"IMAGE_ROOT: {message}"):
                update_index(encoder, root, index_folder, prune=prune)
    shutil.rmtree(images)
    image_folder(images / "unknown", 3)
    for file in images.rglob("*.png"):
        save_image(file, 200 + int(file.stem))
    with pytest.raises(UserError, match="none of the 10 images"):
        update_index(encoder, images, index_folder)
    assert Index.open(index_folder).header == before


def test_images_in_a_folder_that_cannot_be_listed_are_not_pruned(
    encoder: Encoder, images: Path, index_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update_index(encoder, images, index_folder)
    (images / "a" / "00.png").rename(images / "moved.png")
    (images / "b" / "01.png").unlink()
    real = os.scandir

    def scandir(folder: Path) -> object:
        if Path(folder).name == "a":
            raise PermissionError(13, "Permission denied")
        return real(folder)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", scandir)
        found = update_index(encoder, images, index_folder, prune=True)
    assert (found.kept, found.moved, found.missing, found.dropped, found.num_skipped) == (4, 1, 4, 1, 0)
    assert list(found.skipped) == ["a/"]
    assert updated(encoder, images, index_folder).encoded == 0
    assert len(assert_right(encoder, index_folder).paths) == 9


def test_a_changed_image_that_cannot_be_read_is_missing_until_it_is_back(
    encoder: Encoder, images: Path, index_folder: Path
) -> None:
    file = images / "b" / "01.png"
    whole = file.read_bytes()
    file.write_bytes(whole[:100])
    found = updated(encoder, images, index_folder)
    assert (found.kept, found.missing, found.num_skipped, list(found.skipped)) == (9, 1, 1, ["b/01.png"])
    file.write_bytes(whole)
    assert updated(encoder, images, index_folder).kept == 10
    save_image(file, 77)
    assert updated(encoder, images, index_folder).changed == 1
    assert_right(encoder, index_folder)


def test_a_file_that_changes_while_it_is_read_is_left_for_the_next_run(
    encoder: Encoder, images: Path, index_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fstat, times = os.fstat, itertools.count()

    def changing(file: int) -> os.stat_result:
        state = fstat(file)
        os.utime(images / "new.png", (1, next(times)))
        return state

    save_image(images / "new.png", 60)
    with monkeypatch.context() as patch:
        patch.setattr("os.fstat", changing)
        found = updated(encoder, images, index_folder)
    assert found.skipped == {"new.png": "it was changed while it was read"}
    assert updated(encoder, images, index_folder).new == 1
    assert_right(encoder, index_folder)


def write_format_1(index: Index, folder: Path, number: int, paths: list[str]) -> None:
    """Images of an index, and their features, as earlier versions wrote them."""
    folder.mkdir(parents=True, exist_ok=True)
    stats = [(index.image_root / path).stat() for path in paths]
    columns = [paths, [stat.st_size for stat in stats], [stat.st_mtime_ns for stat in stats]]
    (folder / f"images-{number}.json").write_text(json.dumps(columns))
    np.save(folder / f"features-{number}.npy", index.features_of([index.paths.index(path) for path in paths]))


@pytest.fixture
def old_folder(index: Index, tmp_path: Path) -> Path:
    """`index`, as earlier versions wrote it."""
    folder = tmp_path / "old"
    write_format_1(index, folder, 7, index.paths)
    names = ("image_root", "checkpoint", "identity", "options", "embed_dim")
    header = {name: getattr(index.header, name) for name in names} | {"generation": 7, "kind": "exact"}
    (folder / "index.json").write_text(json.dumps({"format": 1, **header}))
    return folder


def test_an_index_of_the_old_format_ranks_as_before_and_is_upgraded_without_encoding(
    encoder: Encoder, index: Index, images: Path, old_folder: Path, encoded: list[int]
) -> None:
    queries = encoder.encode_texts(["a man", "a woman in red"]).numpy()
    expected, encoded[:] = [part.tolist() for part in index.search(queries, 10)], []
    assert [part.tolist() for part in Index.open(old_folder).search(queries, 10)] == expected
    assert updated(encoder, images, old_folder).kept == 10
    assert [part.tolist() for part in Index.open(old_folder).search(queries, 10)] == expected
    assert not encoded
    assert {file.suffix for file in old_folder.iterdir()} == {".db", ".f16", ".txt"}
    save_image(images / "new.png", 50)
    assert updated(encoder, images, old_folder).encoded == 1


@pytest.mark.parametrize("generation", [0, 7])
def test_what_an_unfinished_update_of_the_old_format_encoded_is_used(
    generation: int, encoder: Encoder, index: Index, images: Path, old_folder: Path, encoded: list[int]
) -> None:
    header = json.loads((old_folder / "index.json").read_text()) | {"generation": generation}
    (old_folder / "index.json").write_text(json.dumps(header))
    write_format_1(index, old_folder, 7, index.paths[:4])
    write_format_1(index, old_folder / "parts", 1, index.paths[2:6])
    write_format_1(index, old_folder / "parts", 2, index.paths[6:])
    (old_folder / "parts" / "features-2.npy").write_bytes(b"")
    for name in ("images-x.json", "images-.json", "images-1-2.json", "images-9.json"):
        (old_folder / "parts" / name).write_text("[" * 100_000)
    if generation == 0:
        with pytest.raises(UserError, match="has no images yet"):
            Index.open(old_folder)
    assert updated(encoder, images, old_folder).encoded == (4 if generation else 6)
    assert_right(encoder, old_folder)


CUT_HEADER = b"\x93NUMPY\x01\x00\x3e\x00{'descr': '<f2', 'shape': (((" + b" " * 28 + b"\n"
OLD_DAMAGE = {
    "no list": lambda folder: (folder / "images-7.json").unlink(),
    "a truncated list": lambda folder: (folder / "images-7.json").write_text("[["),
    "a list of another length": lambda folder: (folder / "images-7.json").write_text("[[],[],[]]"),
    "a list nested too deeply": lambda folder: (folder / "images-7.json").write_text("[" * 100_000),
    "no features": lambda folder: (folder / "features-7.npy").unlink(),
    "truncated features": lambda folder: os.truncate(folder / "features-7.npy", 150),
    "features of another type": lambda folder: np.save(folder / "features-7.npy", np.zeros((10, 8))),
    "features with a truncated header": lambda folder: (folder / "features-7.npy").write_bytes(CUT_HEADER),
    "features in a zip": lambda folder: (folder / "features-7.npy").write_bytes(b"PK\5\6" + bytes(18)),
    "paths that leave the root": lambda folder: in_images(folder, 0, "a/../../b.png"),
    "absolute paths": lambda folder: in_images(folder, 0, "/b.png"),
    "paths that are numbers": lambda folder: in_images(folder, 0, 7),
    "paths that no file can have": lambda folder: in_images(folder, 0, "\ud800"),
    "sizes that are texts": lambda folder: in_images(folder, 1, "7"),
    "times of 65 bits": lambda folder: in_images(folder, 2, 2**64),
    "a header nested too deeply": lambda folder: (folder / "index.json").write_text('{"a":' * 100_000),
    "a truncated header": lambda folder: (folder / "index.json").write_text('{"format'),
    "a header of another type": lambda folder: (folder / "index.json").write_text("[]"),
}


def in_images(folder: Path, column: int, value: object) -> None:
    """Put a value where the list of images has a path (column 0), a size (1) or a time (2)."""
    columns = json.loads((folder / "images-7.json").read_text())
    columns[column][0] = value
    (folder / "images-7.json").write_text(json.dumps(columns))


@pytest.mark.parametrize("damage", OLD_DAMAGE)
def test_damage_of_the_old_format_is_reported(
    damage: str, encoder: Encoder, index: Index, old_folder: Path
) -> None:
    OLD_DAMAGE[damage](old_folder)
    for work in (
        lambda: Index.open(old_folder),
        lambda: update_index(encoder, index.image_root, old_folder),
    ):
        with pytest.raises(UserError, match=r"old' is damaged .*index again"):
            work()


def test_dimensions_time_and_digest_are_recorded(encoder: Encoder, tmp_path: Path) -> None:

    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    exif[0x8769] = {0x9003: "2024:05:06 07:08:09"}
    (tmp_path / "images").mkdir()
    Image.new("RGB", (30, 20), "red").save(tmp_path / "images" / "a.jpg", exif=exif)
    save_image(tmp_path / "images" / "b.png", 1)
    update_index(encoder, tmp_path / "images", tmp_path / "index")
    photo, plain = Store(tmp_path / "index").entries.values()
    content = (tmp_path / "images" / "a.jpg").read_bytes()
    assert photo.digest == hashlib.blake2b(content, digest_size=16).digest()
    assert (photo.width, photo.height, photo.taken) == (20, 30, "2024-05-06 07:08:09")
    assert (plain.width, plain.height, plain.taken) == (8, 16, None)


def test_an_index_can_be_searched_while_its_first_run_goes_on(
    encoder: Encoder,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder, seen = tmp_path / "index", []
    real = Encoder.encode_batches

    def looking(self: Encoder, batches: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
        for features in real(self, batches):
            with monkeypatch.context() as patch:
                patch.setattr(Encoder, "encode_batches", real)
                if seen:
                    assert main(["query", str(folder), "a man", "--json", str(tmp_path / "a.json")]) == 0
                    assert f"{sum(seen)} images are in the index so far" in caplog.text
                    assert len(json.loads((tmp_path / "a.json").read_text())[0]["results"]) == sum(seen)
            seen.append(len(features))
            yield features

    monkeypatch.setattr(encoding, "SECONDS_PER_PART", 0)
    monkeypatch.setattr(Encoder, "encode_batches", looking)
    assert updated(encoder, images, folder).new == 10
    assert seen == [4, 4, 2]
    caplog.clear()
    monkeypatch.setattr(Encoder, "encode_batches", real)
    assert main(["query", str(folder), "a man", "--json", str(tmp_path / "a.json")]) == 0
    assert "so far" not in caplog.text
