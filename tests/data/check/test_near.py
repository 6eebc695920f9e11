"""Paths that differ from the disk: the error names the file that is there."""

import json
import unicodedata
from pathlib import Path

import pytest

from data.annotations import check_images, missing_images
from data.check.__main__ import main as check
from data.check.near import describe_missing
from data.columns.records import Records
from data.columns.splits import Splits
from data.formats import read_splits
from data.synthetic.render import render_people
from data.types import Record
from options import DataOptions, UserError

NFC, NFD = (unicodedata.normalize(form, "José/é.jpg") for form in ("NFC", "NFD"))


def folder(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


ALIKE = {  # what the record says, what is there, what is said of it
    "NFC on disk": (NFD, NFC, "the same letters in another Unicode form"),
    "NFD on disk": (NFC, NFD, "the same letters in another Unicode form"),
    "case of the suffix": ("cam/1.jpg", "cam/1.JPG", "which differs in upper and lower case"),
    "case of a folder": ("CAM/1.jpg", "cam/1.jpg", "which differs in upper and lower case"),
    "suffix": ("cam/1.jpg", "cam/1.png", "which has another suffix"),
    "spelling of the suffix": ("cam/1.jpeg", "cam/1.jpg", "which has another suffix"),
    "space at the end": ("cam/1.jpg ", "cam/1.jpg", "which differs in spaces"),
    "two spaces": ("cam/a b.jpg", "cam/a  b.jpg", "which differs in spaces"),
    "space that does not break": ("cam/a\u00a0b.jpg", "cam/a b.jpg", "which differs in spaces"),
    "nothing that is seen": ("cam/\u200ba.jpg", "cam/a.jpg", "which differs in spaces"),
    "wide letters": ("cam/\uff11.jpg", "cam/1.jpg", "which differs in spaces or characters that look alike"),
    "doubled folder": ("imgs/imgs/cam/1.jpg", "imgs/cam/1.jpg", "paths without 'imgs/' would fit"),
    "other drive": ("D:/data/imgs/cam/1.jpg", "cam/1.jpg", "paths must be relative to the root"),
    "another machine": ("/home/li/imgs/cam/1.jpg", "cam/1.jpg", "paths must be relative to the root"),
    "server": ("//nas/imgs/cam/1.jpg", "cam/1.jpg", "paths must be relative to the root"),
}


@pytest.mark.parametrize("case", ALIKE)
def test_the_file_that_a_path_may_mean_is_named(tmp_path: Path, case: str) -> None:
    image, there, said = ALIKE[case]
    root = folder(tmp_path / "data", there, "other/2.jpg")
    assert missing_images([image], root) == [image]
    (line,) = describe_missing([image], root)
    first, _, second = line.partition("; there is ")
    assert said in second
    assert eval(first) == image
    quoted = second[: second.index("'", 1) + 1]
    assert eval(quoted) == there
    assert unicodedata.normalize("NFKC", first) != unicodedata.normalize(
        "NFKC", quoted
    )  # they look different


@pytest.mark.parametrize(
    ("image", "there", "root", "fits"),
    [
        ("cam/1.jpg", "imgs/cam/1.jpg", ".", "imgs"),
        ("cam/1.jpg", "sets/imgs/cam/1.jpg", ".", "sets/imgs"),
        ("imgs/cam/1.jpg", "imgs/cam/1.jpg", "imgs", "."),
        ("imgs/cam/1.jpg", "imgs/cam/1.jpg", "imgs/cam", "."),
        ("cam/1.jpg", "cam/1.jpg", "imgs", "."),
    ],
)
def test_the_root_that_would_fit_is_named(
    tmp_path: Path, image: str, there: str, root: str, fits: str
) -> None:
    folder(tmp_path, there)
    (tmp_path / root).mkdir(exist_ok=True)
    (line,) = describe_missing([image], tmp_path / root)
    assert f"data.image_root='{(tmp_path / fits).absolute()}' would fit" in line
    assert missing_images([image], tmp_path / fits) == []


def test_what_is_somewhere_else_is_not_taken_for_the_file(tmp_path: Path) -> None:
    root = folder(tmp_path, "cam_a/1.jpg", "__MACOSX/cam_b/1.jpg", "cam_b/._1.jpg", "cam_b/1.2.jpg", "1.v2")
    assert describe_missing(["cam_b/1.jpg", "1.v1"], root) == ["'cam_b/1.jpg'", "'1.v1'"]


@pytest.mark.parametrize("found", ["absolute", "drive"])
def test_an_absolute_path_is_never_read_but_the_file_below_the_root_is_named(
    tmp_path: Path, found: str
) -> None:
    root = folder(tmp_path / "imgs", "cam/1.jpg")
    image = f"{root}/cam/1.jpg" if found == "absolute" else "C:\\imgs\\cam\\1.jpg"
    item = {"split": "test", "file_path": image, "id": 1, "captions": ["a man"]}
    (tmp_path / "a.json").write_text(json.dumps([item]))
    splits = Splits(**read_splits(tmp_path / "a.json"))
    with pytest.raises(UserError, match=r"there is 'cam/1\.jpg': paths must be relative to the root"):
        check_images(splits, DataOptions(annotation_file="a.json", image_root=str(root)))


def test_a_run_names_the_near_file_of_the_first_missing_image(tmp_path: Path) -> None:
    root = folder(tmp_path / "imgs", "1.JPG")
    record = Record("1.jpg", 1, ("a man",), (), "en")
    with pytest.raises(
        UserError, match=r"\(first: '1.jpg'; there is '1.JPG', which differs in upper and low"
    ):
        check_images(Splits({}, {}, {"en": Records.of([record], "en")}), DataOptions(image_root=str(root)))


def test_the_check_names_the_near_file_of_each_missing_image(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = dict(zip(("a.JPG", "b.png"), (image for _, image in render_people(2)), strict=False))
    for name, image in images.items():
        (tmp_path / "imgs").mkdir(exist_ok=True)
        image.save(tmp_path / "imgs" / name)
    items = [
        {"split": "test", "file_path": name, "id": 1, "captions": ["a man"]} for name in ("a.jpg", "b.png")
    ]
    (tmp_path / "a.json").write_text(json.dumps(items))
    flags = [str(tmp_path / "a.json"), str(tmp_path / "imgs"), "--out", str(tmp_path / "out")]
    assert check(flags) == 1
    assert "'a.jpg'; there is 'a.JPG', which differs in upper and lower case" in capsys.readouterr().out
