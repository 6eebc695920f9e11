"""Queries: the ranking equals that of evaluation, in every output format, and user errors are reported."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from data.images.decode import load_image
from main import main as run_main
from misc.search import benchmark
from misc.search.__main__ import main
from misc.search.encoder import Encoder
from misc.search.index import Index
from misc.search.indexing.update import update_index
from misc.search.ranking.queries import WITHOUT_WEIGHT, Query, query_features
from options import UserError
from tests.helpers.search import SETTINGS, Search, save_run, small_encoder


def names(answer: dict[str, Any]) -> list[str]:
    return [result["image"] for result in answer["results"]]


def test_the_ranking_of_test_captions_gives_the_figures_of_evaluation(
    people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, run = str(save_run(tmp_path / "run.pth")), tmp_path / "run"
    data = [f"data.annotation_file={people}", f"data.image_root={people / 'imgs'}", "data.num_workers=0"]
    ranks = ["--save-rankings", str(tmp_path / "ranks.jsonl"), "--output-dir", str(run)]
    sizes = [f"{option}={value}" for option, value in SETTINGS.items()]
    assert run_main(["--simplified", "--evaluate", checkpoint, *ranks, *data, *sizes]) == 0
    records = json.loads((people / "test_reid.json").read_text())
    persons = {record["file_path"]: record["id"] for record in records}
    for path in persons:  # the gallery of evaluation is the test split alone
        (tmp_path / "gallery" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "gallery" / path).hardlink_to(people / "imgs" / path)
    captions = [(caption, record["id"]) for record in records for caption in record["captions"]]
    (tmp_path / "captions.txt").write_text("".join(f"{caption}\n" for caption, _ in captions))
    place = str(tmp_path / "index")
    assert main(["index", checkpoint, str(tmp_path / "gallery"), "--out", place]) == 0
    file = tmp_path / "answers.json"
    command = ["query", place, "--sentences", str(tmp_path / "captions.txt"), "-k", "999"]
    assert main([*command, "--json", str(file)]) == 0
    answers = json.loads(file.read_text())
    figures = json.loads((run / "results.json").read_text())["languages"]["en"]["t2i"]
    for k in (1, 5, 10):
        hits = [
            any(persons[name] == person for name in names(answer)[:k])
            for answer, (_, person) in zip(answers, captions, strict=True)
        ]
        assert 100 * np.mean(hits) == pytest.approx(figures[f"R{k}"])
    assert 0 < figures["R1"] < 100
    evaluated = [json.loads(line) for line in (tmp_path / "ranks.jsonl").read_text().splitlines()]
    for answer, row in zip(answers, evaluated, strict=True):
        assert len(names(answer)) == len(persons), "k is cut to the number of images"
        by_name = {result["image"]: result["score"] for result in answer["results"]}
        best = [Path(row[f"image_{place}"]).relative_to(people / "imgs") for place in range(1, 11)]
        expected = [row[f"score_{place}"] for place in range(1, 11)]
        assert [by_name[str(name)] for name in best] == pytest.approx(expected, abs=1e-3)
        assert [result["score"] for result in answer["results"][:10]] == pytest.approx(expected, abs=1e-3)


def test_the_table_the_csv_and_the_json_hold_the_same(
    index: Index, search: Search, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sentences = ["a man in a red coat", "红色上衣的女生"]
    expected = search(*sentences, "-k", "4")
    files = {"--json": tmp_path / "a.json", "--csv": tmp_path / "a.csv", "--figure": tmp_path / "a.png"}
    flags = [str(part) for pair in files.items() for part in pair]
    assert main(["query", str(index.folder), *sentences, "-k", "4", *flags]) == 0
    table = capsys.readouterr().out.splitlines()
    assert json.loads(files["--json"].read_text()) == expected
    rows = list(csv.DictReader(io.StringIO(files["--csv"].read_text(encoding="utf-8-sig"))))
    flat = [(answer["query"], result) for answer in expected for result in answer["results"]]
    assert len(rows) == len(flat) == 8
    for row, (query, result) in zip(rows, flat, strict=True):
        cells = {name: "" if value is None else str(value) for name, value in result.items()}
        expected_row = {"query": query, **cells, "duplicates": "0", "filters": ""}
        assert row == expected_row | {"image_root": str(index.image_root)}
        assert f"{result['rank']:4d}  {result['score']:6.4f}  {result['image']}" in table
    assert {query for query, _ in flat} == set(sentences) <= set(table)
    assert Image.open(files["--figure"]).size[1] > 2 * 240, "two rows of four"


def test_scores_are_cosines_of_the_sentence_and_the_images(
    encoder: Encoder, index: Index, search: Search
) -> None:
    (answer,) = search("A man, in a RED coat!", "-k", "10")
    text = encoder.encode_texts(["a man, in a red coat"])[0]
    images = encoder.encode_images([load_image(index.image_root / path) for path in index.paths])
    expected = dict(zip(index.paths, (images @ text).tolist(), strict=True))
    assert names(answer) == sorted(expected, key=lambda path: -expected[path])
    assert [r["score"] for r in answer["results"]] == pytest.approx(sorted(expected.values())[::-1], abs=1e-3)
    assert [r["rank"] for r in answer["results"]] == list(range(1, 11))


def test_an_image_finds_itself_and_its_weight_moves_the_ranking_from_the_sentence_to_it(
    index: Index, search: Search
) -> None:
    path = index.paths[3]
    image = ["--image", str(index.image_root / path), "-k", "10"]
    (by_image,) = search(*image)
    assert names(by_image)[0] == path
    assert by_image["results"][0]["score"] == pytest.approx(1, abs=2e-3)
    (by_text,) = search("a man", "-k", "10")
    assert names(search("a man", *image, "--image-weight", "1")[0]) == names(by_image)
    assert names(search("a man", *image, "--image-weight", "0")[0]) == names(by_text)
    both = search("a man", "a woman", *image)
    assert len(both) == 2
    assert path in both[0]["query"]


RED = Query((("red", 1.0),))
AXES = {"red": (1.0, 0.0, 0.0), "hat": (0.0, 1.0, 0.0), "bag": (0.0, 0.0, 1.0)}


class Axes:
    """An encoder of sentences that lie on axes."""

    tokenizer = SimpleNamespace(clean=str)

    def encode_texts(self, captions: list[str]) -> Tensor:
        return torch.tensor([AXES[caption] for caption in captions])

    def encode_images(self, images: list[Image.Image]) -> Tensor:
        assert not images
        return torch.zeros(0, 3)


def test_what_is_to_be_avoided_is_demoted_and_what_does_not_match_is_not_promoted() -> None:
    gallery = F.normalize(torch.tensor([(1, 1, 0), (1, 0, 1), (1, 0.2, 0), (0, 0.1, 1)], dtype=torch.float32))
    plain, without, both = query_features(
        Axes(), [RED, Query(RED.texts, without=("hat",)), Query(RED.texts, without=("hat", "bag"))]
    )
    scores = gallery.numpy() @ np.stack([plain, without, both]).T
    assert scores[0, 0] == pytest.approx(scores[1, 0]), "the sentence alone cannot tell them apart"
    assert scores[:, 1].argsort()[::-1].tolist() == [2, 1, 0, 3]
    hat, bag = gallery[:, 1].numpy(), gallery[:, 2].numpy()
    assert scores[:, 1] == pytest.approx(scores[:, 0] - WITHOUT_WEIGHT * hat)
    assert scores[:, 2] == pytest.approx(scores[:, 0] - WITHOUT_WEIGHT * (hat + bag) / 2)


def test_a_sentence_and_an_image_are_a_weighted_sum_of_unit_length() -> None:
    image = np.array((0.0, 1.0, 0.0), np.float32)
    (mixed,) = query_features(Axes(), [Query((("red", 0.75),), ((image, 0.25),))])
    assert mixed == pytest.approx(np.array([0.75, 0.25, 0]) / np.hypot(0.75, 0.25))


def test_without_reaches_the_ranking_from_the_command_line(search: Search) -> None:
    (plain,), (without,) = search("a man", "-k", "10"), search("a man", "--without", "a hat", "-k", "10")
    assert [r["score"] for r in plain["results"]] != [r["score"] for r in without["results"]]
    assert without["query"] == "a man, without a hat"


def test_a_sentence_file_many_queries_and_overlong_ones_are_answered(
    index: Index, search: Search, tmp_path: Path
) -> None:
    (tmp_path / "sentences.txt").write_text("\ufeff" + "\n\n".join(f"person {n}" for n in range(50)))
    answers = search("first", "--sentences", str(tmp_path / "sentences.txt"), "-k", "3")
    assert [answer["query"] for answer in answers] == ["first", *(f"person {n}" for n in range(50))]
    assert {len(answer["results"]) for answer in answers} == {3}
    for overlong in ("long " * 2000, "长" * 10_000):
        (answer,) = search(overlong)
        assert len(answer["results"]) == 10, "20 is more than there are"


@pytest.fixture
def changing(encoder: Encoder, images: Path, index_folder: Path) -> Index:
    """A copy of the index and its images, to be changed."""
    update_index(encoder, images, index_folder)
    return Index.open(index_folder)


def test_missing_images_stay_in_the_answer_and_are_reported(
    changing: Index, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (changing.image_root / changing.paths[0]).unlink()
    (changing.image_root / changing.paths[1]).write_bytes(b"no longer an image")
    command = ["query", str(changing.folder), "a man", "--figure", str(tmp_path / "a.png")]
    assert main([*command, "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {row["image"] for row in rows if row["missing"] == "True"} == {changing.paths[0]}
    assert main(command) == 0
    assert capsys.readouterr().out.count("(missing)") == 1
    assert (tmp_path / "a.png").is_file()


def test_explanations_are_drawn_for_each_image_that_exists(
    changing: Index, search: Search, tmp_path: Path
) -> None:
    (answer,) = search("a man", "-k", "3")
    (changing.image_root / names(answer)[1]).unlink()
    search("a man", "-k", "3", "--explain", str(tmp_path / "why"), folder=changing.folder)
    assert {file.name for file in (tmp_path / "why").iterdir()} == {"1-1.png", "1-3.png"}


def test_user_errors_are_one_line(user_error: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "blank.txt").write_text("\n \n")
    (tmp_path / "latin.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "no.jpg").write_text("no image")
    for arguments, message in (
        ([], "SENTENCE"),
        (["  "], "words that describe"),
        (["a man", ".!*"], "query 2: expected words that describe"),
        (["a man", "--without", ""], "words that describe"),
        (["a man", "-k", "0"], "-k: expected at least 1"),
        (["a man", "-k", "many"], "-k"),
        (["a man", "--image-weight", "2"], "--image-weight"),
        (["--image", str(tmp_path / "no.jpg")], "no.jpg"),
        (["--image", str(tmp_path / "nowhere.jpg")], "not there"),
        (["--sentences", str(tmp_path / "blank.txt")], "no sentence"),
        (["--sentences", str(tmp_path / "latin.txt")], "UTF-8"),
        (["--sentences", str(tmp_path / "nowhere.txt")], "cannot be read"),
        (["--json", "a man"], "sentences come first"),
        (["a man", "--json", "--csv"], "only one of them"),
        (["a man", "--figure", "a.jpg"], "--figure"),
        (["a man", "--csv", str(tmp_path / "nowhere" / "a.csv")], "--csv"),
        (["a man", "--explain", str(tmp_path / "no.jpg" / "why")], "--explain"),
        (["a man", "--checkpoint", str(tmp_path / "nowhere.pth")], "--checkpoint FILE"),
        (["a man", "--checkpoint", str(tmp_path / "no.jpg")], "no.jpg"),
        (["a man", "--checkpoint", str(small_encoder(tmp_path, 1).checkpoint)], "another model"),
    ):
        assert message in user_error(*arguments), arguments


def test_a_flag_without_effect_is_named_once(
    index: Index, search: Search, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image = str(index.image_root / index.paths[0])
    for arguments, expected in (
        (["a man", "--image-weight", "0.5"], ["--image-weight"]),
        (["--image", image, "--image-weight", "0.2"], ["--image-weight"]),
        (["--image", image, "--explain", str(tmp_path / "why")], ["--explain"]),
        (["a man", "--image", image, "--image-weight", "0.2"], []),
        (["a man"], []),
    ):
        caplog.clear()
        search(*arguments)
        found = [record.getMessage() for record in caplog.records if "no effect" in record.getMessage()]
        assert [message.split()[0] for message in found] == expected, arguments


def test_flags_of_serve_and_of_the_benchmark_without_effect_are_named(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("misc.search.web.server.serve", lambda *_: None)
    assert main(["serve", str(index.folder), "--images", str(tmp_path)]) == 0
    assert "--images has no effect without --annotations" in caplog.messages
    with pytest.raises(UserError, match="--images: expected one number"):
        benchmark.run(benchmark.build_parser().parse_args(["--images", "1", "2", "--indexing", "a", "b"]))


def test_unpaired_surrogates_in_a_sentence_are_escaped(search: Search, tmp_path: Path) -> None:
    for arguments in ([], ["--csv", str(tmp_path / "a.csv")], ["--json"]):
        search("a man \udcff", *arguments)
    assert "a man \\udcff" in (tmp_path / "a.csv").read_text(encoding="utf-8")


def test_a_sentence_that_looks_like_a_formula_is_escaped_in_the_csv(search: Search, tmp_path: Path) -> None:
    search("=1+1 a man", "-k", "1", "--csv", str(tmp_path / "a.csv"))
    content = (tmp_path / "a.csv").read_bytes()
    assert content.startswith("\ufeffquery,".encode())
    (row,) = csv.DictReader(io.StringIO(content.decode("utf-8-sig")))
    assert row["query"] == "'=1+1 a man"
    assert float(row["score"]) <= 1


def test_an_unknown_or_incomplete_command_is_a_user_error(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["find"], ["index"], ["query"]):
        assert main(arguments) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.startswith("error: ")


def test_empty_queries_are_refused(encoder: Encoder) -> None:
    for query in (Query(), Query(without=("a hat",)), Query((("", 1.0),))):
        with pytest.raises(UserError, match="words that describe"):
            query_features(encoder, [query])
    assert query_features(encoder, [Query((("a man", 1.0),))] * 2).dtype == np.float32
