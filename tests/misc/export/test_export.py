"""Exported models in the hands of the libraries they are for: each gives the features of ours."""

import builtins
import contextlib
import importlib.util
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import safetensors
import torch
import transformers
from onnxruntime import InferenceSession
from torch import Tensor
from torch.nn import functional as F

from main import main as run_main
from misc.export import onnx_graphs
from misc.export.__main__ import FORMATS, main
from misc.tiny_altclip import synthetic_captions
from model import build_model
from model.clip import build_clip
from model.weights.pretrained import load_clip_weights
from options import Options, load_options, to_dict
from tests.helpers.altclip_folders import cache_root
from tests.helpers.openai_format import openai_state_dict, save_torchscript
from text_utils.captions import clean_caption
from text_utils.tokenizer import CLIPTokenizer

TEXT_LENGTH = 20
# Heads of another width than OpenAI's 64, so that they must be told.
CLIP = {
    "model.clip_pretrained": "null",
    "model.patch_size": 16,
    "model.image_width": 128,
    "model.image_layers": 2,
    "model.image_heads": 4,
    "model.text_width": 64,
    "model.text_layers": 2,
    "model.text_heads": 2,
    "model.embed_dim": 24,
    "experiment.text_length": TEXT_LENGTH,
    "experiment.dropout": 0.3,
}
SQUARE = {"data.image_size": [64, 64], "data.normalization": "clip", "experiment.sigmoid": "true"}
TALL = {"data.image_size": [128, 32]}  # 16 patches, which could be taken for a square of 4 x 4
CAPTIONS = ["A man.", "A “tall” woman (in red); it's Jekyll &amp; ﬁne.", "a long red coat, " * 30]
SEEDS = iter(range(1000))


def save_run(path: Path, config: str, **settings: Any) -> Path:
    """A checkpoint of a run at random: the model with its heads, and the options."""
    options = load_options(config, [f"{key}={value}" for key, value in settings.items()])
    torch.manual_seed(next(SEEDS))
    model, _, _ = build_model(options, num_identities=3)
    for parameter in model.clip.parameters():  # no two alike, no biases of 0
        parameter.data += 0.05 * torch.randn_like(parameter)
    torch.save({"model": model.state_dict(), "options": to_dict(options)}, path)
    return path


@pytest.fixture(scope="module")
def runs(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The checkpoints of this file."""
    place = tmp_path_factory.mktemp("runs")
    altclip = {"model.altclip_pretrained": folder, "experiment.text_length": TEXT_LENGTH}
    return {
        "square": save_run(place / "square.pth", "config/config.yaml", **CLIP, **SQUARE),
        "tall": save_run(place / "tall.pth", "config/s.config.yaml", **CLIP, **TALL),
        "altclip": save_run(
            place / "altclip.pth", "config/altclip.yaml", **altclip, **{"data.image_size": [48, 48]}
        ),
        "altclip cropped": save_run(
            place / "cropped.pth",
            "config/altclip.yaml",
            **altclip,
            **{"experiment.use_altclip_processor": "true"},
        ),
    }


@pytest.fixture(scope="module")
def exported(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """exported(run, format): the folder, made once."""
    place, made = tmp_path_factory.mktemp("exported"), set()

    def export(run: str, format_name: str) -> Path:
        target = place / f"{run} as {format_name}"
        if target not in made:
            assert main([str(runs[run]), str(target), "--format", format_name]) == 0
            made.add(target)
        return target

    return export


def saved_options(path: Path, folder: Path) -> Options:
    file = folder / "saved.yaml"
    file.write_text(json.dumps(torch.load(path, weights_only=True)["options"]))
    return load_options(file)


def ours(path: Path, folder: Path) -> tuple[Any, Any, Any]:
    """(clip, tokenizer, processor) of a checkpoint."""
    model, tokenizer, processor = build_model(saved_options(path, folder), 0, weights=str(path))
    return model.clip.eval().requires_grad_(False), tokenizer, processor


def pixels(rows: int, height: int, width: int) -> Tensor:
    return torch.randn(rows, 3, height, width, generator=torch.Generator().manual_seed(1))


def drawn_images(count: int) -> list[Any]:
    from data.synthetic.render import render_people

    return [image for _, image in render_people(count)]


def close(a: Tensor, b: Tensor, tolerance: float = 1e-4) -> bool:
    assert a.shape == b.shape
    assert b.abs().max() > 0.1, "features next to nothing show nothing"
    assert (b[0] - b[-1]).abs().max() > 0.01 or len(b) == 1, "features all alike show nothing"
    return (a - b).abs().max().item() <= tolerance


def features_by_readme(folder: Path, captions: list[str], images: list[Any]) -> tuple[Tensor, Tensor]:
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


def clip_captions(format_name: str) -> list[str]:
    """open_clip spells the one word in one token whose id is our mask's."""
    return [c.replace("Jekyll", "he") if format_name == "openai" else c for c in CAPTIONS]


README_CASES = [
    *(("square", name) for name in ("huggingface", "openai", "onnx")),
    *(("tall", name) for name in ("openai", "onnx")),
    *(("altclip", name) for name in ("huggingface", "onnx")),
    *(("altclip cropped", name) for name in ("huggingface", "onnx")),
]


@pytest.mark.parametrize(("run", "format_name"), README_CASES)
def test_the_code_of_the_readme_gives_our_features(
    run: str, format_name: str, exported: Any, runs: dict[str, Path], tmp_path: Path
) -> None:
    captions = (
        clip_captions(format_name) if "altclip" not in run else ["A man.", "ein Mann", "红色上衣的女生"]
    )
    images = drawn_images(2)
    texts, pictures = features_by_readme(exported(run, format_name), captions, images)
    clip, tokenizer, processor = ours(runs[run], tmp_path)
    tokens = tokenizer([clean_caption(caption) for caption in captions])
    assert close(texts, F.normalize(clip.encode_text(tokens)))
    assert close(pictures, F.normalize(clip.encode_image(processor(images=images)["pixel_values"])))


def whole_with_our_features(kind: Any, place: Path, clip: Any, tokenizer: Any, side: int) -> Any:
    """Their model of an export: every tensor found and used, the features ours."""
    theirs, info = kind.from_pretrained(place, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    theirs.eval()
    images, tokens = pixels(3, side, side), tokenizer(CAPTIONS)
    with torch.no_grad():
        output = theirs(pixel_values=images, **tokens)
    assert close(output.image_embeds, F.normalize(clip.encode_image(images)))
    assert close(output.text_embeds, F.normalize(clip.encode_text(tokens)))
    return theirs


def test_transformers_loads_every_tensor_and_gives_our_features(
    exported: Any, runs: dict[str, Path], tmp_path: Path
) -> None:
    place = exported("square", "huggingface")
    clip, tokenizer, _ = ours(runs["square"], tmp_path)
    theirs = whole_with_our_features(transformers.CLIPModel, place, clip, tokenizer, side=64)
    assert theirs.logit_scale.item() == pytest.approx(clip.logit_scale.item())
    assert "-9." in (place / "README.md").read_text(), "the bias, which has no place, is told"


def test_its_tokenizer_gives_our_ids(exported: Any) -> None:
    place, own = exported("square", "huggingface"), CLIPTokenizer(TEXT_LENGTH)
    captions = [clean_caption(c) for c in synthetic_captions(60) if c.isascii()]
    captions += ["jekyll and hyde", "", "!", "x" * 200, "it's 3 o'clock", "ein grüner mantel"]
    assert len(captions) > 100
    processor = transformers.CLIPProcessor.from_pretrained(place)
    for tokenizer in (transformers.AutoTokenizer.from_pretrained(place), processor.tokenizer):
        ids = tokenizer(captions, truncation=True)["input_ids"]
        assert ids == [own.encode(caption) for caption in captions]


def test_altclip_loads_into_transformers_at_another_image_size(
    exported: Any, runs: dict[str, Path], tmp_path: Path
) -> None:
    place = exported("altclip", "huggingface")
    clip, tokenizer, _ = ours(runs["altclip"], tmp_path)
    whole_with_our_features(transformers.AltCLIPModel, place, clip, tokenizer, side=48)
    names = safetensors.safe_open(place / "model.safetensors", "pt").keys()
    assert {name.split(".")[2] for name in names if name.startswith("vision_model.encoder.")} == {"layers"}
    assert any(name.startswith("text_model.roberta.encoder.layer.0.") for name in names), "as the hub's are"


@pytest.mark.parametrize(("run", "height", "width"), [("square", 64, 64), ("tall", 128, 32)])
def test_open_clip_gives_our_features(
    run: str, height: int, width: int, exported: Any, runs: dict[str, Path], tmp_path: Path
) -> None:
    place = exported(run, "openai")
    theirs = open_clip.create_model(f"local-dir:{place}").eval().requires_grad_(False)
    clip, _, _ = ours(runs[run], tmp_path)
    images = pixels(3, height, width)
    captions = [clean_caption(caption) for caption in clip_captions("openai")]
    ids = open_clip.get_tokenizer(f"local-dir:{place}")(captions)
    tokens = CLIPTokenizer(TEXT_LENGTH)(captions)
    assert ids[:, : tokens["input_ids"].shape[1]].equal(tokens["input_ids"])
    assert close(theirs.encode_image(images), clip.encode_image(images))
    assert close(theirs.encode_text(ids), clip.encode_text(tokens))
    state = torch.load(place / "open_clip_pytorch_model.bin", weights_only=True)
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    assert state.keys() == openai_state_dict().keys() - {"input_resolution", "context_length", "vocab_size"}


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
    clip, _, _ = ours(run, tmp_path)
    assert close(theirs.encode_image(pixels(2, 224, 224)), clip.encode_image(pixels(2, 224, 224)))


@pytest.mark.parametrize("run", ["square", "tall"])
def test_safetensors_hold_what_no_tensor_tells(
    run: str, exported: Any, runs: dict[str, Path], tmp_path: Path
) -> None:
    place = exported(run, "safetensors")
    weights = load_clip_weights(place / "model.safetensors")
    assert (weights.shape.image_heads, weights.shape.text_heads) == (4, 2)
    assert weights.grid == {"square": (4, 4), "tall": (8, 2)}[run]
    clip, _, _ = ours(runs[run], tmp_path)
    assert all(tensor.equal(weights.tensors[name]) for name, tensor in clip.state_dict().items())
    assert load_options(place / "options.yaml") == saved_options(runs[run], tmp_path)


def test_safetensors_evaluate_as_the_checkpoint_does(
    exported: Any, runs: dict[str, Path], people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, figures = exported("tall", "safetensors"), []
    data = [f"data.annotation_file={people}", f"data.image_root={people}/imgs", "data.num_workers=0"]
    for file in (runs["tall"], place / "model.safetensors"):
        out = tmp_path / file.name
        arguments = [
            "--config",
            str(place / "options.yaml"),
            "--evaluate",
            str(file),
            "misc.device=cpu",
            *data,
        ]
        assert run_main([*arguments, "--output-dir", str(out)]) == 0
        figures.append(json.loads((out / "results.json").read_text())["languages"])
    assert figures[0] == figures[1]
    capsys.readouterr()
    assert run_main([*arguments, "data.normalization=clip"]) == 2
    assert "data.normalization" in capsys.readouterr().err


@pytest.mark.parametrize(("run", "height", "width"), [("tall", 128, 32), ("altclip", 48, 48)])
def test_onnx_graphs_take_batches_and_captions_of_any_length(
    run: str, height: int, width: int, exported: Any, runs: dict[str, Path], tmp_path: Path
) -> None:
    place = exported(run, "onnx")
    graphs = {name: InferenceSession(place / f"{name}.onnx") for name in ("image", "text")}
    clip, tokenizer, _ = ours(runs[run], tmp_path)
    for rows in (1, 3, 5):
        images = pixels(rows, height, width)
        (features,) = graphs["image"].run(["features"], {"pixel_values": images.numpy()})
        assert close(torch.from_numpy(features), clip.encode_image(images), 1e-3)
        for captions in (["a"], ["a", "a man", "a man in a red coat"], CAPTIONS):
            tokens = tokenizer(captions)
            (features,) = graphs["text"].run(["features"], {name: t.numpy() for name, t in tokens.items()})
            assert close(torch.from_numpy(features), clip.encode_text(tokens), 1e-3)
    description = json.loads((place / "export.json").read_text())
    for name, graph in graphs.items():
        assert set(description[name]["inputs"]) == {value.name for value in graph.get_inputs()}
    assert (description["image"]["height"], description["image"]["width"]) == (height, width)
    assert description["text"]["max_length"] == TEXT_LENGTH
    assert description["logit_scale"] == pytest.approx(np.exp(clip.logit_scale.item()))


def test_a_graph_that_differs_is_not_written(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def forward(self: Any, pixel_values: Tensor) -> Tensor:
        return self.clip.encode_image(pixel_values) + 0.002

    monkeypatch.setattr(onnx_graphs.ImageGraph, "forward", forward)
    assert main([str(runs["tall"]), str(tmp_path / "out"), "--format", "onnx"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "onnxruntime" in line
    assert "2.0e-03" in line
    assert not list((tmp_path / "out").iterdir())


def test_a_missing_package_is_named_before_anything_is_done(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnx" else find(name))
    assert main([str(runs["tall"]), str(tmp_path / "out"), "--format", "onnx"]) == 2
    captured = capsys.readouterr()
    assert captured.err == "error: --format onnx: onnx not installed; pip install onnx\n"
    assert "features" not in captured.out


def test_without_open_clip_the_export_says_that_it_was_not_compared(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find, load = importlib.util.find_spec, builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        assert name != "open_clip"
        return load(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "open_clip" else find(name))
    monkeypatch.setattr(builtins, "__import__", refuse)
    assert main([str(runs["tall"]), str(tmp_path / "out"), "--format", "openai"]) == 0
    assert "open_clip is not installed" in capsys.readouterr().out


def test_weights_of_others_are_exported_by_the_options_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = save_torchscript(openai_state_dict(half=True), tmp_path / "ViT.pt")
    options = ["--config", "config/s.config.yaml", "data.image_size=[64, 64]", "data.normalization=clip"]
    assert main([str(archive), str(tmp_path / "out"), "--format", "huggingface", *options]) == 0
    assert "largest difference from ours" in capsys.readouterr().out
    theirs = transformers.CLIPModel.from_pretrained(tmp_path / "out").eval()
    clip, tokenizer, _ = build_clip(archive, image_size=(64, 64))
    with torch.no_grad():
        output = theirs(pixel_values=pixels(2, 64, 64), **tokenizer(CAPTIONS))
        assert close(output.image_embeds, F.normalize(clip.encode_image(pixels(2, 64, 64))))
        assert close(output.text_embeds, F.normalize(clip.eval().encode_text(tokenizer(CAPTIONS))))


def test_what_the_run_named_may_lie_elsewhere_now(
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


def test_an_altclip_of_the_hub_is_taken_from_its_cache(
    runs: dict[str, Path], folder: Path, tmp_path: Path
) -> None:
    cache = [
        f"model.tokenizer_cache_dir={cache_root(folder, tmp_path)}",
        "model.altclip_pretrained=BAAI/AltCLIP",
    ]
    assert main([str(runs["altclip"]), str(tmp_path / "out"), "--format", "huggingface", *cache]) == 0
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()


MISTAKES = {
    "no file": (["none.pth", "OUT"], ["CHECKPOINT", "none.pth", "does not exist"]),
    "no checkpoint": (["README.md", "OUT"], ["CHECKPOINT", "README.md", "--config"]),
    "no weights": (["README.md", "OUT", "--config", "config/s.config.yaml"], ["README.md"]),
    "another size": (
        ["TALL", "OUT", "--config", "config/s.config.yaml"],
        ["data.image_size", "[128, 32]", "[224, 224]"],
    ),
    "a folder that holds files": (["TALL", "FULL"], ["DIR", "holds files", "--overwrite"]),
    "a file": (["TALL", "FULL/kept.txt"], ["DIR", "kept.txt"]),
    "an unknown key": (["TALL", "OUT", "model.image_with=3"], ["model.image_with", "model.image_width?"]),
    "an unknown format": (["TALL", "OUT", "--format", "tflite"], ["--format", "tflite", "onnx"]),
    "no square": (["TALL", "OUT", "--format", "huggingface"], ["data.image_size", "128, 32", "onnx"]),
    "no CLIP": (["ALTCLIP", "OUT", "--format", "openai"], ["--format", "AltCLIP", "huggingface"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_status_two(
    mistake: str, runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, said = MISTAKES[mistake]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "kept.txt").write_text("kept")
    places = {"TALL": runs["tall"], "ALTCLIP": runs["altclip"]}
    places |= {
        "OUT": tmp_path / "out",
        "FULL": tmp_path / "full",
        "FULL/kept.txt": tmp_path / "full/kept.txt",
    }
    given = [str(places.get(word, word)) for word in arguments]
    assert main([*given, *([] if "--format" in given else ["--format", "safetensors"])]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    for words in said:
        assert words in line
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["kept.txt"]


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
