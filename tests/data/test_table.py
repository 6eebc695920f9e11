"""Tables of users' own data: CSV and JSON lines."""

import json
from pathlib import Path

import pytest

from data.annotations import read_splits
from data.types import NOBODY, Record
from options import UserError

HEAD = "image,person_id,caption,split,language\n"


def table(tmp_path: Path, text: str | bytes, name: str = "mine.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def record(image: str, person_id: int, *captions: str, language: str = "en") -> Record:
    return Record(image, person_id, captions, (), language)


def mistake(path: Path, **settings: object) -> str:
    with pytest.raises(UserError) as caught:
        read_splits(path, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_rows_of_an_image_are_one_record_in_order_of_appearance(tmp_path: Path) -> None:
    rows = (
        "b.jpg,7,a man,train,en\na.jpg,3,a woman,test,en\nc.jpg,7,him again,train,en\nb.jpg,7,tall,train,en\n"
    )
    found = read_splits(table(tmp_path, HEAD + rows))
    assert found == {
        "train": {"en": [record("b.jpg", 7, "a man", "tall"), record("c.jpg", 7, "him again")]},
        "val": {},
        "test": {"en": [record("a.jpg", 3, "a woman")]},
    }


@pytest.mark.parametrize("name", ["mine.csv", "mine.txt", "mine.json"])
def test_the_name_of_a_table_says_nothing(tmp_path: Path, name: str) -> None:
    csv = read_splits(table(tmp_path, HEAD + "a.jpg,1,a man,test,en\n", name))
    line = {"image": "a.jpg", "person_id": 1, "caption": "a man", "split": "test", "language": "en"}
    lines = read_splits(table(tmp_path, json.dumps(line) + "\n\n", name))
    assert csv["test"] == lines["test"] == {"en": [record("a.jpg", 1, "a man")]}


@pytest.mark.parametrize(
    "text",
    [
        '\ufeffimage;person_id;caption;split\r\ncam\\a.jpg;1;"in red, ""smart""; with a\nbag";Test\r\n;;\r\n',
        'image,person_id,caption,split\ncam/a.jpg,1,"in red, ""smart""; with a\nbag",test\n',
        'Split\tCaption\tPerson_ID \tImage\tcam\ntest\t"in red, ""smart""; with a\nbag"\t1\tcam/a.jpg\t4\n',
    ],
    ids=["as Excel writes it", "commas", "tabs, other order, one more column"],
)
def test_marks_quotes_and_line_ends_of_every_spreadsheet_are_understood(tmp_path: Path, text: str) -> None:
    found = read_splits(table(tmp_path, text))["test"]["en"]
    assert found == [record("cam/a.jpg", 1, 'in red, "smart"; with a\nbag')]


def test_without_its_column_a_row_is_an_english_one_of_the_test_split(tmp_path: Path) -> None:
    csv = read_splits(table(tmp_path, "image,person_id,caption\na.jpg,1,a man\n"))
    lines = read_splits(table(tmp_path, '{"image": "a.jpg", "person_id": 1, "caption": "a man"}'))
    assert csv == lines == {"train": {}, "val": {}, "test": {"en": [record("a.jpg", 1, "a man")]}}


def test_names_for_persons_are_numbered_over_all_splits(tmp_path: Path) -> None:
    rows = (
        "a.jpg,7,a man,train,en\nb.jpg,Li 李,a woman,train,en\nc.jpg,Li 李,her,test,en\nd.jpg,-1,,test,en\n"
    )
    path = table(tmp_path, HEAD + rows)
    found = read_splits(path)
    assert [r.person_id for split in ("train", "test") for r in found[split]["en"]] == [0, 1, 1, NOBODY]
    assert read_splits(path, ["test"])["test"] == found["test"]  # evaluation alone numbers them alike


def test_languages_of_an_image_are_aligned_whatever_the_order_of_rows(tmp_path: Path) -> None:
    rows = "b.jpg,1,男人,test,ch\na.jpg,2,a woman,test,en\nb.jpg,1,a man,test,en\na.jpg,2,女人,test,ch\n"
    path = table(tmp_path, HEAD + rows)
    found = read_splits(path, ["test"], ["en", "ch"])["test"]
    assert [r.image for r in found["en"]] == [r.image for r in found["ch"]]
    assert {(r.image, *r.captions) for r in found["ch"]} == {("b.jpg", "男人"), ("a.jpg", "女人")}
    assert list(read_splits(path, ["test"], None)["test"]) == ["en", "ch"]


def test_rows_in_zh_and_in_ch_are_one_language(tmp_path: Path) -> None:
    path = table(tmp_path, HEAD + "a.jpg,1,男人,test,zh\nb.jpg,2,女人,test,ch\n")
    expected = {"ch": [record("a.jpg", 1, "男人", language="ch"), record("b.jpg", 2, "女人", language="ch")]}
    for languages in (["zh"], ["ch"], None):
        assert read_splits(path, ["test"], languages)["test"] == expected


def test_an_image_without_a_caption_in_one_language_is_named(tmp_path: Path) -> None:
    rows = "a.jpg,1,a man,test,en\nb.jpg,1,him,test,en\na.jpg,1,男人,test,ch\n"
    path = table(tmp_path, HEAD + rows)
    said = mistake(path, languages=["en", "ch"])
    assert "test split: image 'b.jpg' of person 1 is in en, but not in ch" in said
    assert len(read_splits(path)["test"]["en"]) == 2  # ch is not asked for
    assert "'fr' is missing in the test split" in mistake(path, languages=["fr"])


MALFORMED = {
    "marks alone": (HEAD + "a.jpg,1,...,test,en\n", "line 2: field 'caption' should have words, found '...'"),
    "blank image": (HEAD + ",1,a man,test,en\n", "line 2: field 'image' should be a path"),
    "image outside": (HEAD + "../a.jpg,1,a man,test,en\n", "line 2: field 'image' should be a path"),
    "blank person": (
        HEAD + "a.jpg, ,a man,test,en\n",
        "line 2: field 'person_id' should be a whole number or",
    ),
    "blank split": (
        HEAD + "a.jpg,1,a man,,en\n",
        "line 2: field 'split' should be train, val or test, found ''",
    ),
    "odd split": (HEAD + "a.jpg,1,a man,query,en\n", "line 2: field 'split' should be train, val or test"),
    "blank language": (HEAD + "a.jpg,1,a man,test,\n", "line 2: field 'language'"),
    "short row": (HEAD + "a.jpg,1,a man\n", "line 2: field 'language'"),
    "comma without quotes": (HEAD + "a.jpg,1,a man, tall,test,en\n", "line 2: more cells than the header"),
    "line of a later row": (
        HEAD + 'a.jpg,1,"a\nman",test,en\n\nb.jpg,1,!,test,en\n',
        "line 5: field 'caption' should have words",
    ),
    "two columns of a name": (
        "image,person_id,caption,Caption\na.jpg,1,a man,tall\n",
        "line 1: two columns 'caption'",
    ),
    "surrogate": (
        '{"image": "a.jpg", "person_id": 1, "caption": "a \\ud800"}',
        "line 1: field 'caption'",
    ),
    "surrogate in a name": (
        '{"image": "a.jpg", "person_id": "\\ud800", "caption": "a"}',
        "line 1: field 'person_id'",
    ),
    "open quote": (HEAD + 'a.jpg,1,"a man,test,en\nb.jpg,1,a man,test,en\n', "line 2: not CSV"),
    "no rows": (HEAD, "has no rows with captions"),
    "broken line": (
        '{"image": "a.jpg", "person_id": 1, "caption": "a"}\n{"image":\n',
        "line 2: expected fields",
    ),
    "id of 1.5": ('{"image": "a.jpg", "person_id": 1.5, "caption": "a"}', "line 1: field 'person_id'"),
    "id of true": ('{"image": "a.jpg", "person_id": true, "caption": "a"}', "line 1: field 'person_id'"),
    "number for a caption": ('{"image": "a.jpg", "person_id": 1, "caption": 5}', "line 1: field 'caption'"),
    "no caption at all": (HEAD + "a.jpg,1, ,test,en\n", "test split: no image has a caption in en"),
    "no caption": (
        '{"image": "a.jpg", "person_id": 1}',
        "no column 'caption'; the header has image, person_id",
    ),
    "split in one row alone": (
        '{"image": "b.jpg", "person_id": 1, "caption": "b"}\n'
        '{"image": "a.jpg", "person_id": 1, "caption": "a", "split": "train"}\n',
        "line 1: no field 'split'",
    ),
    "Latin letters of another time": (
        HEAD.encode() + b"a.jpg,1,\xe9t\xe9,test,en\n",
        "is not UTF-8 text (byte",
    ),
}


@pytest.mark.parametrize("fault", MALFORMED)
def test_a_malformed_row_is_named_by_line_and_column(tmp_path: Path, fault: str) -> None:
    text, said = MALFORMED[fault]
    path = table(tmp_path, text)
    message = mistake(path)
    assert said in message
    assert f"'{path}'" in message


def test_person_ids_of_any_length_are_read(tmp_path: Path) -> None:
    for digits, numbers in (("9" * 18, [10**18 - 1, 1]), ("9" * 19, [0, 1]), ("9" * 9000, [0, 1])):
        rows = f"a.jpg,{digits},a man,test,en\nb.jpg,1,a woman,test,en\n"
        found = read_splits(table(tmp_path, HEAD + rows))["test"]["en"]
        assert [record.person_id for record in found] == numbers


def test_a_header_without_the_columns_is_said(tmp_path: Path) -> None:
    path = table(tmp_path, "file,id,text\na.jpg,1,a man\n")
    for dataset in ("auto", "table"):
        said = mistake(path, dataset=dataset)
        assert (
            "line 1: no column 'image'; the header has file, id, text. Also understood: image_path, " in said
        )
    said = mistake(table(tmp_path, "a,b,c\n1,2,3\n"))
    assert (
        "nor a table with the columns image, person_id, caption: it is a text that begins with 'a,b,c" in said
    )


def test_all_faults_are_heard_and_the_sound_rows_kept_where_complaints_return(tmp_path: Path) -> None:
    rows = "a.jpg,1,a man,test,en\n../b.jpg,1,a man,test,en\nc.jpg,2,.,test,en\nd.jpg,3,x,other,en\n"
    heard: list[str] = []
    found = read_splits(table(tmp_path, HEAD + rows), report=lambda kind, message: heard.append(message))
    assert [message.split(": ")[0][-6:] for message in heard] == ["line 3", "line 4", "line 5"]
    assert found["test"]["en"] == [record("a.jpg", 1, "a man"), record("c.jpg", 2, ".")]
