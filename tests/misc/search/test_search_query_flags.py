"""The flags of `query`: parts of a query, filters, duplicates, lists of files, copies, and warnings."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch.nn import functional as F

import misc.search.ranking.pictures
from data.images.decode import load_image
from misc.search.__main__ import main
from misc.search.encoder import Encoder
from misc.search.index import Index
from misc.search.indexing.update import update_index
from misc.search.ranking.warnings import text_warnings
from tests.helpers.search import Search, save_image, save_run


def paths(answer: dict[str, Any]) -> list[str]:
    return [result["image"] for result in answer["results"]]


def scores_by(index: Index, feature: np.ndarray) -> dict[str, float]:
    """{path: score} of all images."""
    return dict(zip(index.paths, index.features_of(range(len(index.paths))) @ feature, strict=True))


def assert_ranked(answer: dict[str, Any], expected: dict[str, float]) -> None:
    assert {r["image"]: r["score"] for r in answer["results"]} == pytest.approx(expected, abs=2e-3)
    assert paths(answer) == sorted(paths(answer), key=lambda path: -expected[path])


def test_sentences_have_weights_and_images_share_one(encoder: Encoder, index: Index, search: Search) -> None:
    files = [index.image_root / path for path in index.paths[:2]]
    texts = encoder.encode_texts(["a man", "a white bag", "a hat"]).numpy().astype(np.float64)
    images = encoder.encode_images([load_image(file) for file in files]).numpy().astype(np.float64)
    also = ["--also", "a white bag", "0.5", "--also", "a hat", "2"]
    (answer,) = search("a man", *also, "-k", "10")
    mixed = texts[0] + 0.5 * texts[1] + 2 * texts[2]
    assert_ranked(answer, scores_by(index, mixed / np.linalg.norm(mixed)))
    assert answer["query"] == "a man (1) + a white bag (0.5) + a hat (2)"
    both = [part for file in files for part in ("--image", str(file))]
    (answer,) = search("a man", *also, *both, "--image-weight", "0.8", "-k", "10")
    mixed = 0.2 * mixed / 3.5 + 0.4 * images.sum(axis=0)
    assert_ranked(answer, scores_by(index, mixed / np.linalg.norm(mixed)))
    (answer,) = search(*both, "-k", "10")
    assert_ranked(answer, scores_by(index, images.sum(axis=0) / np.linalg.norm(images.sum(axis=0))))
    (alone,), (sentence,) = search("--also", "a man", "3"), search("a man")
    assert alone["results"] == sentence["results"]


def test_images_of_the_index_give_feedback(encoder: Encoder, index: Index, search: Search) -> None:
    text = encoder.encode_texts(["a man"])[0].numpy().astype(np.float64)
    stored = index.features_of(range(10)).astype(np.float64)
    feedback = ["--like", index.paths[4], "--like", index.paths[6], "--unlike", index.paths[1]]
    (answer,) = search("a man", *feedback, "-k", "10")
    fed_back = text + 0.75 * (stored[4] + stored[6]) / 2 - 0.15 * stored[1]
    assert_ranked(answer, scores_by(index, fed_back / np.linalg.norm(fed_back)))
    liked, unliked = f"[{index.paths[4]}], like [{index.paths[6]}]", f"[{index.paths[1]}]"
    assert answer["query"] == f"a man, like {liked}, unlike {unliked}"
    (by_name,) = search("--like", index.paths[4])
    (by_file,) = search("--like", str(index.image_root / index.paths[4]))
    assert by_name["results"] == by_file["results"]
    assert paths(by_name)[0] == index.paths[4]
    assert by_name["query"] == f"like [{index.paths[4]}]"


def test_commas_divide_what_is_to_be_avoided(search: Search) -> None:
    (divided,) = search("a man", "--without", "a hat， a bag")
    (repeated,) = search("a man", "--without", "a hat", "--without", "a bag")
    assert divided == repeated
    assert divided["query"] == "a man, without a hat, without a bag"


def test_filters_and_a_minimum_score_narrow_the_ranking(
    index: Index, search: Search, capsys: pytest.CaptureFixture[str]
) -> None:
    (every,) = search("a man", "-k", "10")
    (inside,) = search("a man", "--folder", "a", "-k", "10")
    assert paths(inside) == [path for path in paths(every) if path.startswith("a/")]
    assert (inside["total"], inside["matching"], inside["passing"]) == (10, 5, None)
    minimum = inside["results"][2]["score"] - 1e-6
    filters = ["--folder", "a/", "--pattern", "0[02468].png", "--since", "2000-01-01", "--min-size", "8x16"]
    filters += ["--until", "2999-12-31", "--max-size", "8x16", "--min-score", str(minimum)]
    (few,) = search("a man", "--without", "a", *filters[:-2], "-k", "3")
    assert few["matching"] == 5
    (few,) = search("a man", *filters, "-k", "2")
    assert paths(few) == paths(inside)[:2]
    assert (few["matching"], few["passing"]) == (5, 3)
    assert few["filters"] == {
        "folder": "a/",
        "pattern": "0[02468].png",
        "since": "2000-01-01",
        "until": "2999-12-31",
        "min_size": [8, 16],
        "max_size": [8, 16],
        "min_score": minimum,
    }
    assert main(["query", str(index.folder), "a man", *filters, "--csv"]) == 0
    row = next(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert json.loads(row["filters"]) == few["filters"]
    assert main(["query", str(index.folder), "a man", *filters]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "5 of 10 images pass the filters, 3 of these the minimum score"


def test_filters_that_no_image_passes_are_an_empty_answer(
    search: Search, caplog: pytest.LogCaptureFixture
) -> None:
    (answer,) = search("a man", "--pattern", "*.jpeg")
    assert answer["results"] == []
    assert "no image passes the filters" in caplog.messages


@pytest.fixture
def copies(encoder: Encoder, tmp_path: Path) -> Index:
    """An index of three images and 18 copies of one of them."""
    root = tmp_path / "copied"
    for number in range(3):
        save_image(root / f"{number}.png", number)
    for number in range(18):
        shutil.copy(root / "1.png", root / f"copy {number:02d}.png")
    update_index(encoder, root, tmp_path / "index of copies")
    return Index.open(tmp_path / "index of copies")


def test_copies_of_an_image_fill_one_place(
    copies: Index, search: Search, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (grouped,) = search("a man", folder=copies.folder)
    (each,) = search("a man", "--no-group", "-k", "21", folder=copies.folder)
    assert [len(r["duplicates"]) for r in grouped["results"]] == [
        18 if r["image"] == "1.png" else 0 for r in grouped["results"]
    ]
    others = {f"copy {number:02d}.png" for number in range(18)}
    assert others == {path for r in grouped["results"] for path in r["duplicates"]}
    assert [path for path in paths(each) if path not in others] == paths(grouped)
    assert len(each["results"]) == 21
    capsys.readouterr()
    assert main(["query", str(copies.folder), "a man"]) == 0
    assert capsys.readouterr().out.count("1.png  (+18 duplicates)") == 1


def test_files_only_prints_absolute_paths_for_pipes(
    index: Index, search: Search, capsys: pytest.CaptureFixture[str]
) -> None:
    (first, second) = search("a man", "a woman", "-k", "6")
    found = dict.fromkeys([*paths(first), *paths(second)])
    command = ["query", str(index.folder), "a man", "a woman", "-k", "6", "--files-only"]
    assert main(command) == 0
    assert capsys.readouterr().out.splitlines() == [str(index.image_root / path) for path in found]
    assert main([*command, "--null"]) == 0
    assert capsys.readouterr().out == "".join(f"{index.image_root / path}\0" for path in found)


def test_a_reader_of_the_list_that_ends_is_no_error(index: Index) -> None:
    command = [sys.executable, "-m", "misc.search", "query", str(index.folder), "a man", "--files-only"]
    read, write = os.pipe()
    os.close(read)
    ended = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_copies_are_named_by_rank_and_overwrite_nothing(
    index: Index, search: Search, user_error: Callable[..., str], tmp_path: Path
) -> None:
    picked = tmp_path / "new" / "picked"
    (answer,) = search("a man", "-k", "10", "--copy", str(picked))
    expected = {f"{r['rank']:02d}-{Path(r['image']).name}": r["image"] for r in answer["results"]}
    assert {file.name for file in picked.iterdir()} == expected.keys()
    for name, path in expected.items():
        assert (picked / name).read_bytes() == (index.image_root / path).read_bytes()
    for file in list(picked.iterdir())[1:]:
        file.unlink()
    (kept,) = picked.iterdir()
    kept.write_text("mine")
    assert f"has '{kept.name}' already" in user_error("a man", "-k", "10", "--copy", str(picked))
    assert [file.read_text() for file in picked.iterdir()] == ["mine"]
    search("a man", "a woman", "-k", "1", "--copy", str(tmp_path / "two"))
    assert sorted(file.name[:4] for file in (tmp_path / "two").iterdir()) == ["1-1-", "2-1-"]


def test_long_names_are_copied_under_shorter_ones(encoder: Encoder, search: Search, tmp_path: Path) -> None:
    save_image(tmp_path / "long" / f"{'é' * 124}.png", 0)
    update_index(encoder, tmp_path / "long", tmp_path / "index of one")
    search("a man", "a woman", "--copy", str(tmp_path / "picked"), folder=tmp_path / "index of one")
    assert {file.name for file in (tmp_path / "picked").iterdir()} == {
        f"{number}-1-{'é' * 123}.png" for number in (1, 2)
    }


def test_a_figure_has_a_block_for_each_query_and_says_what_it_leaves_out(
    search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sizes = []
    for name, sentences in (("one", ["a man"]), ("two", ["a man", "a woman"])):
        search(*sentences, "-k", "3", "--figure", str(tmp_path / f"{name}.png"))
        with Image.open(tmp_path / f"{name}.png") as figure:
            sizes.append(figure.size)
            heading = np.asarray(figure.convert("L"))[32:60]
            assert heading.min() < 100, "the sentence"
    margins = 64
    assert sizes[1][1] - margins == 2 * (sizes[0][1] - margins)
    assert not caplog.messages
    monkeypatch.setattr(misc.search.ranking.pictures, "MAX_DRAWN", 5)
    search("a man", "a woman", "-k", "6", "--figure", str(tmp_path / "cut.png"))
    assert [text for text in caplog.messages if text.startswith("--figure: 8 images are left out")]


def test_scripts_that_the_model_has_not_learned_are_warned_of(
    search: Search, caplog: pytest.LogCaptureFixture
) -> None:
    for text, name in (
        *(("红色上衣的女生", "Chinese"), ("женщина в красном", "Cyrillic"), ("امرأة ترتدي", "Arabic")),
        *(("γυναίκα", "Greek"), ("かわいい", "Hiragana"), ("빨간 코트", "Hangul"), ("लाल कोट", "Devanagari")),
    ):
        caplog.clear()
        search(text, "a man")
        message = caplog.messages[0]
        assert message == f"the model has not learned {name} text, as in {text!r}; its languages: en"
    caplog.clear()
    search("une robe échancrée", "naïve Ærø ÅÖ ß", "１ ｆｕ ５ µm ½", "№ 7 👍", "a — b")
    assert caplog.messages == []
    search("a man", "--without", "帽、包")
    (message,) = caplog.messages
    assert message.endswith("as in '帽' and 1 more; its languages: en")


def test_learned_languages_are_not_warned_of(encoder: Encoder) -> None:
    def told(*languages: str, text: str) -> list[str]:
        data = replace(encoder.options.data, languages=languages)
        return text_warnings(replace(encoder, options=replace(encoder.options, data=data)), [text])

    assert told("en", "zh", text="红衣") == []
    assert len(told("en", "ru", text="红衣")) == 1
    assert told("klingon", text="红衣") == [], "it may be written in any script"


def test_a_text_that_is_cut_is_warned_of(
    encoder: Encoder, search: Search, caplog: pytest.LogCaptureFixture
) -> None:
    limit = encoder.tokenizer.text_length
    fits = "a " * (limit - 2)  # beside start and end
    search(fits, "a man")
    assert caplog.messages == []
    search(f"{fits} b", f"{fits} c")
    (message,) = caplog.messages
    assert message.startswith(f"the model reads {limit} tokens of a text: cut off is the end of 'a a a")
    assert message.endswith(" and 1 more")
    whole, cut = encoder.encode_texts([f"{fits} b", f"{fits} c"])
    assert F.cosine_similarity(whole, cut, dim=0) == pytest.approx(1), "b and c are not read"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a man", "--folder", "c"], "--folder: no image is below 'c'; name a folder"),
        (["a man", "--folder", ""], "--folder: its value is empty"),
        (["a man", "--pattern", ""], "--pattern: its value is empty"),
        (["a man", "--since", "today"], "--since: expected a time such as 2024-05-06"),
        (["a man", "--until", "2024-13-01"], "--until: expected a time"),
        (["a man", "--since", "2024-05-02", "--until", "2024-05-01"], "--since: '2024-05-02' is after"),
        (["a man", "--min-size", "64"], "--min-size: expected WIDTHxHEIGHT in pixels, such as 64x128"),
        (["a man", "--max-size", "-1x2"], "--max-size"),
        (["a man", "--min-size", "9x9", "--max-size", "8x9"], "--min-size: (9, 9) is larger than max-size"),
        (["a man", "--min-score", "nan"], "--min-score: expected a number, found nan"),
        (["a man", "--min-score", "high"], "--min-score"),
        (["a man", "--also", "a hat", "heavy"], "--also: expected a weight above 0 behind 'a hat'"),
        (["a man", "--also", "a hat", "-1"], "--also"),
        (["a man", "--also", "a hat", "inf"], "--also: expected a weight"),
        (["a man", "--also", " ", "1"], "expected words that describe"),
        (["a man", "--like", "a/99.png"], "--like: 'a/99.png' is not an image of the index; name it as"),
        (["a man", "--unlike", "a"], "--unlike: 'a' is not an image"),
        (["--unlike", "a/00.png"], "expected a SENTENCE, --sentences FILE, --image FILE or --like IMAGE"),
        (["a man", "--files-only", "--json"], "only one of them can be written to stdout"),
        (["a man", "--copy", "README.md/x"], "--copy: the folder"),
    ],
)
def test_wrong_values_are_one_line(
    user_error: Callable[..., str], arguments: list[str], message: str
) -> None:
    assert message in user_error(*arguments)


@pytest.fixture
def warned(search: Search, caplog: pytest.LogCaptureFixture) -> Callable[..., list[str]]:
    def run(*arguments: str) -> list[str]:
        caplog.clear()
        search(*arguments)
        return caplog.messages

    return run


def test_flags_without_effect_are_named(
    warned: Callable[..., list[str]], index: Index, tmp_path: Path
) -> None:
    image = str(index.image_root / index.paths[0])
    assert warned("a man", "--null") == ["--null has no effect without --files-only"]
    (message,) = warned("a man", "--image-weight", "1")
    assert message.startswith("--image-weight has no effect")
    (message,) = warned("--image", image, "--explain", str(tmp_path / "why"))
    assert message.startswith("--explain has no effect")
    assert warned("--also", "a man", "1", "--image", image, "--image-weight", "0.3") == []


def test_a_checkpoint_of_other_weights_is_found_before_anything_is_written(
    user_error: Callable[..., str], tmp_path: Path
) -> None:
    other = save_run(tmp_path / "other.pth", seed=1)
    message = user_error("a man", "--checkpoint", str(other), "--csv", str(tmp_path / "a.csv"))
    assert "another model" in message
    assert not (tmp_path / "a.csv").exists()
