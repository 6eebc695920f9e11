"""Shards hold what the data set holds, whoever reads them and however often the writer was ended."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.formats import read_splits
from data.images.decode import load_image
from data.shards.__main__ import main
from data.types import Record
from options import UserError
from tests.data.tars import add, png

NUM_IMAGES = 7  # of a shard


def write(people: Path, out: Path, *flags: str) -> Path:
    command = [str(people), str(people / "imgs"), "--out", str(out), "--per-shard", str(NUM_IMAGES)]
    assert main([*command, "--workers", "1", *flags]) == 0
    return out


@pytest.fixture(scope="module")
def shards(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(people, tmp_path_factory.mktemp("shards") / "out")


def original_name(shards: Path, record: Record) -> str:
    """The file that an image was, as the sample's fields have it."""
    file, _, name = record.image.split("/")
    with tarfile.open(shards / file) as tar:
        return str(json.loads(tar.extractfile(f"{Path(name).stem}.json").read())["file_path"])


def test_records_and_pixels_are_those_of_the_data_set(people: Path, shards: Path) -> None:
    expected, found = read_splits(people, languages=None), read_splits(shards, languages=None)
    assert list(found) == list(expected)
    for split, by_language in found.items():
        assert list(by_language) == list(expected[split])
        names = [original_name(shards, record) for record in by_language["en"]]
        assert sorted(names) == sorted(record.image for record in expected[split]["en"])
        assert (names == [record.image for record in expected[split]["en"]]) == (split != "train")
        for language, records in by_language.items():
            of_image = {record.image: record for record in expected[split][language]}
            for record, name in zip(records, names, strict=True):
                wanted = of_image[name]
                assert record == Record(record.image, *wanted_fields(wanted))
        same = [load_image(shards / record.image) for record in by_language["en"]]
        files = [load_image(people / "imgs" / name) for name in names]
        assert all(np.array_equal(a, b) for a, b in zip(same, files, strict=True))


def wanted_fields(record: Record) -> tuple[object, ...]:
    return record.person_id, record.captions, record.back_translations, record.language, record.rewrites


def test_an_index_tells_what_reading_the_shards_tells(shards: Path, tmp_path: Path) -> None:
    for file in shards.glob("*.tar"):
        (tmp_path / file.name).symlink_to(file)
    indexed, scanned = (read_splits(folder, languages=None) for folder in (shards, tmp_path))
    assert indexed == scanned
    assert indexed["train"]["en"].file


def test_a_writer_that_was_killed_goes_on_to_the_same_files(
    people: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = write(people, tmp_path / "out")
    index = json.loads((out / "shards.json").read_text())
    (out / "train-00001.tar").unlink()
    (out / "shards.json").write_text(json.dumps({name: index[name] for name in ("version", "made")}))
    with pytest.raises(UserError, match="are not all written; run"):
        read_splits(out)
    kept = (out / "train-00000.tar").stat().st_ino
    write(people, out)
    assert (out / "train-00000.tar").stat().st_ino == kept
    assert {f.name: f.read_bytes() for f in out.iterdir()} == {
        f.name: f.read_bytes() for f in shards.iterdir()
    }
    capsys.readouterr()
    command = [str(people), str(people / "imgs"), "--out", str(out), "--per-shard", "8"]
    assert main(command) == 2
    assert "holds shards of other annotations or settings" in capsys.readouterr().err


def test_images_are_resized_once_as_training_resizes_them(people: Path, tmp_path: Path) -> None:
    out = write(people, tmp_path / "out", "--size", "48", "16", "--quality", "100")
    record = read_splits(out)["test"]["en"][0]
    image = load_image(people / "imgs" / read_splits(people)["test"]["en"][0].image)
    found = np.asarray(load_image(out / record.image)).astype(int)
    expected = np.asarray(image.resize((16, 48), Image.Resampling.BICUBIC)).astype(int)
    assert found.shape == (48, 16, 3)
    assert np.abs(found - expected).mean() < 2  # JPEG's loss


@pytest.mark.parametrize("flags", [[], ["--skip"]])
def test_an_image_that_cannot_be_read_is_an_error_or_left_out(
    flags: list[str], people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    items = [{"split": "train", "id": i, "file_path": f"{i}.png", "captions": ["a man"]} for i in range(5)]
    (tmp_path / "all.json").write_text(json.dumps(items))
    for number in range(5):
        Image.new("RGB", (4, 8), (number, 0, 0)).save(tmp_path / f"{number}.png")
    (tmp_path / "3.png").write_bytes(b"no image")
    command = [str(tmp_path / "all.json"), str(tmp_path), "--out", str(tmp_path / "out"), *flags]
    assert main([*command, "--workers", "1"]) == (0 if flags else 2)
    said = capsys.readouterr()
    if flags:
        assert "without 1 that cannot be read" in said.out
        records = read_splits(tmp_path / "out", ["train"])["train"]["en"]
        values = [np.asarray(load_image(tmp_path / "out" / r.image))[0, 0, 0] for r in records]
        assert {r.person_id: v for r, v in zip(records, values, strict=True)} == {0: 0, 1: 1, 2: 2, 4: 4}
    else:
        assert said.err.count("\n") == 1
        assert "3.png' cannot be read (it is a text that begins" in said.err


def test_shards_of_others_hold_texts_or_fields(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with tarfile.open(tmp_path / "pairs-000.tar", "w") as tar:
        for key, name, text in (("a/1", "txt", b"a man\n"), ("a/2", "txt", b"I'm sorry, I cannot say.")):
            add(tar, f"{key}.png", png(int(key[-1])))
            add(tar, f"{key}.{name}", text)
        add(tar, "a/3.json", json.dumps({"caption": "a woman", "url": "x"}).encode())
        add(tar, "a/3.png", png(3))
    with tarfile.open(tmp_path / "val-000.tar", "w") as tar:
        add(tar, "1.png", png(9))
        add(tar, "1.json", json.dumps({"captions": ["a boy", "a child"]}).encode())
    found = read_splits(tmp_path)
    captions = {split: [r.captions for r in found[split]["en"]] for split in ("train", "val")}
    assert captions == {"train": [("a man",), (), ("a woman",)], "val": [("a boy", "a child")]}
    assert [r.person_id for r in found["train"]["en"]] == [0, 1, 2]
    assert "dropped 1 of 5 captions that are none: 1 refusals" in caplog.text
    pixels = [np.asarray(load_image(tmp_path / r.image))[0, 0, 0] for r in found["train"]["en"]]
    assert pixels == [1, 2, 3]
