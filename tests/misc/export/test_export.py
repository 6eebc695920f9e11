"""Exported models, loaded by the libraries that they are for, give the features of the checkpoint."""

import builtins
import contextlib
import dataclasses
import functools
import importlib.util
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import safetensors
import torch
import transformers
from onnxruntime import InferenceSession
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from main import main as run_main
from misc.export import onnx_graphs
from misc.export.__main__ import FORMATS, TOWERS_ALONE, main
from misc.export.source import Source, load_source
from misc.tiny_altclip import synthetic_captions
from model import BACKBONES, build_model
from model.clip import build_clip
from model.objectives import OBJECTIVES
from model.weights.pretrained import load_clip_weights
from options import load_options, to_dict
from tests.helpers.altclip_folders import cache_root
from tests.helpers.embedding_head import Largest
from tests.helpers.openai_format import openai_state_dict, save_torchscript
from text_utils.captions import clean_caption
from text_utils.tokenizer import CLIPTokenizer

TEXT_LENGTH = 20
# Heads of another width than OpenAI's 64, so that the files must hold it.
CLIP = {
    "model.clip_pretrained": "null",
    "model.patch_size": 16,
    "model.image_width": 128,
    "model.image_layers": 2,
    "model.image_heads": 4,
    "model.text_width": 64,
    "model.text_layers": 2,
    "model.text_heads": 2,
    "model.activation": "gelu",
    "model.embed_dim": 24,
    "experiment.text_length": TEXT_LENGTH,
    "experiment.dropout": 0.3,
}
SQUARE = {"data.image_size": [64, 64], "data.normalization": "clip", "experiment.sigmoid": "true"}
TALL = {"data.image_size": [128, 32]}  # 16 patches, which could be taken for a square of 4 x 4
IRRA = {"data.preparation": "irra", "data.image_size": [64, 64]}
CAPTIONS = ["A man.", "A “tall” woman (in red); it's Jekyll &amp; ﬁne.", "a long red coat, " * 30]
Export = Callable[[str, str], Path]
Load = Callable[[str], Source]


def save_run(path: Path, config: str, **settings: Any) -> Path:
    """A checkpoint of a run with random weights: the model with its heads, and the options."""
    options = load_options(config, [f"{key}={value}" for key, value in settings.items()])
    torch.manual_seed(len(path.name))
    model, _, _ = build_model(options, num_identities=3)
    for parameter in model.parameters():  # no two alike, no biases of 0
        parameter.data += 0.05 * torch.randn_like(parameter)
    torch.save({"model": model.state_dict(), "options": to_dict(options)}, path)
    return path


@pytest.fixture(scope="session")
def runs(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The checkpoints of this file."""
    root = tmp_path_factory.mktemp("runs")
    altclip = {"model.altclip_pretrained": folder, "experiment.text_length": TEXT_LENGTH}
    recipes = {
        "square": ("config/config.yaml", CLIP | SQUARE),
        "tall": ("config/s.config.yaml", CLIP | TALL),
        "irra": ("config/s.config.yaml", CLIP | IRRA),
        "altclip": ("config/altclip.yaml", altclip | {"data.image_size": [48, 48]}),
        "cropped altclip": ("config/altclip.yaml", altclip | {"experiment.use_altclip_processor": "true"}),
    }
    return {
        name: save_run(root / f"{name}.pth", config, **settings)
        for name, (config, settings) in recipes.items()
    }


@pytest.fixture(scope="session")
def ours(runs: dict[str, Path]) -> Load:
    """ours(run): the model of a checkpoint with tokenizer and processor, loaded once."""
    return functools.cache(lambda run: load_source(runs[run], None, ()))


@pytest.fixture(scope="session")
def exported(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Export:
    """exported(run, format): the folder, written once."""
    root = tmp_path_factory.mktemp("exported")

    @functools.cache
    def export(run: str, format_name: str) -> Path:
        target = root / f"{run} as {format_name}"
        assert main([str(runs[run]), str(target), "--format", format_name]) == 0
        return target

    return export


def pixels(rows: int, height: int, width: int) -> Tensor:
    return torch.randn(rows, 3, height, width, generator=torch.Generator().manual_seed(1))


def close(a: Tensor, b: Tensor, tolerance: float = 1e-4) -> bool:
    assert a.shape == b.shape
    assert b.abs().max() > 0.1, "features near zero prove nothing"
    assert (b[0] - b[-1]).abs().max() > 0.01 or len(b) == 1, "equal features prove nothing"
    return (a - b).abs().max().item() <= tolerance


def features_by_readme(folder: Path, captions: list[str], images: list[Image.Image]) -> tuple[Tensor, Tensor]:
    """(text, image) features, normalised, by the code of the README in a folder."""
    (code,) = re.findall(
        r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL
    )
    code = code.replace('FOLDER = "."', f"FOLDER = {str(folder)!r}")
    code = re.sub(r"^captions = .*$", "captions = [clean(caption) for caption in CAPTIONS]", code, flags=re.M)
    code = re.sub(r"^images = .*$", "images = IMAGES", code, flags=re.M)
    names: dict[str, Any] = {"CAPTIONS": captions, "IMAGES": images}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(code, "README.md", "exec"), names)
    return F.normalize(names["text_features"]), F.normalize(names["image_features"])


@pytest.mark.parametrize(
    ("run", "format_name"),
    [
        ("square", "huggingface"),
        *(("tall", name) for name in ("openai", "onnx")),
        *(("irra", name) for name in ("huggingface", "openai")),
        *(("altclip", name) for name in ("huggingface", "onnx")),
        ("cropped altclip", "huggingface"),
    ],
)
def test_the_code_of_the_readme_gives_our_features(
    run: str, format_name: str, exported: Export, ours: Load
) -> None:
    captions = ["A man.", "ein Mann", "红色上衣的女生"] if "altclip" in run else clip_captions(format_name)
    source = ours(run)
    images = source.images[:2]
    text_features, image_features = features_by_readme(exported(run, format_name), captions, images)
    assert close(text_features, F.normalize(source.encode_text(captions)))
    pixel_values = source.processor(images=images)["pixel_values"]
    assert close(image_features, F.normalize(source.model.embed(pixel_values)))


def test_the_readme_tells_how_captions_and_images_are_prepared(exported: Export) -> None:
    said = (exported("irra", "huggingface") / "README.md").read_text(encoding="utf-8")
    for setting in (
        "data.cleaning=none",
        "data.interpolation=bilinear",
        "data.normalization=clip",
        "64 x 64",
    ):
        assert setting in said
    safetensors = (exported("tall", "safetensors") / "README.md").read_text(encoding="utf-8")
    assert "data.cleaning=tbps-clip" in safetensors
    assert "data.interpolation=bicubic" in safetensors


def clip_captions(format_name: str) -> list[str]:
    """open_clip encodes this one word as the token that is the mask token here."""
    return [c.replace("Jekyll", "he") if format_name == "openai" else c for c in CAPTIONS]


def assert_transformers_agrees(model_class: type, place: Path, source: Source) -> PreTrainedModel:
    """Their model of an export: every tensor is found and used, and the features are ours."""
    theirs, info = model_class.from_pretrained(place, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    theirs.eval()
    images, tokens = pixels(3, *source.processor.image_size), source.tokenizer(CAPTIONS)
    with torch.no_grad():
        output = theirs(pixel_values=images, **tokens)
    assert close(output.image_embeds, F.normalize(source.model.embed(images)))
    assert close(output.text_embeds, F.normalize(source.model.embed(tokens)))
    return theirs


def test_transformers_loads_every_tensor_and_gives_our_features(exported: Export, ours: Load) -> None:
    place, source = exported("square", "huggingface"), ours("square")
    theirs = assert_transformers_agrees(transformers.CLIPModel, place, source)
    assert theirs.logit_scale.item() == pytest.approx(source.model.clip.logit_scale.item())
    bias = f"{source.model.clip.logit_bias.item():.4f}"  # which the format cannot hold
    assert bias in (place / "README.md").read_text()


def test_its_tokenizer_gives_our_ids(exported: Export) -> None:
    place, own = exported("square", "huggingface"), CLIPTokenizer(TEXT_LENGTH)
    captions = [clean_caption(c) for c in synthetic_captions(60) if c.isascii()]
    captions += ["jekyll and hyde", "", "!", "x" * 200, "it's 3 o'clock", "ein grüner mantel"]
    assert len(captions) > 100
    processor = transformers.CLIPProcessor.from_pretrained(place)
    for tokenizer in (transformers.AutoTokenizer.from_pretrained(place), processor.tokenizer):
        ids = tokenizer(captions, truncation=True)["input_ids"]
        assert ids == [own.encode(caption) for caption in captions]


def test_altclip_loads_into_transformers_at_another_image_size(exported: Export, ours: Load) -> None:
    place = exported("altclip", "huggingface")
    assert_transformers_agrees(transformers.AltCLIPModel, place, ours("altclip"))
    names = safetensors.safe_open(place / "model.safetensors", "pt").keys()
    assert {name.split(".")[2] for name in names if name.startswith("vision_model.encoder.")} == {"layers"}
    assert any(name.startswith("text_model.roberta.encoder.layer.0.") for name in names), "as on the hub"


@pytest.mark.parametrize("run", ["square", "tall"])
def test_open_clip_gives_our_features(run: str, exported: Export, ours: Load) -> None:
    place, source = exported(run, "openai"), ours(run)
    theirs = open_clip.create_model(f"local-dir:{place}").eval().requires_grad_(False)
    images = pixels(3, *source.processor.image_size)
    captions = [source.tokenizer.clean(caption) for caption in clip_captions("openai")]
    ids, tokens = open_clip.get_tokenizer(f"local-dir:{place}")(captions), source.tokenizer(captions)
    assert ids[:, : tokens["input_ids"].shape[1]].equal(tokens["input_ids"])
    assert close(theirs.encode_image(images), source.model.embed(images))
    assert close(theirs.encode_text(ids), source.model.embed(tokens))
    state = torch.load(place / "open_clip_pytorch_model.bin", weights_only=True)
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    assert state.keys() == openai_state_dict().keys() - {"input_resolution", "context_length", "vocab_size"}


@pytest.mark.slow
def test_open_clip_takes_the_file_for_a_model_that_it_knows_by_name(tmp_path: Path) -> None:
    shape = open_clip.get_model_config("ViT-B-32-quickgelu")
    shape["vision_cfg"]["layers"] = shape["text_cfg"]["layers"] = 1
    (tmp_path / "one-block-quickgelu.json").write_text(json.dumps(shape))
    open_clip.add_model_config(tmp_path / "one-block-quickgelu.json")
    settings = {"model.clip_pretrained": "null", "model.patch_size": 32}
    settings |= {"model.image_layers": 1, "model.text_layers": 1}
    run = save_run(tmp_path / "b32.pth", "config/s.config.yaml", **settings)
    assert main([str(run), str(tmp_path / "out"), "--format", "openai"]) == 0
    file = str(tmp_path / "out" / "open_clip_pytorch_model.bin")
    theirs = open_clip.create_model("one-block-quickgelu", pretrained=file).eval().requires_grad_(False)
    model = load_source(run, None, ()).model
    assert close(theirs.encode_image(pixels(2, 224, 224)), model.embed(pixels(2, 224, 224)))


@pytest.mark.parametrize(("run", "grid"), [("square", (4, 4)), ("tall", (8, 2))])
def test_safetensors_hold_what_tensors_do_not_show(
    run: str, grid: tuple[int, int], exported: Export, ours: Load
) -> None:
    place, source = exported(run, "safetensors"), ours(run)
    weights = load_clip_weights(place / "model.safetensors")
    assert (weights.shape.image_heads, weights.shape.text_heads) == (4, 2)
    assert weights.grid == grid
    assert all(tensor.equal(weights.tensors[name]) for name, tensor in source.model.clip.state_dict().items())
    assert load_options(place / "options.yaml") == source.options


def test_safetensors_evaluate_as_the_checkpoint_does(
    exported: Export, runs: dict[str, Path], people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, figures = exported("tall", "safetensors"), []
    data = [f"data.annotation_file={people}", f"data.image_root={people}/imgs", "data.num_workers=0"]
    for file in (runs["tall"], place / "model.safetensors"):
        out = tmp_path / file.name
        arguments = ["--config", str(place / "options.yaml"), "--evaluate", str(file)]
        arguments += ["misc.device=cpu", *data]
        assert run_main([*arguments, "--output-dir", str(out)]) == 0
        figures.append(json.loads((out / "results.json").read_text())["languages"])
    assert figures[0] == figures[1]
    capsys.readouterr()
    assert run_main([*arguments, "experiment.text_length=50"]) == 2
    assert "experiment.text_length" in capsys.readouterr().err


def test_a_graph_that_onnx_has_no_operator_for_is_one_line(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        onnx_graphs.ImageGraph,
        "forward",
        lambda _, pixels: torch.nn.functional.rms_norm(pixels[..., 0, :2], (2,)),
    )
    assert main([str(runs["tall"]), str(tmp_path / "out"), "--format", "onnx"]) == 2
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert "--format onnx: image.onnx cannot be written: Exporting the operator 'aten::rms_norm'" in line
    assert "graph(" not in said.out


@pytest.mark.parametrize("run", ["tall", "altclip"])
def test_onnx_graphs_take_batches_and_captions_of_any_length(run: str, exported: Export, ours: Load) -> None:
    place, source = exported(run, "onnx"), ours(run)
    height, width = source.processor.image_size
    graphs = {name: InferenceSession(place / f"{name}.onnx") for name in ("image", "text")}
    for rows in (1, 3, 5):
        images = pixels(rows, height, width)
        (features,) = graphs["image"].run(["features"], {"pixel_values": images.numpy()})
        assert close(torch.from_numpy(features), source.model.embed(images), 1e-3)
    for captions in (["a"], ["a", "a man", "a man in a red coat"], CAPTIONS):
        tokens = source.tokenizer(captions)
        (features,) = graphs["text"].run(["features"], {name: t.numpy() for name, t in tokens.items()})
        assert close(torch.from_numpy(features), source.model.embed(tokens), 1e-3)
    description = json.loads((place / "export.json").read_text())
    for name, graph in graphs.items():
        assert set(description[name]["inputs"]) == {value.name for value in graph.get_inputs()}
    assert (description["image"]["height"], description["image"]["width"]) == (height, width)
    assert description["text"]["max_length"] == TEXT_LENGTH
    assert description["logit_scale"] == pytest.approx(np.exp(source.model.clip.logit_scale.item()))


def test_a_graph_that_differs_is_not_written(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def forward(self: onnx_graphs.ImageGraph, pixel_values: Tensor) -> Tensor:
        return self.model.embed(pixel_values) + 0.002

    monkeypatch.setattr(onnx_graphs.ImageGraph, "forward", forward)
    assert main([str(runs["tall"]), str(tmp_path / "out"), "--format", "onnx"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "onnxruntime" in line
    assert "2.0e-03" in line
    assert not list((tmp_path / "out").iterdir())


def test_a_missing_package_is_reported_before_any_work(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnx" else find(name))
    assert main([str(runs["tall"]), str(tmp_path / "out"), "--format", "onnx"]) == 2
    captured = capsys.readouterr()
    assert captured.err == "error: --format onnx: onnx not installed; pip install onnx\n"
    assert "features" not in captured.out


def test_without_open_clip_the_features_are_not_compared_and_that_is_logged(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find, load = importlib.util.find_spec, builtins.__import__

    def import_others(name: str, *rest: Any) -> Any:
        assert name != "open_clip"
        return load(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "open_clip" else find(name))
    monkeypatch.setattr(builtins, "__import__", import_others)
    assert main([str(runs["tall"]), str(tmp_path / "out"), "--format", "openai"]) == 0
    assert "open_clip is not installed" in capsys.readouterr().out


def test_weights_of_other_projects_are_exported_with_the_options_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = save_torchscript(openai_state_dict(half=True), tmp_path / "ViT.pt")
    options = ["--config", "config/s.config.yaml", "data.image_size=[64, 64]", "data.normalization=clip"]
    assert main([str(archive), str(tmp_path / "out"), "--format", "huggingface", *options]) == 0
    assert "largest difference" in capsys.readouterr().out
    theirs = transformers.CLIPModel.from_pretrained(tmp_path / "out").eval()
    clip, tokenizer, _ = build_clip(archive, image_size=(64, 64))
    with torch.no_grad():
        output = theirs(pixel_values=pixels(2, 64, 64), **tokenizer(CAPTIONS))
        assert close(output.image_embeds, F.normalize(clip.encode_image(pixels(2, 64, 64))))
        assert close(output.text_embeds, F.normalize(clip.eval().encode_text(tokenizer(CAPTIONS))))


def test_an_override_names_the_new_place_of_the_pretrained_files(
    runs: dict[str, Path], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = tmp_path / "moved.pth"
    state = torch.load(runs["altclip"], weights_only=True)
    state["options"]["model"]["altclip_pretrained"] = str(tmp_path / "gone")
    torch.save(state, moved)
    arguments = [str(moved), str(tmp_path / "out"), "--format", "safetensors"]
    assert main(arguments) == 2
    assert "gone" in capsys.readouterr().err
    assert main([*arguments, f"model.altclip_pretrained={folder}"]) == 0


def test_the_files_of_an_altclip_of_the_hub_are_taken_from_its_cache(
    runs: dict[str, Path], folder: Path, tmp_path: Path
) -> None:
    cache = [
        f"model.tokenizer_cache_dir={cache_root(folder, tmp_path)}",
        "model.altclip_pretrained=BAAI/AltCLIP",
    ]
    assert main([str(runs["altclip"]), str(tmp_path / "out"), "--format", "huggingface", *cache]) == 0
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()


USER_ERRORS = {
    "no file": (["none.pth", "OUT"], ["CHECKPOINT", "none.pth", "does not exist"]),
    "no checkpoint": (["README.md", "OUT"], ["CHECKPOINT", "README.md", "--config"]),
    "no weights": (["README.md", "OUT", "--config", "config/s.config.yaml"], ["README.md"]),
    "another length": (
        ["TALL", "OUT", "--config", "config/s.config.yaml"],
        ["experiment.text_length", "trained with 20", "77"],
    ),
    "a folder that contains files": (["TALL", "FULL"], ["DIR", "contains files", "--overwrite"]),
    "a file": (["TALL", "FULL/kept.txt"], ["DIR", "kept.txt"]),
    "an unknown key": (["TALL", "OUT", "model.image_with=3"], ["model.image_with", "model.image_width?"]),
    "an unknown format": (["TALL", "OUT", "--format", "tflite"], ["--format", "tflite", "onnx"]),
    "not square": (["TALL", "OUT", "--format", "huggingface"], ["data.image_size", "128, 32", "onnx"]),
    "no OpenAI names": (
        ["ALTCLIP", "OUT", "--format", "openai"],
        ["--format", "AltCLIP", "huggingface"],
    ),
}


@pytest.mark.parametrize(("arguments", "words"), USER_ERRORS.values(), ids=USER_ERRORS)
def test_a_user_error_is_one_line_and_status_2(
    arguments: list[str],
    words: list[str],
    runs: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "kept.txt").write_text("kept")
    places = {"TALL": runs["tall"], "ALTCLIP": runs["altclip"]}
    places |= {
        "OUT": tmp_path / "out",
        "FULL": tmp_path / "full",
        "FULL/kept.txt": tmp_path / "full" / "kept.txt",
    }
    given = [str(places.get(word, word)) for word in arguments]
    assert main([*given, *([] if "--format" in given else ["--format", "safetensors"])]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert all(word in line for word in words), line
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["kept.txt"]


def test_a_backbone_without_a_class_of_transformers_is_refused(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = dataclasses.replace(BACKBONES["clip"], to_transformers=None)
    monkeypatch.setitem(BACKBONES, "clip", entry)
    assert main([str(runs["tall"]), str(tmp_path / "out"), "--format", "huggingface"]) == 2
    assert "--format huggingface: transformers has no class for CLIP" in capsys.readouterr().err


@pytest.mark.parametrize("format_name", FORMATS)
def test_a_head_that_embeds_is_exported_or_named(
    format_name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(OBJECTIVES, "tal", Largest)
    settings = CLIP | SQUARE | {"experiment.tal": "true"}
    run = save_run(tmp_path / "run.pth", "config/s.config.yaml", **settings)
    assert main([str(run), str(tmp_path / "out"), "--format", format_name]) == 0
    written = capsys.readouterr().out
    assert "largest difference" in written
    assert ("this format cannot contain largest" in written) == (format_name in TOWERS_ALONE)
    if format_name == "safetensors":
        exported = load_source(tmp_path / "out" / "model.safetensors", None, ()).model
        assert exported.largest.weight.equal(load_source(run, None, ()).model.largest.weight)


def test_overwriting_replaces_what_it_writes_and_leaves_the_rest(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "kept.txt").write_text("kept")
    (tmp_path / "model.safetensors").write_text("old")
    assert main([str(runs["tall"]), str(tmp_path), "--format", "safetensors", "--overwrite"]) == 0
    expected = {"kept.txt", "model.safetensors", "options.yaml", "README.md"}
    assert {path.name for path in tmp_path.iterdir()} == expected
    assert load_clip_weights(tmp_path / "model.safetensors").grid == (8, 2)


def test_the_command_line_helps_without_loading_torch() -> None:
    code = (
        "import sys\n"
        "from misc.export.__main__ import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert not {'torch', 'transformers', 'onnx'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in (*FORMATS, "--config", "--overwrite", "key.path=value"))
