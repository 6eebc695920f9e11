"""RDE, ITSELF and IRRA after training: what reads a checkpoint reads their embedding, the same everywhere."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from onnxruntime import InferenceSession
from torch import Tensor

from main import main
from misc.evaluation.features import load_features
from misc.export.__main__ import main as export_main
from misc.export.source import Source, load_source
from misc.search.__main__ import main as search_main
from options import LOSSES
from tests.helpers.tiny_config import write_config
from tests.helpers.whole_runs import results_of

OFF = dict.fromkeys(LOSSES, False)
ADAM = {"epoch": 1, "optimizer": "adam", "decay_on": "all_but_biases"}
DATA = {"batch_size": 16, "preparation": "irra", "drop_last": False}
MODEL = {"image_layers": 2, "text_layers": 2}
RDE = {
    "experiment": OFF
    | {"tal": True, "tse": True, "tse_width": 12, "text_aug": "tokens", "image_aug": "irra"},
    "schedule": ADAM | {"tse_lr": 1e-3},
    "data": DATA | {"noise": 0.2, "image_size": [64, 64]},
    "model": MODEL,
}
ITSELF = {
    "experiment": RDE["experiment"]
    | {"tse": False, "grab": True, "grab_width": 12, "grab_blocks": [0, 1], "grab_global_weight": 0.7},
    "schedule": ADAM | {"grab_lr": 1e-3},
    "data": DATA | {"sampler": "identity", "samples_per_identity": 2, "image_size": [64, 64]},
    "model": MODEL,
}
IRRA = {
    "experiment": OFF
    | {"sdm": True, "id": True, "mlm": True, "mlm_variant": "irra", "mlm_masks_all": True, "cmt_depth": 1},
    "schedule": ADAM | {"ratio_factor": 5, "bias_factor": 2},
    "data": DATA,
    "model": MODEL,
}
WIDTH, CAPTIONS = 16, ["red", "a man in a blue coat with a white bag", "a woman, " * 40]


def trained(folder: Path, people: Path, recipe: dict[str, Any]) -> Path:
    """The checkpoint of one epoch."""
    folder.mkdir()
    out = {"output": {"dir": str(folder / "run")}}
    assert main(["--config", str(write_config(folder / "run.yaml", people, WIDTH, **recipe, **out))]) == 0
    return folder / "run" / "checkpoint_last.pth"


@pytest.fixture(scope="module")
def rde(tmp_path_factory: pytest.TempPathFactory, people: Path) -> Path:
    return trained(tmp_path_factory.mktemp("methods") / "rde", people, RDE)


@pytest.fixture(scope="module")
def itself(tmp_path_factory: pytest.TempPathFactory, people: Path) -> Path:
    return trained(tmp_path_factory.mktemp("methods") / "itself", people, ITSELF)


@pytest.fixture(scope="module")
def irra(tmp_path_factory: pytest.TempPathFactory, people: Path) -> Path:
    return trained(tmp_path_factory.mktemp("methods") / "irra", people, IRRA)


@pytest.fixture(scope="module")
def source(rde: Path) -> Source:
    return load_source(rde, None, ())


def evaluate(weights: Path, out: Path, *more: str) -> list[dict[str, Any]]:
    """The rankings of an evaluation with the options of the run."""
    config = ["--config", str(weights.parent / "options.yaml")] if weights.is_file() else []
    files = ["--output-dir", str(out), "--save-rankings", str(out.with_suffix(".jsonl"))]
    assert main([*config, "--evaluate", str(weights), *files, *more]) == 0
    return [json.loads(line) for line in out.with_suffix(".jsonl").read_text().splitlines()]


@pytest.mark.parametrize("method", ["rde", "itself", "irra"])
def test_search_ranks_as_the_evaluation_does(
    method: str, request: pytest.FixtureRequest, people: Path, tmp_path: Path
) -> None:
    weights = request.getfixturevalue(method)
    rows = evaluate(weights, tmp_path / "evaluated", f"--save-features={tmp_path / 'features'}")
    width = load_features(tmp_path / "features", "eval.fuse").sets["test"].features.images.shape[1]
    assert width == (WIDTH if method == "irra" else WIDTH + 12)

    tested = tmp_path / "tested"
    for row in rows:
        target = tested / Path(row["image"]).relative_to(people / "imgs")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(Path(row["image"]).read_bytes())
    assert search_main(["index", str(weights), str(tested), "--out", str(tmp_path / "index")]) == 0
    (tmp_path / "asked.txt").write_text("\n".join(row["caption"] for row in rows))
    asked = ["--sentences", str(tmp_path / "asked.txt"), "-k", "10", "--json", str(tmp_path / "found.json")]
    assert search_main(["query", str(tmp_path / "index"), *asked]) == 0
    asked = ["a man in a red coat", "-k", "2", "--explain", str(tmp_path / "heat")]
    assert search_main(["query", str(tmp_path / "index"), *asked]) == 0
    assert len(list((tmp_path / "heat").iterdir())) == 2
    answers = json.loads((tmp_path / "found.json").read_text())
    for row, answer in zip(rows, answers, strict=True):
        found = {result["image"]: result["score"] for result in answer["results"]}
        wanted = {
            str(Path(row[f"image_{i}"]).relative_to(people / "imgs")): row[f"score_{i}"] for i in range(1, 11)
        }
        assert list(found.values()) == pytest.approx(list(wanted.values()), abs=2e-3)  # fp16
        both = found.keys() & wanted.keys()  # those at the end may tie with the next ones
        assert len(both) >= 8
        assert [found[name] for name in both] == pytest.approx([wanted[name] for name in both], abs=2e-3)


def test_saved_features_are_scored_fused_and_reranked_as_the_model_is(
    rde: Path, irra: Path, tmp_path: Path
) -> None:
    for name, weights in (("a", rde), ("b", irra)):
        evaluate(
            weights, tmp_path / f"of {name}", "--save-features", str(tmp_path / name), "eval.rerank=true"
        )
    evaluate(tmp_path / "a", tmp_path / "scored", "eval.rerank=true")
    assert results_of(tmp_path / "scored")["sets"] == results_of(tmp_path / "of a")["sets"]
    evaluate(tmp_path / "a", tmp_path / "fused", f"eval.fuse={{{tmp_path / 'b'}: 1}}")
    (own,) = results_of(tmp_path / "fused")["sets"].values()
    assert "fusion" in own["rows"]


@pytest.fixture(scope="module")
def exported(rde: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """exported(format): the folder, written once."""

    @functools.cache
    def export(format_name: str) -> Path:
        folder = tmp_path_factory.mktemp("exports") / format_name
        assert export_main([str(rde), str(folder), "--format", format_name]) == 0
        return folder

    return export


def pixels(rows: int, source: Source) -> Tensor:
    return torch.randn(rows, 3, *source.processor.image_size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_safetensors_hold_the_head_and_evaluate_alike(
    exported: Callable[[str], Path], rde: Path, source: Source, tmp_path: Path
) -> None:
    file = exported("safetensors") / "model.safetensors"
    again = load_source(file, None, ())
    assert again.options == source.options
    assert torch.equal(again.model.embed(pixels(2, source)), source.model.embed(pixels(2, source)))
    assert evaluate(file, tmp_path / "again") == evaluate(rde, tmp_path / "first")


@torch.no_grad()
@pytest.mark.parametrize("method", ["rde", "itself"])
def test_onnx_graphs_select_tokens_of_any_number_of_captions_of_any_length(
    method: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    weights = request.getfixturevalue(method)
    source = load_source(weights, None, ())
    assert export_main([str(weights), str(tmp_path / "onnx"), "--format", "onnx"]) == 0
    graphs = {name: InferenceSession(tmp_path / "onnx" / f"{name}.onnx") for name in ("image", "text")}
    for rows in (1, 3):
        (found,) = graphs["image"].run(["features"], {"pixel_values": pixels(rows, source).numpy()})
        torch.testing.assert_close(
            torch.from_numpy(found), source.model.embed(pixels(rows, source)), atol=1e-4, rtol=0
        )
    for captions in (CAPTIONS[:1], CAPTIONS[1:2], CAPTIONS[2:], CAPTIONS, ["", "a man"]):
        tokens = source.tokenizer(captions)
        (found,) = graphs["text"].run(["features"], {name: t.numpy() for name, t in tokens.items()})
        torch.testing.assert_close(torch.from_numpy(found), source.model.embed(tokens), atol=1e-4, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("format_name", ["huggingface", "openai"])
def test_formats_without_heads_hold_the_towers_and_say_so(
    format_name: str, exported: Callable[[str], Path], source: Source
) -> None:
    text = (exported(format_name) / "README.md").read_text()
    assert "`tse_head`" in text
    assert f"features of {WIDTH} numbers" in text
    if format_name == "huggingface":
        theirs = transformers.CLIPModel.from_pretrained(exported(format_name)).eval()
        features = theirs.get_image_features(pixel_values=pixels(2, source))
        features = getattr(features, "pooler_output", features)
        torch.testing.assert_close(
            features, source.model.clip.encode_image(pixels(2, source)), atol=1e-4, rtol=0
        )
