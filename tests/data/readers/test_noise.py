"""Noisy correspondence: RDE's index files, rates, and what is wrong with either."""

import dataclasses
import json
import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.annotations import load_data
from data.columns.splits import Splits
from data.datasets import TrainingSet
from main import main
from options import DataOptions, ExperimentOptions, MiscOptions, Options, UserError, load_options

Item = dict[str, Any]
# {data set: (its image field, its captions of an image)}
LAYOUTS = {
    "cuhk-pedes": ("file_path", (2, 2, 3)),
    "icfg-pedes": ("file_path", (1,)),
    "rstpreid": ("img_path", (2,)),
}
NUM_IMAGES = 12


def write(folder: Path, field: str, numbers: tuple[int, ...]) -> list[Item]:
    """A raw file of all splits, mixed, in no order of persons or names; returns its records."""
    items = []
    for row in range(NUM_IMAGES + 4):
        name = f"{(row * 7) % 16}.png"
        split = "test" if row % 4 == 1 else "train"
        captions = [f"caption {row} {number}" for number in range(numbers[row % len(numbers)])]
        items.append(
            {"split": split, "captions": captions, field: name, "id": 1 + row * 5 % 7 + 9 * (split == "test")}
        )
        Image.new("RGB", (4, 8)).save(folder / name)
    (folder / "raw.json").write_text(json.dumps(items))
    return items


def load(folder: Path, noise: object, annotations: str = "raw.json", **settings: object) -> Splits:
    seed = settings.pop("seed", 0)
    noise = str(noise) if isinstance(noise, Path) else noise
    data = DataOptions(str(folder / annotations), str(folder), noise=noise, **settings)
    experiment = ExperimentOptions(back_trans=False)
    return load_data(dataclasses.replace(Options(), data=data, experiment=experiment, misc=MiscOptions(seed)))


def pairs(splits: Splits, **settings: Any) -> list[tuple[int, str, str]]:
    """(person, image, caption) of each sample of the training set."""
    chosen = [choices[0] for choices in TrainingSet(splits.train, ".", None, (), **settings).choices]
    return [(record.person_id, record.image, record.captions[number]) for record, number in chosen]


@pytest.mark.parametrize("dataset", LAYOUTS)
def test_pairs_are_numbered_in_the_order_of_the_annotations(
    dataset: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As the release does it: a list of all pairs, whose captions the index moves."""
    field, numbers = LAYOUTS[dataset]
    items = write(tmp_path, field, numbers)
    listed = [
        (i["id"], i[field], caption) for i in items if i["split"] == "train" for caption in i["captions"]
    ]
    assert pairs(load(tmp_path, None, dataset=dataset)) == listed
    index = np.arange(len(listed))
    index[[1, 4, 7, 9, 11]] = [9, 4, 1, 11, 7]
    np.save(tmp_path / "noise.npy", index)
    caplog.set_level(logging.INFO)
    noisy = load(tmp_path, tmp_path / "noise.npy", dataset=dataset)
    expected = [(*pair[:2], listed[source][2]) for pair, source in zip(listed, index, strict=True)]
    assert pairs(noisy) == expected
    samples = TrainingSet(noisy.train, tmp_path, None, ())
    assert samples.noisy.tolist() == [place in (1, 7, 9, 11) for place in range(len(listed))]
    assert samples[(0, 1)].caption == listed[9][2]
    said = [message for message in caplog.messages if message.startswith("data.noise")]
    assert said == [f"data.noise: 4 of {len(listed)} training pairs have another pair's caption"]
    assert not any(TrainingSet(load(tmp_path, None).train, ".", None, ()).noisy)


@pytest.mark.parametrize("kind", ["int32", "int64", "uint16", "uint64", ">i8"])
def test_an_index_may_be_of_any_integer_type(kind: str, tmp_path: Path) -> None:
    write(tmp_path, "file_path", (1,))
    np.save(tmp_path / "noise.npy", np.arange(NUM_IMAGES)[::-1].astype(kind))
    clean = pairs(load(tmp_path, None))
    assert [pair[2] for pair in pairs(load(tmp_path, tmp_path / "noise.npy"))] == [p[2] for p in clean[::-1]]


def test_a_rate_permutes_as_many_captions_as_it_says_by_the_seed(tmp_path: Path) -> None:
    write(tmp_path, "file_path", (20,))
    clean = pairs(load(tmp_path, None))
    number = len(clean)
    assert number == 240
    moved = Counter()
    for seed in range(30):
        noisy = pairs(load(tmp_path, 0.3, seed=seed))
        assert noisy == pairs(load(tmp_path, 0.3, seed=seed))
        assert [pair[:2] for pair in noisy] == [pair[:2] for pair in clean]
        assert sorted(pair[2] for pair in noisy) == sorted(pair[2] for pair in clean)
        places = [place for place in range(number) if noisy[place] != clean[place]]
        assert 72 - 6 <= len(places) <= 72  # int(0.3 * 240), of whom about one keeps its own
        moved.update(places)
    assert len(moved) == number  # any pair may be chosen
    assert sum(moved.values()) == pytest.approx(30 * 71, abs=4 * 30**0.5)


def in_two_languages(folder: Path, numbers: dict[str, int]) -> None:
    for split, rows in (("train", range(8)), ("test", range(8, 10))):
        for language, number in numbers.items():
            items = [
                {
                    "file_path": f"{row}.png",
                    "id": row,
                    "captions": [f"{language} {row} {n}" for n in range(number)],
                    "captions_bt": [f"back {language} {row} {n}" if n else "" for n in range(number)],
                }
                for row in rows
            ]
            (folder / f"{split}_reid_{language}.json").write_text(json.dumps(items))
    for row in range(10):
        Image.new("RGB", (4, 8)).save(folder / f"{row}.png")


def test_every_language_is_changed_alike_and_back_translations_follow_their_captions(tmp_path: Path) -> None:
    in_two_languages(tmp_path, {"en": 2, "ch": 2})
    index = np.random.default_rng(0).permutation(16)
    np.save(tmp_path / "noise.npy", index)
    splits = load(tmp_path, tmp_path / "noise.npy", "", languages=("en", "ch"))
    for language, records in splits.train.items():
        captions = [caption for record in records for caption in record.captions]
        assert captions == [f"{language} {source // 2} {source % 2}" for source in index]
        for record in records:
            assert record.language == language
            assert record.back_translations == tuple(
                f"back {caption}" if caption[-1] == "1" else "" for caption in record.captions
            )
    noisy = [int(source) != place for place, source in enumerate(index)]
    assert TrainingSet(splits.train, ".", None, ()).noisy.tolist() == noisy * 2
    one = TrainingSet(splits.train, ".", None, (), language_draw="one")
    assert one.noisy.tolist() == noisy
    for of_sample in one.choices:
        texts = [record.captions[number].split(" ", 1)[1] for record, number in of_sample]
        assert texts[0] == texts[1]


def test_languages_whose_captions_do_not_pair_are_refused(tmp_path: Path) -> None:
    in_two_languages(tmp_path, {"en": 2, "ch": 1})
    with pytest.raises(
        UserError, match=r"^data\.noise: the captions of en and ch do not pair: .* by data\.languages$"
    ):
        load(tmp_path, 0.5, "", languages=("en", "ch"))


def saved(values: object, **settings: Any) -> Callable[[Path], None]:
    return lambda path: np.save(path, np.asarray(values), **settings)


def truncated(path: Path) -> None:
    np.save(path, np.arange(NUM_IMAGES))
    path.write_bytes(path.read_bytes()[:-9])


def archive(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, index=np.arange(NUM_IMAGES))


BAD = {
    "too long": (saved(np.arange(20)), "has 20 numbers, the training split has 12 pairs .*few_shot=1"),
    "too short": (saved(np.arange(3)), "has 3 numbers, the training split has 12 pairs"),
    "empty": (saved(np.arange(0)), "has 0 numbers, the training split has 12 pairs"),
    "twice": (saved([0, 0, *range(2, 12)]), "no permutation .* from 0 to 11: 1 of them, such as 1, are not"),
    "from one": (saved(np.arange(1, 13)), "no permutation .* such as 0, are not"),
    "negative": (saved(np.arange(-1, 11)), "no permutation .* such as 11, are not"),
    "float": (saved(np.arange(12.0)), r"type float64 and shape \(12,\); expected a whole number"),
    "bool": (saved(np.ones(12, bool)), "type bool"),
    "text": (saved(list("abcdefghijkl")), "type <U1"),
    "2-D": (saved(np.arange(12)[:, None]), r"shape \(12, 1\)"),
    "0-D": (saved(3), r"shape \(\)"),
    "objects": (saved([None] * 12), "cannot be read as a .npy file"),
    "truncated": (truncated, "cannot be read as a .npy file"),
    "npz": (archive, "cannot be read as a .npy file"),
    "json": (lambda path: path.write_text("[1, 0]"), "cannot be read as a .npy file"),
    "no bytes": (lambda path: path.touch(), "cannot be read as a .npy file"),
    "header": (lambda path: path.write_bytes(b"\x93NUMPY\x01\x00\x05\x00{'a':"), "cannot be read as a .npy"),
    "folder": (lambda path: path.mkdir(), "no file '.*noise.npy'"),
    "nothing": (lambda path: None, "no file '.*noise.npy'; .* holds .*0.png"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_index_of_these_pairs_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    make, said = BAD[name]
    write(tmp_path, "file_path", (1,))
    make(tmp_path / "noise.npy")
    with pytest.raises(UserError, match=rf"^data\.noise: .*{said}") as caught:
        load(tmp_path, tmp_path / "noise.npy")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["0", "1", "1.5", "-0.2", "true", "[0.2]", ".nan"])
def test_a_rate_is_a_share_of_the_pairs(value: str) -> None:
    with pytest.raises(UserError, match=r"^data\.noise: expected"):
        load_options("config/config.yaml", [f"data.noise={value}"])


def test_a_rate_of_fewer_than_two_pairs_exchanges_nothing_and_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "file_path", (1,))
    with pytest.raises(UserError, match=r"^data\.noise: 0\.1 of the 12 training pairs are fewer than two"):
        load(tmp_path, 0.1)


def test_noise_and_few_shot_go_together_by_a_rate(tmp_path: Path) -> None:
    write(tmp_path, "file_path", (2,))
    np.save(tmp_path / "noise.npy", np.arange(24)[::-1])
    with pytest.raises(UserError, match="has 24 numbers, the training split has 12 pairs"):
        load(tmp_path, tmp_path / "noise.npy", few_shot=0.5)
    assert sum(TrainingSet(load(tmp_path, 0.9, few_shot=0.5).train, ".", None, ()).noisy) > 5


def test_a_run_with_a_noise_that_is_none_ends_with_one_line_and_an_evaluation_ignores_it(
    config: Path, finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "noise.npy", np.arange(7))
    setting = ["--config", str(config), f"data.noise={tmp_path / 'noise.npy'}"]
    assert main(setting) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "has 7 numbers, the training split has 40 pairs" in line
    assert main([*setting, "--evaluate", str(finished_run / "checkpoint_best.pth")]) == 0
    assert "data.noise has no effect: nothing is trained" in capsys.readouterr().out
