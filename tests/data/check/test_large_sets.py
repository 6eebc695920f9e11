"""`python -m data.check` on sets for pretraining: captions that are none, images inside files, samples."""

import io
import json
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from data.check import __main__ as check
from data.check.images import CHUNK, drawn
from data.check.records import differences
from data.published import PUBLISHED, Count


def encoded(number: int, mode: str = "RGB") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, (20, 40), number).save(stream, "PNG")
    return stream.getvalue()


def titles(out: Path) -> dict[str, list[str]]:
    """What `findings.txt` lists: {title: details}."""
    blocks = (out / "findings.txt").read_text(encoding="utf-8").strip().split("\n\n")
    return {(lines := block.splitlines())[0].rpartition(":")[0]: lines[1:] for block in blocks}


def test_images_inside_files_are_looked_at_and_captions_that_are_none_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [encoded(1), None, encoded(2, "L"), encoded(1), encoded(3), b"none"]
    captions = ["a man", "a woman", "him", "I'm sorry, I cannot", "her", "a child"]
    folder = tmp_path / "MALS"
    folder.mkdir()
    rows = {"image": images, "caption1": captions, "caption2": [f"{text} 2" for text in captions]}
    parquet.write_table(pa.table(rows), folder / "train-0.parquet", row_group_size=2)
    assert check.main([str(folder), str(folder), "--out", str(tmp_path / "out")]) == 1
    found = {title: [line.strip() for line in lines] for title, lines in titles(tmp_path / "out").items()}
    place = "train-0.parquet/"
    assert [line.partition(":")[0] for line in found["defect: images that cannot be decoded"]] == [
        place + "1",
        place + "5",
    ]
    assert found["warning: images that are not 8-bit RGB (they are converted)"] == [f"{place}2: mode L"]
    assert found["warning: images of equal bytes of more than one person"] == [
        f"{place}0 (person 0), {place}3 (person 3)"
    ]
    where = f"'{folder / 'train-0.parquet'}' row 3"
    assert found["warning: captions that are none (dropped)"] == [
        f'refusals: {where}: "I\'m sorry, I cannot"',
        f'refusals: {where}: "I\'m sorry, I cannot 2"',
    ]
    assert "train        en        6        6        10" in capsys.readouterr().out


def test_a_sample_is_said_and_all_images_are_looked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"{number:03d}.png" for number in range(3 * CHUNK)]
    for name in names[:-1]:
        (tmp_path / name).write_bytes(encoded(0))
    (tmp_path / "a.json").write_text(json.dumps([{"file_path": name, "captions": [name]} for name in names]))
    command = [str(tmp_path / "a.json"), str(tmp_path), "--out", str(tmp_path / "out"), "--sample"]
    assert check.main([*command, "70"]) == 1
    assert "all 192 are looked for; --sample: 70 of them are decoded" in capsys.readouterr().out
    assert "191.png" in titles(tmp_path / "out")["defect: missing images"][0]
    assert check.main([*command, "0"]) == 2
    assert "error: --sample: expected 1 or more images, found 0" in capsys.readouterr().err


def test_a_sample_is_made_of_runs_of_neighbours() -> None:
    images = [str(number) for number in range(1000)]
    some = drawn(images, 3 * CHUNK)
    assert some == drawn(images, 3 * CHUNK) == sorted(set(some), key=int)
    assert {int(image) % CHUNK for image in some[::CHUNK]} == {0}
    assert drawn(images, None) == drawn(images, 1000) == images


def test_dropped_captions_count_as_published_ones_and_round_numbers_are_round() -> None:
    mals, about = PUBLISHED["MALS"]["train"], PUBLISHED["LUPerson-MLLM"]["train"]
    fewer = {("train", "en"): mals._replace(captions=mals.captions - 7)}
    assert not differences(fewer, "MALS", dropped=7).details
    assert differences(fewer, "MALS", dropped=6).details == [
        "train en: 1510323 captions (and 6 dropped), published 1510330"
    ]
    assert not differences({("train", "en"): Count(1_020_000, 1_020_000, 3)}, "LUPerson-MLLM").details
    few = {("train", "en"): about._replace(images=900_000)}
    assert differences(few, "LUPerson-MLLM").details == ["train en: 900000 images, published about 1000000"]
