"""The embedded data set: files, fairness (nothing but looks tells who somebody is) and difficulty."""

import hashlib
import itertools
import json
import operator
import random
import statistics
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from PIL import Image

from data.synthetic.__main__ import main
from data.synthetic.attributes import Item, draw_identities
from data.synthetic.camera import draw_shot
from data.synthetic.captions import draw_content, visible_items
from data.synthetic.write import Parameters, Task, generate, plan

SPLITS, LANGUAGES = ("train", "val", "test"), ("en", "ch", "de", "fr")
SMALL = Parameters(identities=9, seed=5, val_identities=2, test_identities=3, images_per_identity=3)


@pytest.fixture(scope="module")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synthetic") / "a set"
    assert generate(out, SMALL)
    return out


def read(out: Path, name: str) -> list[dict]:
    return json.loads((out / f"{name}.json").read_text(encoding="utf-8"))


def digests(out: Path) -> dict[str, str]:
    files = sorted(path for path in out.rglob("*") if path.is_file())
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def run_main(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def shots_of(tasks: list[Task]) -> list:
    return [draw_shot(random.Random(task.key), task.camera) for task in tasks]


def test_two_workers_write_the_same_bytes_as_one(small_set: Path, tmp_path: Path) -> None:
    # More images than one chunk holds, or the second worker would have nothing to do.
    assert SMALL.num_images > 24
    assert generate(tmp_path / "again", SMALL, workers=2)
    assert digests(tmp_path / "again") == digests(small_set)


def test_another_seed_draws_other_people_and_other_images(small_set: Path, tmp_path: Path) -> None:
    generate(tmp_path / "other", Parameters(9, 6, 2, 3))
    ours, other = digests(small_set), digests(tmp_path / "other")
    assert not set(ours.values()) & set(other.values())


def test_the_splits_share_no_identity_and_hold_as_many_as_asked(small_set: Path) -> None:
    people = {split: {record["id"] for record in read(small_set, f"{split}_reid")} for split in SPLITS}
    assert {split: len(ids) for split, ids in people.items()} == {"train": 4, "val": 2, "test": 3}
    assert len(set.union(*people.values())) == 9


def test_every_person_is_seen_by_as_many_cameras_as_there_are_images(small_set: Path) -> None:
    cameras: dict[int, list[str]] = {}
    for split in SPLITS:
        for record in read(small_set, f"{split}_reid"):
            cameras.setdefault(record["id"], []).append(record["file_path"].split("/")[0])
    assert all(len(seen) == len(set(seen)) == 3 for seen in cameras.values())


def test_records_have_two_captions_each_with_its_own_paraphrase(small_set: Path) -> None:
    for split in SPLITS:
        for language in LANGUAGES:
            for record in read(small_set, f"{split}_reid_{language}"):
                assert set(record) == {"file_path", "id", "captions", "captions_bt"}
                texts = record["captions"] + record["captions_bt"]
                assert len(record["captions"]) == len(record["captions_bt"]) == 2
                assert len(set(texts)) == 4


def test_the_language_files_are_aligned_and_the_plain_one_is_english(small_set: Path) -> None:
    for split in SPLITS:
        english, *others = (read(small_set, f"{split}_reid_{language}") for language in LANGUAGES)
        heads = [(record["file_path"], record["id"]) for record in english]
        assert all([(record["file_path"], record["id"]) for record in other] == heads for other in others)
        plain = (small_set / f"{split}_reid.json").read_bytes()
        assert plain == (small_set / f"{split}_reid_en.json").read_bytes()


def test_every_image_listed_is_there_in_range_and_carries_no_metadata(small_set: Path) -> None:
    listed = {record["file_path"] for split in SPLITS for record in read(small_set, f"{split}_reid")}
    assert listed == {p.relative_to(small_set / "imgs").as_posix() for p in small_set.rglob("*.jpg")}
    for path in listed:
        with Image.open(small_set / "imgs" / path) as image:
            assert (image.format, image.mode) == ("JPEG", "RGB")
            assert 60 <= image.width <= 160
            assert 150 <= image.height <= 400
            assert set(image.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}


def test_the_images_of_a_person_are_not_copies_of_each_other(small_set: Path) -> None:
    images = [digest for name, digest in digests(small_set).items() if name.endswith(".jpg")]
    assert len(set(images)) == len(images) == 27


def test_person_ids_file_numbers_and_record_order_are_uncorrelated() -> None:
    tasks = plan(Parameters(600, 0, 60, 60))["train"]
    ids = [task.person_id for task in tasks]
    numbers = [int(task.file_path[-10:-4]) for task in tasks]
    for other in (numbers, list(range(len(tasks))), [task.camera for task in tasks]):
        assert abs(statistics.correlation(ids, other)) < 0.08
    # Neighbours in the list are strangers, as often as chance has it.
    assert sum(a == b for a, b in itertools.pairwise(ids)) < 10


def test_the_ids_of_a_split_are_spread_over_the_whole_range() -> None:
    tasks = plan(Parameters(300, 0, 100, 100))
    means = {split: statistics.mean(task.person_id for task in tasks[split]) for split in SPLITS}
    assert all(120 < mean < 180 for mean in means.values())


@pytest.mark.parametrize("trait", ["height", "width", "quality", "span", "shift", "stride"])
def test_nothing_of_a_shot_is_more_alike_within_a_person_than_between_people(trait: str) -> None:
    tasks = plan(Parameters(600, 1, 60, 60))["train"]
    values: dict[int, list[float]] = {}
    for task, shot in zip(tasks, shots_of(tasks), strict=True):
        known = {"width": shot.size[0], "height": shot.size[1], "stride": shot.pose.stride}
        values.setdefault(task.person_id, []).append(known.get(trait, getattr(shot, trait, None)))
    within = statistics.mean(statistics.variance(group) for group in values.values())
    overall = statistics.variance([value for group in values.values() for value in group])
    assert 0.9 < within / overall < 1.1


def test_no_two_people_agree_in_all_that_can_be_said_and_many_have_a_near_twin() -> None:
    people = draw_identities(0, 2000)
    said = [field.name for field in fields(people[0]) if field.name not in ("skin", "season")]
    looks = [tuple(getattr(person, name) for name in said) for person in people]
    assert len(set(looks)) == 2000
    differences = [sum(map(operator.ne, a, b)) for a, b in itertools.pairwise(looks)]
    assert 0.4 < statistics.mean(1 <= n <= 2 for n in differences) < 0.6


def matches(said: Item, true: Item | None) -> bool:
    return true is not None and all(not word or word == fact for word, fact in zip(said, true, strict=True))


def test_a_perfect_reader_of_attributes_finds_most_people_but_not_all() -> None:
    tasks = plan(Parameters(300, 0, 10, 100))["test"]
    gallery = [visible_items(task.identity, shot) for task, shot in zip(tasks, shots_of(tasks), strict=True)]
    rng = random.Random(0)
    shares = []
    for task, seen in zip(tasks, gallery, strict=True):
        content = draw_content(seen, task.identity.sex, rng)
        scores = [
            (content.sex == other.identity.sex)
            + sum(matches(item, items.get(field)) for field, item in content.items.items())
            for other, items in zip(tasks, gallery, strict=True)
        ]
        best = [other.person_id for other, score in zip(tasks, scores, strict=True) if score == max(scores)]
        shares.append(best.count(task.person_id) / len(best))
    assert 0.75 < statistics.mean(shares) < 0.97


def test_the_same_request_again_changes_nothing(small_set: Path, capsys: pytest.CaptureFixture) -> None:
    before = {path: path.stat().st_mtime_ns for path in small_set.rglob("*")}
    arguments = ("--identities", 9, "--seed", 5, "--val-identities", 2, "--test-identities", 3)
    assert run_main("--out", small_set, *arguments) == 0
    assert capsys.readouterr().out.startswith("Nothing to do")
    assert {path: path.stat().st_mtime_ns for path in small_set.rglob("*")} == before


def test_a_set_that_lacks_an_image_or_was_interrupted_is_made_again(tmp_path: Path) -> None:
    tiny = Parameters(3, 0, 1, 1, 1)
    generate(tmp_path, tiny)
    whole, manifest = digests(tmp_path), tmp_path / "synthetic.json"
    next(tmp_path.rglob("*.jpg")).unlink()
    assert generate(tmp_path, tiny)
    assert digests(tmp_path) == whole
    manifest.write_text(manifest.read_text().replace("true", "false"))
    (tmp_path / "test_reid.json").unlink()
    assert generate(tmp_path, tiny)
    assert digests(tmp_path) == whole


def test_a_rebuild_removes_its_own_files_only(tmp_path: Path) -> None:
    generate(tmp_path, Parameters(4, 0, 1, 1, 2))
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "imgs" / "cam_1" / "mine.jpg").write_text("mine")
    generate(tmp_path, Parameters(3, 1, 1, 1, 1))
    for mine in ("notes.txt", "imgs/cam_1/mine.jpg"):
        assert (tmp_path / mine).read_text() == "mine"
    assert len(list(tmp_path.rglob("*.jpg"))) == 3 + 1


def test_a_folder_with_other_things_is_refused_and_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "train_reid.json").write_text("mine")
    assert run_main("--out", tmp_path, "--identities", 5) == 2
    assert one_error_line(capsys)
    assert digests(tmp_path).keys() == {"train_reid.json"}
    assert (tmp_path / "train_reid.json").read_text() == "mine"


def one_error_line(capsys: pytest.CaptureFixture) -> str:
    captured = capsys.readouterr()
    assert not captured.out
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--identities", 0], "--identities"),
        (["--identities", -3], "--identities"),
        (["--identities", "many"], "--identities"),
        (["--identities", 2], "train"),
        (["--identities", 10, "--val-identities", 5, "--test-identities", 5], "train"),
        (["--identities", 10, "--val-identities", 0], "--val-identities"),
        (["--identities", 10, "--test-identities", -1], "--test-identities"),
        (["--identities", 10, "--images-per-identity", 0], "--images-per-identity"),
        (["--identities", 10, "--images-per-identity", 9], "--images-per-identity"),
        (["--identities", 10, "--workers", 0], "--workers"),
        (["--identities", 10, "--seed", -1], "--seed"),
        ([], "--identities"),
    ],
)
def test_a_bad_number_ends_with_status_2_and_one_line_that_names_it(
    arguments: list,
    named: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    assert run_main("--out", tmp_path / "set", *arguments) == 2
    assert named in one_error_line(capsys)
    assert not (tmp_path / "set").exists()


def test_a_file_in_the_place_of_the_folder_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "set").write_text("mine")
    assert run_main("--out", tmp_path / "set", "--identities", 5) == 2
    assert "--out" in one_error_line(capsys)


def test_the_command_says_what_it_wrote_and_imports_no_torch(tmp_path: Path) -> None:
    code = """
import sys
from data.synthetic.__main__ import main
status = main()
assert "torch" not in sys.modules
sys.exit(status)
"""
    arguments = f"--identities 4 --images-per-identity 1 --workers 1 --out {tmp_path / 's'}".split()
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Wrote 4 images of 4 people (2 train, 1 val, 1 test)")
