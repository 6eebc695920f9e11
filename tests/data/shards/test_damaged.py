"""Shards that are damaged, changed or missing: one line that names the file, or counted and skipped."""

import json
import tarfile
from pathlib import Path

import pytest

from data.formats import read_splits
from data.images.decode import BadImageError, load_image
from data.records import MALFORMED
from data.shards.__main__ import main as write
from main import main
from options import UserError
from tests.data.tars import add, png
from tests.helpers.tiny_config import write_config
from tests.helpers.whole_runs import error_line

OFFSET = 2048  # of the second image: header, content, header and fields of the first


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """Three shards without an index, of two samples each."""
    folder = tmp_path / "foreign"
    folder.mkdir()
    for shard in range(3):
        with tarfile.open(folder / f"part-{shard:03d}.tar", "w") as tar:
            for sample in range(2):
                add(tar, f"{sample}.png", png(10 * shard + sample))
                add(tar, f"{sample}.json", json.dumps({"captions": [f"a man {shard} {sample}"]}).encode())
    return folder


def refused(folder: Path, match: str) -> None:
    with pytest.raises(UserError, match=match) as caught:
        read_splits(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("length", [OFFSET + 100, OFFSET + 600, 3 * OFFSET])
def test_a_shard_that_was_cut_short_is_named(length: int, foreign: Path) -> None:
    file = foreign / "part-001.tar"
    file.write_bytes(file.read_bytes()[: min(length, 2 * OFFSET)])
    refused(foreign, r"part-001\.tar' cannot be read as a tar file \(.*\)\. Download it again")


def test_what_is_no_tar_file_is_named(foreign: Path) -> None:
    (foreign / "part-001.tar").write_text("<html>404</html>")
    refused(foreign, r"part-001\.tar' cannot be read as a tar file")


def test_a_missing_shard_is_named(foreign: Path) -> None:
    (foreign / "part-001.tar").unlink()
    refused(foreign, r"'part-001\.tar' is missing among the 2 shards")


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("1.png", png(5), r"holds '1\.png' twice"),
        ("2.png", png(5), r"sample '2': expected one image and its captions, found no \.json or \.txt"),
        (
            "2.json",
            b'{"captions": ["a"]}',
            r"sample '2': expected one image and .* found 0 images",
        ),
        ("1.jpg", png(5), r"sample '1': .* found 2 images"),
        ("1.ch.json", b'{"captions": [', r"sample '1': its '\.ch\.json' cannot be read"),
        ("1.ch.json", b"[1]", r"sample '1': expected fields and values"),
        ("1.ch.json", b'{"captions": 7}', r"field 'captions' should be a list of texts"),
    ],
)
def test_a_faulty_sample_is_named_or_counted(name: str, content: bytes, match: str, foreign: Path) -> None:
    with tarfile.open(foreign / "part-001.tar", "a") as tar:
        add(tar, name, content)
    refused(foreign, match)
    faults: list[tuple[str, str]] = []
    found = read_splits(foreign, report=lambda *fault: faults.append(fault))
    assert [kind for kind, _ in faults] == [MALFORMED]
    assert 5 <= len(found["train"]["en"]) <= 6


@pytest.fixture
def indexed(people: Path, tmp_path: Path) -> Path:
    out = tmp_path / "out"
    command = [str(people), str(people / "imgs"), "--out", str(out), "--per-shard", "8"]
    assert write([*command, "--workers", "1"]) == 0
    return out


def test_an_index_knows_its_shards(indexed: Path) -> None:
    file = indexed / "train-00001.tar"
    whole = file.read_bytes()
    file.write_bytes(whole[:-512])
    refused(indexed, r"train-00001\.tar' has [\d,]+ bytes, not the [\d,]+ of when it was written")
    file.unlink()
    refused(indexed, r"the shard '.*train-00001\.tar' is missing; copy it again")


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"version": 2}', '{"version": 1, "splits": 3, "shards": {}}']
)
def test_a_damaged_index_is_one_line(content: str, indexed: Path) -> None:
    (indexed / "shards.json").write_text(content)
    refused(indexed, "is no index of shards|index of shards in .* is damaged")


@pytest.mark.parametrize("length", [0, 100, 5000])
def test_damaged_columns_are_one_line(length: int, indexed: Path) -> None:
    file = indexed / "train-en.arrow"
    file.write_bytes(file.read_bytes()[:length])
    refused(indexed, "index of shards in .* is damaged")
    file.unlink()
    refused(indexed, "index of shards in .* is damaged")


def test_another_image_in_the_place_of_one_is_not_taken_for_it(foreign: Path) -> None:
    places = [foreign / record.image for record in read_splits(foreign)["train"]["en"]]
    with tarfile.open(foreign / "part-001.tar", "w") as tar:
        for sample in range(2):
            add(tar, f"{sample + 5}.png", png(sample))
            add(tar, f"{sample + 5}.json", b"{}")
    for place in places[2:4]:
        with pytest.raises(BadImageError, match=r"'\d\.png' is in its place; the file has changed") as caught:
            load_image(place)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("decision", ["error", "skip"])
def test_an_image_that_cannot_be_decoded_stops_the_run_or_is_skipped(
    decision: str, indexed: Path, people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = read_splits(indexed)["train"]["en"][3]
    name, offset, _ = record.image.split("/")
    with (indexed / name).open("r+b") as file:
        file.seek(int(offset) + 512)
        file.write(b"none")
    data = {"annotation_file": str(indexed), "image_root": str(indexed), "batch_size": 8}
    data |= {"sampler": "shards", "shuffle_window": 8, "shard_streams": 2, "on_bad_image": decision}
    changes = {"data": data, "output": {"dir": str(tmp_path / "run")}, "schedule": {"epoch": 1}}
    status = main(["--config", str(write_config(tmp_path / "config.yaml", people, 16, **changes))])
    if decision == "error":
        assert status == 2
        assert record.image in error_line(capsys)
    else:
        assert status == 0
        assert record.image in (tmp_path / "run/log.txt").read_text()
