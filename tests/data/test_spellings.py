"""One split, however its files spell it: a record per image or per caption, a table, a file per language."""

import csv
import itertools
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from data.annotations import load_data
from data.datasets import TrainingSet, evaluation_set
from data.formats import read_splits
from data.records import TWO_PERSONS
from data.types import ByLanguage, EvaluationSet, Record
from main import main
from misc.evaluation.evaluator import Encoded, Features, score
from options import UserError, load_options
from tests.helpers.whole_runs import results_of

Items = list[dict[str, Any]]
LANGUAGES = ("en", "ch")
SPLITS = ("train", "val", "test")


def write(path: Path, items: Items) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(items, ensure_ascii=False), encoding="utf-8")
    return path


def per_caption(items: Items) -> Items:
    """A record for each caption, and its back-translation where it has one."""
    found = []
    for item in items:
        for number, caption in enumerate(item["captions"]):
            back = {"captions_bt": item["captions_bt"][number : number + 1]} if "captions_bt" in item else {}
            found.append({**item, "captions": [caption], **back})
    return found


def dealt(items: Items) -> Items:
    """As `per_caption`, but the first caption of every image comes first, then every second one."""
    number = itertools.count()
    single = per_caption(items)
    seen: dict[str, Any] = {}
    rank = {id(item): seen.setdefault(item["file_path"], itertools.count()) for item in single}
    order = [(next(rank[id(item)]), next(number), item) for item in single]
    return [item for *_, item in sorted(order, key=lambda entry: entry[:2])]


def other_paths(items: Items) -> Items:
    """As `per_caption`, with the path of an image spelt in another way each time."""
    spellings = itertools.cycle(["./{}", "{}", ".//{}", "x/../{}"])
    return [
        {**item, "file_path": next(spellings).format(item["file_path"]).replace("/", next(marks))}
        for marks in [itertools.cycle(["/", "\\", "//", "/./"])]
        for item in per_caption(items)
    ]


Spell = Callable[[Items], Items]
FOLDERS: dict[str, dict[str, Spell]] = {
    "per image": {"en": list, "ch": list},
    "per caption": {"en": per_caption, "ch": per_caption},
    "per caption in one language alone": {"en": list, "ch": per_caption},
    "captions dealt": {"en": dealt, "ch": list},
    "paths": {"en": other_paths, "ch": other_paths},
    "order of a language": {"en": list, "ch": lambda items: items[::-1]},
}


def write_folder(people: Path, out: Path, spell: dict[str, Spell]) -> Path:
    for split, language in itertools.product(SPLITS, LANGUAGES):
        items = json.loads((people / f"{split}_reid_{language}.json").read_text(encoding="utf-8"))
        write(out / f"{split}_reid_{language}.json", spell[language](items))
    return out


def write_table(people: Path, out: Path) -> Path:
    out.parent.mkdir(exist_ok=True)
    with out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "person_id", "caption", "split", "language"])
        for split, language in itertools.product(SPLITS, LANGUAGES):
            for item in json.loads((people / f"{split}_reid_{language}.json").read_text(encoding="utf-8")):
                path = Path(item["file_path"])
                for number, caption in enumerate(item["captions"]):
                    image = f"{path.parent}{'//' * number or '/'}{path.name}"
                    writer.writerow([image, item["id"], caption, split, language])
    return out


def spelt(people: Path, tmp_path: Path, name: str) -> Path:
    if name == "table":
        return write_table(people, tmp_path / "mine.csv")
    return write_folder(people, tmp_path / "spelt", FOLDERS[name])


def figures(evaluated: EvaluationSet) -> object:
    """The figures of features that depend on an image's name or a caption alone."""

    def rows(names: Sequence[str]) -> torch.Tensor:
        seeds = [sum(map(ord, name)) % 1009 for name in names]
        made = [torch.randn(16, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return F.normalize(torch.stack(made), dim=1)

    texts = {language: rows(queries.captions) for language, queries in evaluated.queries.items()}
    return score(Encoded(evaluated, Features(rows(evaluated.images), texts)))


@pytest.mark.parametrize("name", [*FOLDERS, "table"])
def test_every_spelling_of_a_split_is_the_same_evaluation(people: Path, tmp_path: Path, name: str) -> None:
    for split in ("val", "test"):
        plain = evaluation_set(read_splits(people, languages=LANGUAGES)[split], people)
        found = evaluation_set(read_splits(spelt(people, tmp_path, name), languages=LANGUAGES)[split], people)
        assert len(found.images) == len(set(found.images)) == len(plain.images)
        assert found.images == plain.images
        assert found.person_ids.tolist() == plain.person_ids.tolist()
        for language in LANGUAGES:
            assert found.queries[language].captions == plain.queries[language].captions
            assert torch.equal(found.queries[language].image_indices, plain.queries[language].image_indices)
        assert figures(found) == figures(plain)


@pytest.mark.parametrize("draw", ["all", "one"])
@pytest.mark.parametrize("name", [*FOLDERS, "table"])
def test_every_spelling_of_the_training_split_gives_the_same_samples(
    people: Path, tmp_path: Path, name: str, draw: str
) -> None:
    def samples(annotations: Path) -> list[list[tuple[object, ...]]]:
        records = read_splits(annotations, ["train"], LANGUAGES)["train"]
        choices = TrainingSet(records, people / "imgs", (16, 8), (), language_draw=draw).choices
        return [
            [
                (r.image, r.person_id, r.language, r.captions[n], name != "table" and r.back_translations[n])
                for r, n in of_sample
            ]
            for of_sample in choices
        ]

    assert samples(spelt(people, tmp_path, name)) == samples(people)


def test_the_figures_of_an_evaluation_do_not_depend_on_the_spelling(
    people: Path, finished_run: Path, tmp_path: Path
) -> None:
    command = ["--config", str(finished_run / "options.yaml"), "--evaluate"]
    command += [str(finished_run / "checkpoint_best.pth"), "data.languages=[en,ch]", "--output-dir"]
    for number, name in enumerate(["per image", "paths", "table"]):
        annotations = spelt(people, tmp_path / str(number), name) if number else people
        out = tmp_path / f"out {number}"
        assert main([*command, str(out), f"data.annotation_file={annotations}"]) == 0
        assert results_of(out)["languages"] == results_of(tmp_path / "out 0")["languages"]


def test_a_raw_file_with_a_record_for_each_caption_is_merged(tmp_path: Path) -> None:
    item = {"split": "test", "img_path": "a.jpg", "id": 3}
    more = [{"captions": ["a man"]}, {"captions": ["tall"], "captions_bt": ["high"]}, {"captions": ["tall"]}]
    other = {**item, "img_path": "b.jpg", "captions": ["him"]}
    items = [{**item, **more[0]}, other, *({**item, **fields} for fields in more[1:])]
    found = read_splits(write(tmp_path / "a.json", items), ["test"])["test"]["en"]
    assert found == [
        Record("a.jpg", 3, ("a man", "tall", "tall"), ("", "high", ""), "en"),
        Record("b.jpg", 3, ("him",), (), "en"),
    ]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("is_table", [False, True])
def test_one_image_of_two_persons_falsifies_val_and_test(tmp_path: Path, split: str, is_table: bool) -> None:
    persons = (("a.jpg", 1), ("b.jpg", 2), (".//a.jpg", 2))
    if is_table:
        rows = [f"{image},{person},a man,{split}\n" for image, person in persons]
        file = tmp_path / "a.csv"
        file.write_text("image,person_id,caption,split\n" + "".join(rows))
    else:
        items = [{"file_path": p, "id": n, "captions": ["a man"], "split": split} for p, n in persons]
        file = write(tmp_path / "a.json", items)
    if split == "train":
        assert [record.person_id for record in read_splits(file)["train"]["en"]] == [1, 2, 2]
        return
    with pytest.raises(UserError) as caught:
        read_splits(file)
    assert str(caught.value) == (
        f"'{file}', {split} split: image 'a.jpg' is of the persons 1, 2, and a hit would count as a miss; "
        "leave the wrong records out"
    )
    heard: list[tuple[str, str]] = []
    read_splits(file, report=lambda kind, message: heard.append((kind, message)))
    assert [kind for kind, _ in heard] == [TWO_PERSONS]


PATHS = {
    "./x.jpg": "x.jpg",
    "a//x.jpg": "a/x.jpg",
    "a/./x.jpg": "a/x.jpg",
    ".\\a\\\\x.jpg": "a/x.jpg",
    "a/b/../x.jpg": "a/x.jpg",
    "././/a/x.jpg": "a/x.jpg",
}


@pytest.mark.parametrize("path", PATHS)
def test_a_path_has_one_spelling(tmp_path: Path, path: str) -> None:
    item = {"split": "test", "file_path": path, "id": 1, "captions": ["a man"]}
    assert read_splits(write(tmp_path / "a.json", [item]))["test"]["en"][0].image == PATHS[path]
    row = {"image": path, "person_id": 1, "caption": "a man"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    assert read_splits(tmp_path / "a.jsonl")["test"]["en"][0].image == PATHS[path]


@pytest.mark.parametrize("path", [".", "./", "a/..", "./..", "a/../../x.jpg", ".//../x.jpg"])
def test_a_path_that_names_no_file_below_the_root_is_refused(tmp_path: Path, path: str) -> None:
    item = {"split": "test", "file_path": path, "id": 1, "captions": ["a man"]}
    with pytest.raises(UserError, match=r"'file_path' should be a path below data\.image_root"):
        read_splits(write(tmp_path / "a.json", [item]))


def test_images_of_both_train_and_test_are_warned_about_however_they_are_spelt(
    people: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found: dict[str, ByLanguage] = read_splits(people)
    record = found["train"]["en"][0]
    folder = write_folder(people, tmp_path / "leaks", FOLDERS["per image"])
    items = json.loads((folder / "test_reid_en.json").read_text(encoding="utf-8"))
    items.append({"file_path": f"./{record.image}", "id": 10**6, "captions": ["a man"]})
    write(folder / "test_reid_en.json", items)
    overrides = [f"data.annotation_file={folder}", f"data.image_root={people / 'imgs'}"]
    with caplog.at_level(logging.WARNING):
        load_data(load_options("config/s.config.yaml", overrides))
    assert "1 images are in both train and test" in caplog.text
