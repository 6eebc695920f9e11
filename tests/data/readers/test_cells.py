"""Tables as programs write them: encodings, separators, names of columns, persons, workbooks."""

import json
import logging
import sys
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

import pytest

from data.formats import read_splits
from data.types import Record
from options import UserError

EXPECTED = [
    Record("cam/a.jpg", 7, ("a man, in red", "him"), (), "en"),
    Record("cam/b.jpg", 9, ("a woman",), (), "en"),
]
ROWS = [("cam/a.jpg", 7, "a man, in red"), ("cam/a.jpg", 7, "him"), ("cam/b.jpg", 9, "a woman")]
CSV = 'image,person_id,caption\ncam/a.jpg,7,"a man, in red"\ncam/a.jpg,7,him\ncam/b.jpg,9,a woman\n'


def table(tmp_path: Path, content: str | bytes, name: str = "mine.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_records(path: Path, **settings: object) -> list[Record]:
    return read_splits(path, ["test"], **settings)["test"]["en"]


def mistake(path: Path, **settings: object) -> str:
    with pytest.raises(UserError) as caught:
        read_splits(path, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


test_records.__test__ = False


def objects(image: str, person: str, caption: str) -> list[dict[str, object]]:
    return [dict(zip((image, person, caption), row, strict=True)) for row in ROWS]


KINDS = {
    "array": json.dumps(objects("image", "person_id", "caption")),
    "array of many lines": json.dumps(objects("image", "person_id", "caption"), indent=2),
    "array with other names": json.dumps(objects("file_path", "pid", "text")),
    "array of captions for each image": json.dumps(
        [
            {"image": "cam/a.jpg", "id": 7, "captions": ["a man, in red", "him"], "width": 3},
            {"image": "cam/b.jpg", "id": 9, "captions": ["a woman"], "width": 3},
        ]
    ),
    "object with an array": json.dumps({"info": {}, "annotations": objects("img_path", "pid", "sentence")}),
    "object of splits, one of them empty, beside something else": json.dumps(
        {"val": [], "Test": objects("image", "pid", "caption"), "info": {"year": 2024}}
    ),
    "object of splits": json.dumps({"Test": objects("image", "pid", "caption")}),
    "lines": "\n".join(map(json.dumps, objects("filename", "identity", "description"))),
    "UTF-16": CSV.encode("utf-16"),
    "UTF-16, big end first": b"\xfe\xff" + CSV.encode("utf-16-be"),
    "UTF-16 without a mark": CSV.encode("utf-16-le"),
    "UTF-16 of JSON": json.dumps(objects("image", "person_id", "caption")).encode("utf-16"),
    "separator line": "sep=;\r\nimage;person_id;caption\r\n"
    "cam/a.jpg;7;a man, in red\r\ncam/a.jpg;7;him\r\ncam/b.jpg;9;a woman\r\n",
    "separator line in quotes": '\ufeff"sep=|"\nimage|person_id|caption\n'
    "cam/a.jpg|7|a man, in red\ncam/a.jpg|7|him\ncam/b.jpg|9|a woman\n",
    "bars": "image|person_id|caption\ncam/a.jpg|7|a man, in red\ncam/a.jpg|7|him\ncam/b.jpg|9|a woman\n",
    "bars and commas": "image|person_id|caption|a, b, c, d\n"
    "cam/a.jpg|7|a man, in red|\ncam/a.jpg|7|him|\ncam/b.jpg|9|a woman|\n",
    "names with spaces": CSV.replace("image,person_id,caption", "Image Path, PID ,Text"),
    "spaces in all cells": 'image, person_id, caption\n cam/a.jpg , 7 , "a man, in red"\ncam/a.jpg ,7,him \n'
    "\tcam/b.jpg,\u00a09, a woman\n",
    "names with capitals": CSV.replace("image,person_id,caption", "imagePath,personID,sentences"),
    "spaces behind quotes": 'image,person_id,caption\n"cam/a.jpg" ,"7"  ,"a man, in red"  \r\n'
    'cam/a.jpg,7,him\ncam/b.jpg,"9" ,  "a woman"\n',
    "an empty line below the separator": "sep=|\n\n" + CSV.replace(",", "|").replace("man| in", "man, in"),
    "quotes after a comma and a space": CSV.replace(',"a man', ', "a man'),
    "one person in three spellings": CSV.replace("cam/a.jpg,7,him", "cam/a.jpg,7.0,him").replace(
        "cam/a.jpg,7,", "cam/a.jpg,007,", 1
    ),
    "lines of the first Macintosh": CSV.replace("\n", "\r"),
    "numbers of a German spreadsheet": CSV.replace(",", ";")
    .replace("man; in", "man, in")
    .replace(";7;", ";7,0;"),
    "wide digits": CSV.replace(",7,", ",\uff17,"),
    "numbers of pandas": CSV.replace(",7,", ",7.0,").replace(",9,", ",9.0,"),
    "numbers of pandas in JSON": json.dumps(
        [{"image": i, "person_id": float(p), "caption": c} for i, p, c in ROWS]
    ),
    "a column by its own name beside another": CSV.replace("caption", "caption,id,text", 1)
    .replace('red"', 'red",1,x')
    .replace("him", "him,2,x")
    .replace("woman", "woman,3,x"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_table_gives_the_same_records(tmp_path: Path, kind: str) -> None:
    assert test_records(table(tmp_path, KINDS[kind])) == EXPECTED


def test_persons_with_names_have_one_spelling_too(tmp_path: Path) -> None:
    rows = [
        ("a.jpg", "7"),
        ("b.jpg", "7.0"),
        ("c.jpg", "007"),
        ("d.jpg", "Jose\u0301  Li"),
        ("e.jpg", "José Li"),
    ]
    text = "image,person_id,caption\n" + "".join(f"{image},{person},a man\n" for image, person in rows)
    assert [record.person_id for record in test_records(table(tmp_path, text))] == [0, 0, 0, 1, 1]


def test_names_that_are_read_as_columns_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    test_records(table(tmp_path, CSV.replace("image,person_id,caption", "img_path,pid,text")))
    assert "'img_path' is read as image, 'pid' is read as person_id, 'text' is read as caption" in caplog.text


REFUSED = {
    "two names of a column": (
        CSV.replace("caption", "text,sentence", 1),
        "'text' and 'sentence' may both be the column 'caption'; call one of them so",
    ),
    "two names of the person": (
        "image,pid,id,caption\na.jpg,1,5,a man\n",
        "'pid' and 'id' may both be the column 'person_id'",
    ),
    "no person": (
        "image,label,caption\na.jpg,1,a man\n",
        "no column 'person_id'; the header has image, label",
    ),
    "the number of an image": (
        json.dumps([{"image": f"{i}.jpg", "image_id": i, "caption": "a man"} for i in range(3)]),
        "'image_id' may number the images or the persons: no two images share one. Call it 'person_id'",
    ),
    "the number of an image, spelt otherwise": (
        "image,Image ID,caption\na.jpg,1,a man\nb.jpg,2,her\n",
        "'image id' may number the images or the persons",
    ),
    "an array without captions": (
        json.dumps([{"image": "a.jpg", "person_id": 1, "words": "a man"}]),
        "no column 'caption'; the header has image, person_id, words. Also understood: captions, text",
    ),
    "a split that is no array": (
        json.dumps({"train": objects("image", "pid", "caption"), "test": {"0": 1}}),
        "should hold a list of records, found a dict of train, test",
    ),
    "the number of a row": (
        "id,image,caption\n1,a.jpg,a man\n2,a.jpg,him\n3,b.jpg,her\n",
        "'id' is another one in each row, also in those of one image: it numbers the rows",
    ),
    "a list in a cell": (
        "image,person_id,caption\na.jpg,1,\"['a man', 'him']\"\n",
        "line 2: field 'caption' holds a list, \"['a man', 'him']\"; give each caption a row",
    ),
    "COCO": (
        json.dumps({"images": [], "annotations": [{"id": 1, "image_id": 5, "caption": "a man"}]}),
        "should hold a list of records, found a dict of images, annotations",
    ),
    "no value": (
        "image,person_id,caption\na.jpg,nan,a man\n",
        "field 'person_id' should be a whole number or",
    ),
    "digits lost": ("image,person_id,caption\na.jpg,1E+05,a man\n", "field 'person_id' should be a whole"),
    "one line of a megabyte": ("x" * 1_000_000, "is not JSON"),
    "a page": ("<!DOCTYPE html><html>Sign in</html>", "it is an HTML page"),
    "a pointer": ("version https://git-lfs.github.com/spec/v1\n", "it is a Git LFS pointer"),
    "an archive": (b"PK\3\4" + bytes(50), "it is a ZIP archive"),
    "a half number": ("image,person_id,caption\na.jpg,1,a man\nb.jpg, ,a man\n", "line 3: field 'person_id'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_could_mean_something_else_is_refused(tmp_path: Path, case: str) -> None:
    content, said = REFUSED[case]
    assert said in mistake(table(tmp_path, content))


def test_an_image_id_that_several_images_share_is_the_person(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"image": f"{i}.jpg", "image_id": i // 2, "caption": "a man"} for i in range(4)]
    records = test_records(table(tmp_path, json.dumps(rows)))
    assert [record.person_id for record in records] == [0, 0, 1, 1]
    assert "'image_id' is taken for the person, as several images share one" in caplog.text


def test_an_id_that_no_two_rows_share_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    test_records(table(tmp_path, "id,image,text\n1,a.jpg,a man\n2,b.jpg,her\n"))
    assert "'id' is taken for the person, and is another one in each row" in caplog.text


def test_an_array_of_training_rows_is_not_the_test_split(tmp_path: Path) -> None:
    content = {"train": objects("image", "pid", "caption"), "test": []}
    found = read_splits(table(tmp_path, json.dumps(content)))
    assert found == {"train": {"en": EXPECTED}, "val": {}, "test": {}}


@pytest.mark.parametrize("name", ["valid", "Validation", "DEV", "val"])
def test_the_validation_split_has_many_names(tmp_path: Path, name: str) -> None:
    text = f"image,person_id,caption,split\na.jpg,1,a man,{name}\nb.jpg,2,her,Training\nc.jpg,3,him,testing\n"
    found = read_splits(table(tmp_path, text))
    assert {split: records["en"][0].image for split, records in found.items()} == {
        "train": "b.jpg",
        "val": "a.jpg",
        "test": "c.jpg",
    }


def workbook(sheets: dict[str, list[tuple[object, ...]]]) -> bytes:
    openpyxl = pytest.importorskip("openpyxl")
    book, buffer = openpyxl.Workbook(), BytesIO()
    book.remove(book.active)
    for title, rows in sheets.items():
        sheet = book.create_sheet(title)
        for row in rows:
            sheet.append(row)
    book.save(buffer)
    return buffer.getvalue()


def test_a_workbook_is_read_where_a_library_for_it_is_installed(tmp_path: Path) -> None:
    rows = [(), ("Image", "person_id", "caption"), *ROWS[:2], (None,), ("cam/b.jpg", 9.0, " a woman ")]
    assert test_records(table(tmp_path, workbook({"data": rows, "empty": []}), "mine.xlsx")) == EXPECTED
    said = mistake(table(tmp_path, workbook({"one": rows, "two": rows}), "two.xlsx"))
    assert "has the sheets 'one', 'two'; expected one" in said


def test_without_the_library_a_workbook_is_named_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    buffer = BytesIO()
    with ZipFile(buffer, "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
    said = mistake(table(tmp_path, buffer.getvalue(), "mine.xlsx"))
    assert "is an Excel workbook; pip install openpyxl, or save it as 'CSV UTF-8'" in said
