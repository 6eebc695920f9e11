"""`python -m data.check`: planted defects are named, sound data passes, mistakes end in one line."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data.check import __main__ as check
from data.check.images import DIGEST, find_oddities
from data.published import NAMES, PUBLISHED, Count, recognise
from data.synthetic.write import Parameters, generate

Items = list[dict[str, Any]]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 images of 20 persons; the val and test splits hold two persons each."""
    folder = tmp_path_factory.mktemp("check") / "sound"
    generate(folder, Parameters(20, 0, 2, 2))
    return folder


class Copy:
    """A data set to plant defects in: all images of `sound`, its English and Chinese files."""

    def __init__(self, sound: Path, folder: Path) -> None:
        self.folder, self.images = folder, folder / "imgs"
        for path in sound.rglob("*.jpg"):
            target = folder / path.relative_to(sound)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
        for split in ("train", "val", "test"):
            for language in ("en", "ch"):
                name = f"{split}_reid_{language}.json"
                (folder / name).write_bytes((sound / name).read_bytes())

    def change(self, name: str, change: Callable[[Items], object]) -> None:
        path = self.folder / name
        items = json.loads(path.read_text(encoding="utf-8"))
        change(items)
        path.write_text(json.dumps(items), encoding="utf-8")

    def both(self, split: str, change: Callable[[Items], object]) -> None:
        """The same change in both languages."""
        for language in ("en", "ch"):
            self.change(f"{split}_reid_{language}.json", change)

    def items(self, split: str) -> Items:
        return json.loads((self.folder / f"{split}_reid_en.json").read_text(encoding="utf-8"))

    def image(self, split: str, row: int) -> Path:
        return self.images / self.items(split)[row]["file_path"]


@pytest.fixture
def data(sound: Path, tmp_path: Path) -> Copy:
    return Copy(sound, tmp_path / "data")


def findings(out: Path) -> dict[str, list[str]]:
    """What `findings.txt` lists: {"defect: title": details}."""
    listed: dict[str, list[str]] = {}
    for line in (out / "findings.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith(("defect: ", "warning: ")):
            details = listed.setdefault(line.rpartition(":")[0], [])
        elif line.startswith("    "):
            details.append(line.strip())
    return listed


LONG = "warning: captions of more than 77 tokens (the clip backbone cuts them there)"


def run(data: Copy, *arguments: str) -> tuple[int, dict[str, list[str]]]:
    out = data.folder.parent / "out"
    status = check.main([str(data.folder), str(data.images), "--out", str(out), *arguments])
    return status, findings(out)


def clear_image(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1500])


def to_cmyk(path: Path) -> None:
    Image.open(path).convert("CMYK").save(path, "JPEG")


def turn(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(path).save(path, "JPEG", exif=exif)


def narrow(path: Path) -> None:
    Image.open(path).resize((8, 200)).save(path, "JPEG")


def same_caption(items: Items) -> None:
    other = next(item for item in items if item["id"] != items[0]["id"])
    other["captions"][0] = items[0]["captions"][0]


def give_to_another(items: Items) -> None:
    other = next(item["id"] for item in items if item["id"] != items[3]["id"])
    items.append({**items[3], "id": other})


def repeat_caption(items: Items) -> None:
    items[2]["captions"][1] = items[2]["captions"][0]


def remove_person_images(data: Copy) -> None:
    items = data.items("test")
    for row, item in enumerate(items):
        if item["id"] == items[0]["id"]:
            data.image("test", row).unlink()


# kind: (how it is planted, the title it is listed under, what its lines name)
PLANTED: dict[str, tuple[Callable[[Copy], object], str, str]] = {
    "missing": (lambda d: d.image("train", 3).unlink(), "defect: missing images", ".jpg"),
    "empty": (lambda d: clear_image(d.image("train", 4)), "defect: images of 0 bytes", ".jpg"),
    "truncated": (lambda d: cut(d.image("train", 5)), "defect: images that cannot be decoded", "truncated"),
    "odd mode": (
        lambda d: to_cmyk(d.image("train", 6)),
        "warning: images that are not 8-bit RGB (they are converted)",
        "mode CMYK",
    ),
    "turned": (
        lambda d: turn(d.image("train", 7)),
        "warning: images turned by their EXIF tag (they are set upright)",
        "orientation 6",
    ),
    "extreme": (lambda d: narrow(d.image("train", 8)), "warning: images of extreme size", "8 x 200 pixels"),
    "blank caption": (
        lambda d: d.change("train_reid_en.json", lambda items: items[9]["captions"].__setitem__(0, " . ")),
        "defect: captions without words",
        "train_reid_en.json' record 9: field 'captions'",
    ),
    "unpaired": (
        lambda d: d.change("train_reid_en.json", lambda items: items[10]["captions_bt"].pop()),
        "defect: back-translations that do not pair with their captions",
        "train_reid_en.json' record 10: field 'captions_bt'",
    ),
    "no back-translation": (
        lambda d: d.change("train_reid_ch.json", lambda items: items[11]["captions_bt"].__setitem__(0, "")),
        "warning: captions without a back-translation beside ones that have it",
        "train ch cam_",
    ),
    "shared caption": (
        lambda d: d.change("val_reid_en.json", same_caption),
        "warning: captions given to different persons",
        "persons ",
    ),
    "repeated caption": (
        lambda d: d.change("train_reid_en.json", repeat_caption),
        "warning: captions given twice to one image",
        "train en cam_",
    ),
    "shared person": (
        lambda d: d.both("train", lambda items: items[12].update(id=d.items("val")[1]["id"])),
        "defect: identities in more than one split",
        "train, val",
    ),
    "shared image": (
        lambda d: d.both(
            "val", lambda items: items[0].update(file_path=f".//{d.items('train')[0]['file_path']}")
        ),
        "defect: images in more than one split",
        "train, val",
    ),
    "two persons to train on": (
        lambda d: d.both("train", lambda items: items.append({**items[13], "id": items[16]["id"]})),
        "warning: training images of more than one person",
        "persons ",
    ),
    "two persons": (
        lambda d: d.both("val", give_to_another),
        "defect: images of more than one person in val or test",
        "is of the persons ",
    ),
    "equal bytes": (
        lambda d: d.image("val", 4).write_bytes(d.image("train", 20).read_bytes()),
        "warning: images of equal bytes in more than one split",
        "(train), ",
    ),
    "equal bytes of two persons": (
        lambda d: d.image("train", 21).write_bytes(d.image("train", 29).read_bytes()),
        "warning: images of equal bytes of more than one person",
        "(person ",
    ),
    "undescribed": (
        lambda d: d.change("test_reid_ch.json", lambda items: items[1].update(captions=[], captions_bt=[])),
        "warning: images without captions (in the gallery, but no queries)",
        ".jpg: no captions in ch",
    ),
    "undescribed to train on": (
        lambda d: d.both("train", lambda items: items[18].update(captions=[" "], captions_bt=[], id=-1)),
        "warning: training images without captions (not trained on)",
        ".jpg: no captions",
    ),
    "listed twice": (
        lambda d: d.both("train", lambda items: items.append(items[15])),
        "warning: captions given twice to one image",
        "train en cam_",
    ),
    "no hit": (remove_person_images, "defect: queries with no image in the gallery", "test en person "),
    "not aligned": (
        lambda d: d.change("test_reid_ch.json", lambda items: items.pop()),
        "defect: languages that are not aligned",
        "is in en, but not in ch; every language must list",
    ),
    "long caption": (
        lambda d: d.change(
            "train_reid_en.json", lambda items: items[16]["captions"].__setitem__(0, "red " * 80)
        ),
        LONG,
        "82 tokens",
    ),
    "not named": (
        lambda d: (d.images / "cam_1" / "left over.PNG").write_bytes(b""),
        "warning: images in the folder that no record names",
        "cam_1/left over.PNG",
    ),
}
MALFORMED: dict[str, tuple[Callable[[Items], object], str]] = {
    "id": (lambda items: items[17].update(id="seven"), "record 17: field 'id'"),
    "leaves the root": (
        lambda items: items[18].update(file_path="../../passwd"),
        "record 18: field 'file_path'",
    ),
}


@pytest.fixture(scope="module")
def all_planted(sound: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What is listed of a data set with every defect of `PLANTED`."""
    data = Copy(sound, tmp_path_factory.mktemp("planted") / "data")
    for plant, _, _ in PLANTED.values():
        plant(data)
    status, listed = run(data)
    assert status == 1
    return listed


@pytest.mark.parametrize("kind", PLANTED)
def test_a_planted_defect_is_named_under_its_title(kind: str, all_planted: dict[str, list[str]]) -> None:
    _, title, said = PLANTED[kind]
    assert any(said in line for line in all_planted[title])


def test_nothing_is_named_that_was_not_planted(all_planted: dict[str, list[str]]) -> None:
    assert set(all_planted) == {title for _, title, _ in PLANTED.values()}


@pytest.mark.parametrize(("kind", "status"), [("odd mode", 0), ("truncated", 1)])
def test_defects_alone_decide_the_status(kind: str, status: int, data: Copy) -> None:
    PLANTED[kind][0](data)
    found, listed = run(data)
    assert found == status
    assert list(listed) == [PLANTED[kind][1], LONG]  # Chinese takes many byte pairs


def test_captions_are_counted_against_the_text_length(data: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    PLANTED["long caption"][0](data)
    listed = run(data, "--languages", "en", "--text-length", "100")[1]
    assert not any("captions of more than" in title for title in listed)
    assert "% have more than 100" in capsys.readouterr().out
    listed = run(data, "--languages", "en", "--text-length", "81")[1]
    assert "82 tokens" in listed[LONG.replace("77", "81")][0]
    data.change("train_reid_en.json", lambda items: items[16]["captions"].__setitem__(0, "red. " * 40))
    assert LONG not in run(data, "--languages", "en")[1]
    assert "82 tokens" in run(data, "--languages", "en", "--cleaning", "none")[1][LONG][0]
    capsys.readouterr()
    assert (
        check.main([str(data.folder), str(data.images), "--out", str(data.folder), "--text-length", "2"]) == 2
    )
    assert "error: --text-length: expected 3 or more" in capsys.readouterr().err


def test_twelve_defects_at_once_are_all_named_on_screen_and_in_the_file(
    data: Copy, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds = ["missing", "empty", "truncated", "odd mode", "blank caption", "unpaired", "shared caption"]
    kinds += ["shared person", "two persons", "listed twice", "no hit", "long caption"]
    assert len(kinds) == 12
    for kind in kinds:
        PLANTED[kind][0](data)
    status, listed = run(data)
    printed = capsys.readouterr().out
    for kind in kinds:
        _, title, said = PLANTED[kind]
        assert any(said in line for line in listed[title]), kind
        assert title in printed
    assert status == 1
    assert "verdict: not fit for training; kinds of defects: 8, of warnings: " in printed


def test_an_unpaired_surrogate_is_printed_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check.report([check.Finding("malformed records", True, ["'x\udcff' is no key"])], tmp_path)
    assert "'x\\udcff' is no key" in capsys.readouterr().out
    assert "'x\\udcff' is no key" in (tmp_path / "findings.txt").read_text(encoding="utf-8")


def test_sound_data_is_fit_for_training(data: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    status, listed = run(data, "--languages", "en")
    assert status == 0
    assert not [title for title in listed if title.startswith("defect")]
    printed = capsys.readouterr().out
    assert "verdict: fit for training; kinds of warnings: 0" in printed
    assert [line.split()[:5] for line in printed.splitlines()[1:4]] == [
        ["train", "en", "16", "48", "96"],
        ["val", "en", "2", "6", "12"],
        ["test", "en", "2", "6", "12"],
    ]
    with Image.open(data.folder.parent / "out" / "contact_sheet.png") as sheet:
        assert sheet.width > 1000
        assert len(sheet.getcolors(maxcolors=10**6)) > 500  # people are on it


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_malformed_record_ends_with_status_2_after_all_else_is_listed(
    kind: str, data: Copy, capsys: pytest.CaptureFixture[str]
) -> None:
    change, said = MALFORMED[kind]
    data.change("train_reid_en.json", change)
    PLANTED["missing"][0](data)
    status, listed = run(data)
    assert status == 2
    assert said in listed["defect: malformed records"][0]
    assert listed["defect: missing images"]
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert "train_reid_en.json" in line
    assert said in line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere", "."], "no file or folder 'nowhere'"),
        (["LICENSE", "."], "'LICENSE' is not JSON"),
        (["docs", "."], "'docs' has no annotations"),
        (["{data}", "nowhere"], "data.image_root: no folder 'nowhere'"),
        (["{data}", "{data}/imgs", "--dataset", "cuhk"], "--dataset: expected auto or one of prw-tbps"),
        (["{data}", "{data}/imgs", "--languages", "xx"], "has no records"),
        (["{data}", "{data}/imgs", "--out", "/proc/nowhere"], "--out: cannot write"),
        (["{data}"], "IMAGE_ROOT"),
    ],
)
def test_a_mistake_ends_with_status_2_and_one_line(
    arguments: list[str], said: str, data: Copy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [word.replace("{data}", str(data.folder)) for word in arguments]
    out = [] if "--out" in given else ["--out", str(tmp_path / "out")]
    assert check.main([*given, *out]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert said in line


def test_a_data_set_is_recognised_by_its_counts_or_its_name() -> None:
    def counts(name: str) -> dict[tuple[str, str], Count]:
        return {(split, "en"): number for split, number in PUBLISHED[name].items()}

    for name in PUBLISHED:
        assert recognise(counts(name), f"{NAMES[name]} somewhere.json") == name
    assert recognise(counts("MALS"), "somewhere") == "MALS"
    assert recognise({}, "datasets/animals") is None
    few = {("test", "en"): Count(3, 6, 12)}
    assert recognise(few, "datasets/mine") is None
    assert recognise(few, "datasets/ICFG_PEDES.json") == "ICFG-PEDES"
    assert recognise({("test", "en"): Count(1000, 3074, 6156)}, "x") == "CUHK-PEDES"


def test_counts_are_compared_with_the_published_ones(
    data: Copy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = tmp_path / "RSTPReid"
    data.folder.rename(named)
    assert check.main([str(named), str(named / "imgs"), "--out", str(tmp_path / "out")]) == 0
    assert "3,701 / 18,505 / 37,010" in capsys.readouterr().out
    listed = findings(tmp_path / "out")["warning: counts that differ from those published for RSTPReid"]
    assert "train en: 48 images, published 18505" in listed


def test_several_processes_find_what_one_finds(tmp_path: Path) -> None:
    images = [f"{number}.png" for number in range(600)]
    for number, image in enumerate(images):
        Image.new("L" if number % 150 == 149 else "RGB", (20, 40)).save(tmp_path / image)
    seen: list[int] = []
    found, digests = find_oddities(images, tmp_path, 2, seen.append)
    assert sum(seen) == 600
    assert len(set(zip(*[iter(digests)] * DIGEST, strict=True))) == 2, "as many as different files"
    assert [image for image, _, _ in found] == ["149.png", "299.png", "449.png", "599.png"]
    assert (found, digests) == find_oddities(images, tmp_path, 1, seen.append)


def test_the_command_runs_as_a_module_and_helps_without_loading_torch(data: Copy, tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "data.check"]
    helped = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True)
    assert "IMAGE_ROOT" in helped.stdout
    imported = {line.rpartition("|")[2].strip() for line in helped.stderr.splitlines()}
    assert "argparse" in imported
    assert not imported & {"torch", "torchvision", "transformers", "matplotlib"}
    run_there = [
        sys.executable,
        "-m",
        "data.check",
        str(data.folder),
        str(data.images),
        "--out",
        str(tmp_path),
    ]
    done = subprocess.run(
        run_there, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no progress bar where nobody looks
    assert "verdict: fit for training" in done.stdout
