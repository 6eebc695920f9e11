"""Arrow and Parquet files with captions, and with images inside, as two releases have them."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from data.annotations import load_data
from data.datasets import TrainingSet
from data.formats import read_splits
from data.images import contained
from data.images.decode import BadImageError, load_image
from data.types import Record
from options import UserError, load_options


def image(number: int) -> Image.Image:
    return Image.fromarray(np.full((8, 4, 3), number * 20, np.uint8))


def encoded(number: int) -> bytes:
    stream = io.BytesIO()
    image(number).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(autouse=True)
def _closed() -> None:
    for kept in (contained.arrow_table, contained.parquet_file, contained._row_group):
        kept.cache_clear()


def webperson(folder: Path, **changes: Any) -> Path:
    """Two Parquet files of three rows, in row groups of two."""
    (folder / "data").mkdir(parents=True)
    for part in range(2):
        numbers = [part * 3 + row for row in range(3)]
        columns = {
            "image": [{"bytes": encoded(number), "path": None} for number in numbers],
            "image_path": [f"0/{number}.png" for number in numbers],
            "caption1": [f"a man {number}" for number in numbers],
            "caption2": [f"him {number}" for number in numbers],
        }
        table = pa.table({**columns, **changes})
        file = folder / f"data/train-0000{part}-of-00002.parquet"
        parquet.write_table(table, file, row_group_size=2)
    return folder


def luperson_t(folder: Path, is_stream: bool = False) -> Path:
    folder.mkdir(parents=True)
    table = pa.table(
        {
            "image": [encoded(number) for number in range(4)],
            "caption": [["a man", "him"], ["a woman"], ["I'm sorry, but no"], ["a child"]],
            "image_id": [5, 6, 7, 8],
            "split": ["train", "train", "train", "test"],
        }
    )
    new = pa.ipc.new_stream if is_stream else pa.ipc.new_file
    with pa.OSFile(str(folder / "a.arrow"), "wb") as sink, new(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return folder


def test_webperson_is_read_with_the_images_inside(tmp_path: Path) -> None:
    folder = webperson(tmp_path / "web")
    files = [f"data/train-0000{part}-of-00002.parquet" for part in range(2)]
    expected = [Record(f"{files[n // 3]}/{n % 3}", n, (f"a man {n}", f"him {n}"), (), "en") for n in range(6)]
    assert read_splits(folder) == {"train": {"en": expected}, "val": {}, "test": {}}
    for number in (5, 0, 3, 2):
        loaded = load_image(folder / expected[number].image)
        assert np.array_equal(np.asarray(loaded), np.asarray(image(number)))
    alone = read_splits(folder / files[1])["train"]["en"]
    assert [record.image for record in alone] == [f"{Path(files[1]).name}/{row}" for row in range(3)]


@pytest.mark.parametrize("is_stream", [False, True])
def test_luperson_t_is_read_with_its_splits(
    is_stream: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = luperson_t(tmp_path / "t", is_stream)
    found = read_splits(folder)
    captions = [("a man", "him"), ("a woman",), (), ("a child",)]
    expected = [Record(f"a.arrow/{n}", n, each, (), "en") for n, each in enumerate(captions)]
    assert found == {"train": {"en": expected[:3]}, "val": {}, "test": {"en": expected[3:]}}
    assert "dropped 1 of 5 captions that are none: 1 refusals" in caplog.text
    assert np.array_equal(np.asarray(load_image(folder / "a.arrow/3")), np.asarray(image(3)))
    assert read_splits(folder, ["train"]) == {"train": {"en": expected[:3]}}


def test_paths_of_images_are_taken_where_no_images_are_inside(tmp_path: Path) -> None:
    table = pa.table({"image_path": ["0/1.jpg", "0/2.jpg"], "caption": ["a man", "x"]})
    parquet.write_table(table, tmp_path / "test-0.parquet")
    found = read_splits(tmp_path)["test"]["en"]
    assert [record.image for record in found] == ["0/1.jpg", "0/2.jpg"]


def test_samples_have_the_images_of_their_rows_and_a_row_without_one_is_skipped(tmp_path: Path) -> None:
    images = [{"bytes": encoded(n), "path": None} for n in range(2)] + [None]
    folder = webperson(tmp_path / "web", image=images)
    options = load_options({}, [f"data.annotation_file={folder}", f"data.image_root={folder}"])
    train = load_data(options, ["train"]).train
    samples = TrainingSet(train, folder, None, on_bad_image="skip", image_aug="none")
    first = samples[(0, 2)]
    assert np.array_equal(first.images["view1"].permute(1, 2, 0).numpy(), np.asarray(image(1)))
    assert first.bad_images == ()
    bad = samples[(0, 4)].bad_images
    assert bad[0] == "data/train-00000-of-00002.parquet/2"
    assert set(bad) <= {f"data/train-0000{part}-of-00002.parquet/2" for part in range(2)}
    with pytest.raises(BadImageError, match=r"row 2 of 'train-00000-of-00002.parquet' holds no image"):
        TrainingSet(train, folder, None)[(0, 4)]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("cut", r"00000-of-00002.parquet' cannot be read \("),
        ("empty", r"00000-of-00002.parquet' cannot be read \("),
        ("columns", r"expected the columns caption, .*, found image, image_path, text"),
        ("text", r"00000-of-00002.parquet' cannot be read \(.*UTF8"),
        ("null", r"row 1: field 'captions' should be a list of texts, found None in it"),
    ],
)
def test_a_damaged_file_is_one_line(damage: str, message: str, tmp_path: Path) -> None:
    folder = webperson(tmp_path / "web")
    file = folder / "data/train-00000-of-00002.parquet"
    if damage in ("cut", "empty"):
        file.write_bytes(file.read_bytes()[: 300 if damage == "cut" else 0])
    else:
        table = parquet.read_table(file)
        if damage == "columns":
            table = table.drop_columns("caption2").rename_columns({"caption1": "text"})
        elif damage == "text":
            texts = pa.Array.from_buffers(pa.string(), 3, pa.array([b"a", b"\xff", b"b"]).buffers())
            table = table.set_column(3, "caption2", texts)
        else:
            table = table.set_column(3, "caption2", pa.array(["x", None, "y"]))
        parquet.write_table(table, file)
    with pytest.raises(UserError, match=message) as caught:
        read_splits(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("is_stream", [False, True])
def test_an_arrow_file_that_was_cut_short_is_one_line(is_stream: bool, tmp_path: Path) -> None:
    folder = luperson_t(tmp_path / "t", is_stream)
    content = (folder / "a.arrow").read_bytes()
    for end in (0, 8, len(content) // 2, len(content) - 8, len(content) - 1):
        (folder / "a.arrow").write_bytes(content[:end])
        contained.arrow_table.cache_clear()
        with pytest.raises(UserError, match=r"a.arrow' cannot be read \(") as caught:
            read_splits(folder)
        assert "\n" not in str(caught.value)


def test_a_wrong_offset_in_an_arrow_file_ends_no_process(tmp_path: Path) -> None:
    folder = luperson_t(tmp_path / "t")
    content = (folder / "a.arrow").read_bytes()
    end = len(encoded(0)).to_bytes(4, "little") + (len(encoded(0)) + len(encoded(1))).to_bytes(4, "little")
    assert end in content
    (folder / "a.arrow").write_bytes(content.replace(end, b"\xff\xff\xff\x7f" + end[4:], 1))
    with pytest.raises(BadImageError, match="cannot be read"):
        load_image(folder / "a.arrow/0")
    with pytest.raises(UserError, match=r"a.arrow' cannot be read \("):
        read_splits(folder)


def test_rows_that_are_not_there_are_missing_images(tmp_path: Path) -> None:
    folder = luperson_t(tmp_path / "t")
    for path in ("a.arrow/4", "a.arrow/x", "b.arrow/0"):
        with pytest.raises(BadImageError):
            load_image(folder / path)
    other = tmp_path / "other"
    luperson_t(other)
    options = load_options({}, [f"data.annotation_file={folder}", f"data.image_root={tmp_path}"])
    with pytest.raises(UserError, match="lists 3 images that are not under"):
        load_data(options, ["train", "test"])
