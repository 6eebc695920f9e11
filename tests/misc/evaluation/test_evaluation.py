"""Several test sets, rankings, re-ranking, fusion and the model card, from the command line."""

import codecs
import csv
import errno
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from PIL import Image

from data.synthetic.write import Parameters, generate
from main import main
from misc.evaluation.tables import metrics_table, summary_table
from misc.metrics import METRICS, retrieval_metrics
from misc.training.engine import Trainer
from model.clip import build_clip
from tests.helpers.openai_format import IMAGE_SIZE, openai_state_dict, save_torchscript
from tests.helpers.tiny_config import write_tiny
from tests.helpers.whole_runs import assert_mentions, error_line, results_of
from text_utils.captions import clean_caption


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another rendered data set, of 5 test persons."""
    folder = tmp_path_factory.mktemp("data") / "others"
    generate(folder, Parameters(9, 7, 2, 5, images_per_identity=2))
    return folder


@pytest.fixture(scope="module")
def sets(others: Path) -> str:
    return f"eval.test_sets={{others: [{others}, {others}/imgs]}}"


@pytest.fixture(scope="module")
def trained(people: Path, sets: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run on `people`, tested on `others` as well, re-ranked."""
    folder = tmp_path_factory.mktemp("trained")
    run = folder / "run"
    config = write_tiny(folder / "tiny.yaml", people, run)
    extra = ["--save-rankings", str(folder / "rankings.csv"), "--save-features", str(folder / "features")]
    assert main(["--config", str(config), sets, "eval.rerank=true", *extra]) == 0
    return run


Evaluate = Callable[..., dict[str, Any]]


@pytest.fixture
def evaluate(trained: Path, tmp_path: Path) -> Evaluate:
    """`evaluate(weights, *overrides)` -> its results.json."""

    def run(weights: Path, *overrides: str) -> dict[str, Any]:
        command = ["--config", str(trained / "options.yaml"), "--output-dir", str(tmp_path / "out")]
        assert main([*command, "--evaluate", str(weights), *overrides]) == 0
        return results_of(tmp_path / "out")

    return run


def test_the_end_of_training_tests_all_sets_and_an_evaluation_gives_the_very_figures(
    trained: Path, evaluate: Evaluate
) -> None:
    results = results_of(trained)
    assert list(results["sets"]) == ["test", "others"]
    first = results["sets"]["test"]
    assert (first["languages"], first["average"]) == (results["languages"], results["average"])
    assert results["languages"] != results["sets"]["others"]["languages"]
    assert first["rows"].keys() == {"rerank"}
    assert first["rows"]["rerank"]["average"]["t2i"].keys() == set(METRICS)
    again = evaluate(trained / "checkpoint_best.pth")
    assert again["sets"] == results["sets"]
    assert again["select_on"] is None


def test_another_set_has_the_figures_that_it_has_alone(
    trained: Path, others: Path, evaluate: Evaluate
) -> None:
    here = [f"data.annotation_file={others}", f"data.image_root={others}/imgs"]
    alone = evaluate(trained / "checkpoint_best.pth", *here, "eval.test_sets={}", "eval.rerank=false")
    assert alone["languages"] == results_of(trained)["sets"]["others"]["languages"]
    assert "sets" not in alone


def test_the_screen_shows_each_set_and_a_summary(trained: Path) -> None:
    log = (trained / "log.txt").read_text()
    tables = log[log.index("test, test split") :]
    assert tables.index("test, test split") < tables.index("others, test split") < tables.index("all test")
    summary = tables[tables.index("all test sets") :]
    rows = re.findall(r"^(\w+(?:, \w+)?) +\d", summary, re.MULTILINE)
    assert rows[:4] == ["test", "test, rerank", "others", "others, rerank"]


def test_tables_are_aligned_whatever_the_names() -> None:
    figures = {direction: dict.fromkeys(METRICS, 12.345) for direction in ("t2i", "i2t")}
    results = {"languages": {"en": figures, "ch": figures}, "average": figures}
    results = {**results, "rows": {"fusion+rerank": results}}
    named = summary_table({"a": results, "a-benchmark-with-a-rather-long-name": results})
    for table, num_rows in ((metrics_table(results), 12), (named, 4)):
        rows = [line for line in table.splitlines() if "12.3" in line]
        assert len(rows) == num_rows
        assert {len(row) for row in rows} == {len(table.splitlines()[0])}


def test_rankings_say_what_each_query_found(
    trained: Path, people: Path, others: Path, evaluate: Evaluate, tmp_path: Path
) -> None:
    results = results_of(trained)
    assert (trained.parent / "rankings.csv").read_bytes().startswith(codecs.BOM_UTF8)
    with (trained.parent / "rankings.csv").open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    for name, data in (("test", people), ("others", others)):
        records = json.loads((data / "test_reid_en.json").read_text())
        pairs = [(record, caption) for record in records for caption in record["captions"]]
        of_set = [row for row in rows if row["set"] == name]
        assert [row["query"] for row in of_set] == [str(i) for i in range(len(pairs))]
        for row, (record, _) in zip(of_set, pairs, strict=True):
            assert row["image"] == str(data / "imgs" / record["file_path"])
            assert (row["language"], row["person_id"]) == ("en", str(record["id"]))
            assert row["caption"] == row["caption"].lower()
            shown = [row[f"person_id_{i}"] for i in range(1, 11)]
            hits = [i for i, person in enumerate(shown, 1) if person == row["person_id"]]
            assert hits[:1] == [int(row["first_hit_rank"])] or int(row["first_hit_rank"]) > 10
            scores = [float(row[f"score_{i}"]) for i in range(1, 11) if row[f"score_{i}"]]
            assert scores == sorted(scores, reverse=True)
            assert len(scores) == min(10, len(records))
            assert Path(row["image_1"]).exists()
        for k in (1, 5, 10):
            recall = 100 * sum(int(row["first_hit_rank"]) <= k for row in of_set) / len(of_set)
            expected = results["sets"][name]["languages"]["en"]["t2i"][f"R{k}"]
            assert recall == pytest.approx(expected, abs=1e-6)

    lines = tmp_path / "new folder" / "rankings.jsonl"
    evaluate(trained.parent / "features", "--save-rankings", str(lines))
    read = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
    assert [{k: "" if v is None else str(v) for k, v in row.items()} for row in read] == rows


@pytest.mark.usefixtures("pictures")
def test_saved_features_give_the_same_figures_without_model_and_images(
    trained: Path, people: Path, evaluate: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "model", None)  # importing it would fail
    nothing = ["data.annotation_file=nowhere", "data.image_root=nowhere"]
    again = evaluate(trained.parent / "features", *nothing)
    results = results_of(trained)
    assert again["sets"] == results["sets"]
    assert again["checkpoint"] == results["checkpoint"]
    assert (tmp_path / "out" / "ranking.png").exists()


def test_overrides_that_only_training_reads_are_named(
    trained: Path, evaluate: Evaluate, caplog: pytest.LogCaptureFixture
) -> None:
    evaluate(trained.parent / "features", "schedule.lr=1", "data.batch_size=3", "eval.rerank=false")
    said = [line.split(" has no effect")[0] for line in caplog.messages if "are scored" in line]
    assert said == ["schedule.lr", "data.batch_size"]


def test_results_that_cannot_be_written_leave_those_of_before(
    trained: Path, evaluate: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate(trained.parent / "features")
    before = (tmp_path / "out" / "results.json").read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(AssertionError):
        evaluate(trained.parent / "features", "eval.rerank=false")
    assert (tmp_path / "out" / "results.json").read_bytes() == before


def test_zero_shot_is_openais_archive_given_to_evaluate(people: Path, tmp_path: Path) -> None:
    archive = save_torchscript(openai_state_dict(), tmp_path / "ViT.pt")
    size = [f"data.image_size={list(IMAGE_SIZE)}", "data.normalization=clip", "data.num_workers=0"]
    data = [f"data.annotation_file={people}", f"data.image_root={people}/imgs", "misc.device=cpu"]
    assert main(["--evaluate", str(archive), *size, *data, "--output-dir", str(tmp_path / "out")]) == 0

    clip, tokenizer, processor = build_clip(str(archive), image_size=IMAGE_SIZE, normalization="clip")
    records = json.loads((people / "test_reid_en.json").read_text())
    images = [Image.open(people / "imgs" / record["file_path"]) for record in records]
    pairs = [(caption, record["id"]) for record in records for caption in record["captions"]]
    with torch.no_grad():
        gallery = clip.eval().encode_image(processor(images=images, return_tensors="pt")["pixel_values"])
        queries = clip.encode_text(tokenizer([clean_caption(caption) for caption, _ in pairs]))
    ids = [torch.tensor([person for _, person in pairs]), torch.tensor([record["id"] for record in records])]
    expected = retrieval_metrics(queries, gallery, *ids)
    assert results_of(tmp_path / "out")["languages"]["en"]["t2i"] == pytest.approx(expected, abs=1e-3)


def test_weights_that_are_no_numbers_have_no_figures(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = torch.load(trained / "checkpoint_best.pth", weights_only=True)
    state["model"]["clip.text.text_projection"].fill_(torch.nan)
    torch.save(state, tmp_path / "broken.pth")
    arguments = ["--config", str(trained / "options.yaml"), "--evaluate", str(tmp_path / "broken.pth")]
    assert main([*arguments, "--output-dir", str(tmp_path / "out")]) == 2
    assert "not finite" in error_line(capsys)
    assert not (tmp_path / "out" / "results.json").exists()


def test_fusion_has_rows_of_its_own(trained: Path, evaluate: Evaluate) -> None:
    features = trained.parent / "features"
    with_itself = evaluate(features, f"eval.fuse={{{features}: 0.5}}")
    plain = results_of(trained)["sets"]
    for name, results in with_itself["sets"].items():
        assert results["rows"].keys() == {"fusion", "rerank", "fusion+rerank"}
        assert results["languages"] == plain[name]["languages"]
        for fused, alone in (("fusion", results), ("fusion+rerank", results["rows"]["rerank"])):
            figures = results["rows"][fused]["average"]["t2i"]
            assert figures == pytest.approx(alone["average"]["t2i"], abs=10)  # near ties may swap


def test_the_model_card_says_what_made_the_checkpoint(trained: Path, people: Path) -> None:
    card = (trained / "model_card.md").read_text(encoding="utf-8")
    train = json.loads((people / "train_reid_en.json").read_text())
    captions = sum(len(record["captions"]) for record in train)
    assert_mentions(card, f"| train | 10 | {len(train)} | {captions} |", f"`{people}`")
    assert "weight_decay" not in card, "it is the default"
    torch_version = f"torch {torch.__version__.split('+')[0]}"
    assert_mentions(card, "  lr: 0.001", torch_version, "python main.py --config", "selected on val (R@1 ")
    figure = results_of(trained)["sets"]["others"]["languages"]["en"]["t2i"]["mAP"]
    assert f"{figure:8.2f}" in card


def test_the_card_of_an_earlier_run_goes_with_it(trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    arguments = ["--config", str(run / "options.yaml"), "--output-dir", str(run), "output.overwrite=true"]
    with mock.patch.object(Trainer, "fit", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        main(arguments)
    assert not (run / "model_card.md").exists()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["eval.test_sets={b: [nowhere, nowhere]}"], ["eval.test_sets, set 'b'", "nowhere"]),
        (["eval.test_sets={test: [nowhere, nowhere]}"], ["eval.test_sets", "'test'", "another"]),
        (["eval.test_sets={b: nowhere}"], ["eval.test_sets", "list of 2 texts"]),
        (["eval.test_sets=[nowhere]"], ["eval.test_sets", "{name: ...}"]),
        (["data.languages=[en, ch]", "eval.test_sets={b: [ENGLISH, IMAGES]}"], ["set 'b'", "'ch'"]),
        (["eval.fuse={nowhere: 1}"], ["'nowhere'", "features.json"]),
        (["eval.fuse={FEATURES: 0}"], ["eval.fuse", "above 0"]),
        (["eval.fuse={FEATURES: 1}"], ["eval.fuse", "FEATURES", "10 in it, 12 in the set"]),
        (["eval.fuse={FEATURES: 1}", "data.dataset=multilingual"], ["no features of the set 'multilingual'"]),
        (["--save-rankings", "."], ["--save-rankings", ".jsonl"]),
        (["--save-rankings", "rankings.json"], ["rankings.json", ".jsonl"]),
        (["--save-rankings", "LICENSE/a.csv"], ["--save-rankings", "LICENSE"]),
        (["--save-features", "LICENSE"], ["--save-features", "LICENSE"]),
        (["--save-features", "FEATURES"], ["--save-features", "FEATURES", "output.overwrite"]),
    ],
)
def test_what_evaluation_needs_is_checked_before_training(
    overrides: list[str],
    said: list[str],
    trained: Path,
    others: Path,
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    english = tmp_path / "english"
    english.mkdir()
    shutil.copy(others / "test_reid_en.json", english)
    # features of the same set names, but of another data set
    data = [f"data.annotation_file={others}", f"data.image_root={others}/imgs"]
    features = tmp_path / "features"
    if "FEATURES" in str(overrides):
        weights = ["--evaluate", str(trained / "checkpoint_best.pth"), "--save-features", str(features)]
        assert main(["--config", str(config), *data, *weights]) == 0
    places = {"FEATURES": str(features), "ENGLISH": str(english), "IMAGES": f"{others}/imgs"}

    def placed(text: str) -> str:
        return re.sub("|".join(places), lambda match: places[match[0]], text)

    monkeypatch.setattr("misc.training.engine.Trainer.fit", lambda self: pytest.fail("trained"))
    capsys.readouterr()
    assert main(["--config", str(config), *map(placed, overrides)]) == 2
    assert_mentions(error_line(capsys), *map(placed, said))
