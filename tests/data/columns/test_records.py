"""Records in columns are the records that they were made of, whatever is picked of them, and wherever."""

import pickle
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from data.columns import records as module
from data.columns.choices import Choices
from data.columns.records import Records, with_facts
from data.types import Record

RECORDS = [
    Record("a/1.jpg", 7, ("a man", "him, 男人"), ("one man", ""), "en"),
    Record("a/2.jpg", 0, (), (), "en"),
    Record("b/1 ü.jpg", 2**63 - 1, ("",), (), "en", ((("it", "that"), ("red",)),), (True,)),
    Record("a/1.jpg", -1, ("x" * 10_000,), (), "en", ((),), (False,)),
    Record("c.jpg", 7, ("three", "four", "five"), (), "en"),
]


@pytest.fixture(params=["memory", "batches", "file"])
def columns(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Records:
    if request.param == "batches":
        monkeypatch.setattr(module, "BATCH", 2)
    made = Records.of(iter(RECORDS), "en")
    if request.param == "file":
        table = with_facts(made)
        with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as out:
            out.write_table(table, max_chunksize=2)
        return Records.open(tmp_path / "a.arrow", "en")
    return made


def test_they_are_those_that_were_given(columns: Records) -> None:
    assert columns == RECORDS
    assert [columns[number] for number in range(-5, 5)] == RECORDS * 2
    assert (len(columns), columns.language) == (5, "en")
    for number in (5, -6):
        with pytest.raises(IndexError):
            columns[number]
    assert columns[1:4] == RECORDS[1:4]
    assert columns[::-2] == RECORDS[::-2]
    assert columns != RECORDS[1:]
    assert Records.of(columns, "en") is columns
    assert Records.of([], "en") == []


@pytest.mark.parametrize("rows", [[3, 0, 3], [], [4]])
def test_what_is_picked_is_told_as_of_a_list(columns: Records, rows: list[int]) -> None:
    for found, expected in (
        (columns, RECORDS),
        (columns.take(rows), [RECORDS[row] for row in rows]),
        (columns.take([4, 2, 0]).take([2, 1]), [RECORDS[0], RECORDS[2]]),
    ):
        assert found == expected
        assert list(found.images()) == [record.image for record in expected]
        assert found.person_ids.tolist() == [record.person_id for record in expected]
        assert found.num_captions.tolist() == [len(record.captions) for record in expected]
        assert found.num_persons == len({record.person_id for record in expected} - {-1})
        assert found.num_images == len({record.image for record in expected})
        assert found.num_rewritten == sum(record.num_rewritten for record in expected)
        assert found.has_back_translations == any(any(record.back_translations) for record in expected)
        assert found.noisy.tolist() == [mark for record in expected for mark in record.noisy]
        assert pickle.loads(pickle.dumps(found)) == expected


def test_a_file_is_mapped_by_whoever_gets_the_records_and_not_copied(tmp_path: Path) -> None:
    many = Records.of([RECORDS[3]] * 1000, "en")
    assert len(pickle.dumps(many)) > 10_000_000
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as sink, pa.ipc.new_file(sink, many.table.schema) as out:
        out.write_table(many.table)
    allocated = pa.total_allocated_bytes()
    opened = Records.open(tmp_path / "a.arrow", "en").take([3, 999])
    assert len(pickle.dumps(opened)) < 1000
    assert pickle.loads(pickle.dumps(opened)) == [RECORDS[3]] * 2
    assert pa.total_allocated_bytes() - allocated < 1_000_000


def test_the_digest_depends_on_all_that_is_held_and_not_on_the_batches(columns: Records) -> None:
    assert columns.digest() == Records.of(RECORDS, "de").digest()
    changes: list[list[Record]] = [[*RECORDS, RECORDS[0]], RECORDS[1:], RECORDS[::-1]]
    for name, value in (
        ("image", "a/2.jpgx"),
        ("person_id", 1),
        ("captions", ("a", "manhim, 男人")),
        ("back_translations", ("one man", "x")),
        ("rewrites", ((), ())),
        ("noisy", (True, False)),
    ):
        changes.append([replace(RECORDS[0], **{name: value}), *RECORDS[1:]])
    digests = {Records.of(changed, "en").digest() for changed in changes}
    digests |= {columns.digest(), columns.take([0, 1]).digest(), columns.take([1, 0]).digest()}
    assert len(digests) == len(changes) + 3


@pytest.mark.parametrize("draws", [False, True])
def test_samples_are_the_captions_one_after_another(draws: bool) -> None:
    rng = random.Random(0)
    languages = [
        [
            Record(
                f"{n}.jpg", n // 2 * 5, tuple(f"{name} {n} {k}" for k in range(rng.randrange(4))), (), name
            )
            for n in range(30)
        ]
        for name in ("en", "ch")
    ]
    if draws:
        expected = [
            tuple((record, number % len(record.captions)) for record in of_image if record.captions)
            for of_image in zip(*languages, strict=True)
            for number in range(max(len(record.captions) for record in of_image))
        ]
    else:
        expected = [
            ((record, n),) for part in languages for record in part for n in range(len(record.captions))
        ]
    choices = Choices([Records.of(part, part[0].language) for part in languages], draws)
    assert list(choices) == expected
    assert choices[-1] == expected[-1]
    assert len(choices) == len(expected)
    persons = [of_sample[0][0].person_id for of_sample in expected]
    ids = sorted(set(persons))
    assert choices.persons().tolist() == [ids.index(person) for person in persons]
    assert sorted(choices.images()) == sorted({of_sample[0][0].image for of_sample in expected})
    assert choices.noisy().tolist() == [False] * len(expected)
    assert choices.digest() != Choices(choices.languages[::-1], draws).digest()
    assert np.array_equal(pickle.loads(pickle.dumps(choices)).ends, choices.ends)
