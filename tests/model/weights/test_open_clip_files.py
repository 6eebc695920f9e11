"""Names, tags, folders and files of open_clip: what is loaded, what is told, what is refused."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor, nn

from misc.export.onnx_graphs import export_onnx
from misc.export.source import Source
from misc.export.states import export_openai, export_safetensors
from model import build_model
from model.open_clip_adapter import build_open_clip, to_openai
from model.weights.open_clip_files import find_source
from options import UserError, load_options
from tests.helpers.altclip_folders import cache_root, copied

Folder = Callable[[str], Path]
WEIGHTS = "open_clip_pytorch_model.bin"
HALF = (0.5, 0.5, 0.5)


@pytest.fixture
def named(open_clip_folder: Folder, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a small model that open_clip knows as "tiny", whose tag "tag" is org/tiny of the hub."""
    import open_clip.factory
    import open_clip.pretrained

    folder = open_clip_folder("plain")
    config = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", config)
    tag = {"hf_hub": "org/tiny/", "mean": HALF, "std": HALF, "interpolation": "bilinear"}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny", {"tag": tag})
    return folder


@torch.no_grad()
def features(clip: nn.Module) -> Tensor:
    height, width = clip.visual.image_size
    return clip.eval().encode_image(torch.linspace(-1, 1, 3 * height * width).view(1, 3, height, width))


def test_a_file_safetensors_and_a_folder_hold_the_same_model_and_every_tensor_is_named(
    named: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tensors = torch.load(named / WEIGHTS)
    safetensors.torch.save_file(tensors, tmp_path / "open_clip_model.safetensors")
    torch.save({"state_dict": {f"module.{name}": t for name, t in tensors.items()}}, tmp_path / "epoch.pt")
    # as open_clip names them where the text tower does not stand by itself
    torch.save({name.removeprefix("text."): t for name, t in tensors.items()}, tmp_path / "openai.pt")
    with caplog.at_level("INFO"):
        expected = features(build_open_clip(pretrained=named)[0])
    assert f"all {len(tensors) - 1} tensors used, none initialised" in caplog.text  # the scale besides
    for source in (named / WEIGHTS, tmp_path / "epoch.pt", tmp_path / "openai.pt", tmp_path):
        clip = build_open_clip("tiny", source)[0]
        assert torch.equal(features(clip), expected)
        assert clip.logit_scale.item() == pytest.approx(tensors["logit_scale"].item())
    assert torch.equal(features(build_open_clip(pretrained=named / WEIGHTS)[0]), expected)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda tensors: tensors.pop("visual.conv1.weight"), "lacks 'visual.conv1.weight'"),
        (lambda tensors: tensors.pop("logit_scale"), "lacks 'logit_scale'"),
        (lambda tensors: tensors.update({"visual.more": torch.ones(1)}), "has 'visual.more'"),
        (lambda tensors: tensors.update({"text.ln_final.bias": torch.ones(7)}), "of shape"),
    ],
)
def test_weights_that_do_not_fill_the_model_are_refused(
    named: Path, tmp_path: Path, change: Callable[[dict[str, Tensor]], object], problem: str
) -> None:
    tensors = torch.load(named / WEIGHTS)
    change(tensors)
    torch.save(tensors, tmp_path / "weights.pt")
    with pytest.raises(UserError, match=problem):
        build_open_clip("tiny", tmp_path / "weights.pt")


@pytest.mark.parametrize("kind", ["plain", "attention pooling", "rotary"])
def test_a_checkpoint_of_another_size_is_read_at_its_own(
    open_clip_folder: Folder, tmp_path: Path, kind: str
) -> None:
    folder, size = open_clip_folder(kind), [112, 56] if kind == "rotary" else [96, 32]
    clip = build_open_clip(pretrained=folder, image_size=size, logit_bias=True)[0]
    state = {f"clip.{name}": tensor for name, tensor in clip.state_dict().items()}
    path = tmp_path / "checkpoint.pth"
    torch.save({"model": state, "options": {"data": {"image_size": size}}}, path)
    again = build_open_clip(pretrained=folder, image_size=size, checkpoint=path, logit_bias=True)[0]
    assert all(torch.equal(tensor, clip.state_dict()[name]) for name, tensor in again.state_dict().items())
    native = build_open_clip(pretrained=folder, checkpoint=path)[0]
    assert features(native).isfinite().all()


@pytest.mark.parametrize(
    ("kind", "size"), [("plain", (96, 32)), ("hub", (96, 32)), ("class token", (160, 160))]
)
def test_open_clip_loads_what_is_exported(
    open_clip_folder: Folder, tmp_path: Path, kind: str, size: tuple[int, int]
) -> None:
    import open_clip

    clip = build_open_clip(pretrained=open_clip_folder(kind), image_size=size, logit_bias=True)[0]
    state, config = to_openai(clip)
    torch.save(state, tmp_path / WEIGHTS)
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    model = open_clip.create_model(f"local-dir:{tmp_path}")
    assert model.logit_bias.item() == clip.logit_bias.item() == -10
    pixels = torch.linspace(-1, 1, 3 * size[0] * size[1]).view(1, 3, *size)
    theirs = model.eval().encode_image(pixels).detach()
    torch.testing.assert_close(theirs, features(clip), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["plain", pytest.param("attention pooling", marks=pytest.mark.slow)])
def test_every_format_is_exported_with_the_same_features(
    open_clip_folder: Folder, tmp_path: Path, kind: str
) -> None:
    settings = {"backbone": "open_clip", "open_clip_pretrained": str(open_clip_folder(kind))}
    options = load_options({"model": settings, "data": {"image_size": [96, 32]}})
    model, tokenizer, processor = build_model(options, num_identities=0)
    images = [Image.new("RGB", (20, 60), color) for color in ("red", "green", "blue")]
    captions = ["a man", "a woman in a red coat", "a man " * 20]
    model.eval().requires_grad_(False)
    source = Source(options, model, tokenizer, processor, images, captions)
    for write in (export_openai, export_safetensors, export_onnx):  # each compares, and raises
        folder = tmp_path / write.__name__
        folder.mkdir()
        write(source, folder)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ViT-B-16-SigLIP2", (HALF, "bicubic", "webli")),
        ("PE-Core-B-16", (HALF, "bilinear", "meta")),
        ("MobileCLIP2-S0", ((0, 0, 0), "bilinear", "dfndr2b")),
        ("EVA02-B-16", (None, "bicubic", "merged2b")),
        ("convnext_tiny", (None, None, "open_clip's default")),
    ],
)
def test_statistics_are_those_of_the_published_weights(name: str, expected: tuple[Any, ...]) -> None:
    from open_clip.constants import OPENAI_DATASET_MEAN

    source = find_source(name, None, None)
    mean, interpolation, told_by = expected
    assert source.preparation.get("mean", OPENAI_DATASET_MEAN) == (mean or OPENAI_DATASET_MEAN)
    assert source.preparation.get("interpolation") == interpolation
    assert told_by in source.told_by


def test_statistics_of_a_folder_are_its_own_and_a_given_one_wins(
    named: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = copied(named, tmp_path / "folder")
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["preprocess_cfg"] = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "interpolation": "bilinear"}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with caplog.at_level("INFO"):
        processor = build_open_clip(pretrained=folder)[2]
    assert (processor.image_mean, processor.image_std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert processor.interpolation == "bilinear"
    assert "open_clip_config.json" in caplog.text
    given = build_open_clip(pretrained=folder, normalization="none", interpolation="bicubic")[2]
    assert (given.image_mean, given.interpolation) == ((0.0, 0.0, 0.0), "bicubic")


def test_a_tag_is_read_from_the_hubs_cache_and_without_it_ends_in_one_line_soon(
    named: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"pytorch_model\.bin of 'org/tiny' .*download org/tiny") as error:
        build_open_clip("tiny", "tag", tmp_path / "empty")
    assert "\n" not in str(error.value)
    cache = cache_root(named, tmp_path / "cache", "models--org--tiny")
    clip, _, processor = build_open_clip("tiny", "tag", cache)
    assert torch.equal(features(clip), features(build_open_clip(pretrained=named)[0]))
    assert (processor.image_mean, processor.interpolation) == (HALF, "bilinear")


def test_gelu_and_quick_gelu_are_told_apart_by_the_configuration(
    named: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = copied(named, tmp_path / "quick")
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["quick_gelu"] = True
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with caplog.at_level("INFO"):
        quick = features(build_open_clip(pretrained=folder)[0])
        assert "QuickGELU, by its configuration" in caplog.text
    assert not torch.allclose(quick, features(build_open_clip(pretrained=named)[0]), atol=1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "ViT-B-16-SigLIP3"}, "'ViT-B-16-SigLIP3' is no name of open_clip.*ViT-B-16-SigLIP2"),
        ({"name": "coca_ViT-B-32"}, "CoCa"),
        ({"name": "RN50"}, "square images alone"),
        ({"name": "ViT-L-14-CLIPA"}, "strip_sep_token, which is not supported"),
        ({"name": "ViT-B-16", "pretrained": "openai"}, "trained with QuickGELU: use ViT-B-16-quickgelu"),
        ({"name": "ViT-B-16", "pretrained": "webli"}, "no file, no folder and no tag.*laion2b_s34b_b88k"),
        (
            {"name": "ViT-B-16-SigLIP2"},
            "tokenizer.json or .* of 'timm/ViT-B-16-SigLIP2' is not in.*huggingface-cli",
        ),
        ({"name": "xlm-roberta-base-ViT-B-32"}, "huggingface-cli download"),
        ({"name": "PE-Core-T-16-384", "text_length": 33}, "text_length: expected at most 32.*found 33"),
        ({"name": "tiny", "image_size": (100, 64)}, "multiples of the patch size 16, found 100, 64"),
        ({}, "open_clip_name: null is for a folder.*, found model.open_clip_pretrained=null;"),
    ],
)
def test_what_cannot_be_used_ends_in_one_line(named: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        build_open_clip(**settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("library", ["open_clip", "timm"])
def test_without_the_library_there_is_one_line(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UserError, match="pip install open_clip_torch timm"):
        build_open_clip("ViT-B-16")


def test_a_checkpoint_whose_first_weights_are_gone_is_built_by_name(
    named: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, gone = tmp_path / "checkpoint.pth", tmp_path / "gone"
    clip = build_open_clip("tiny", named)[0]
    torch.save({"model": {f"clip.{name}": tensor for name, tensor in clip.state_dict().items()}}, path)
    caplog.clear()
    assert torch.equal(features(build_open_clip("tiny", gone, checkpoint=path)[0]), features(clip))
    assert f"'{gone}' does not exist; configuration and preparation are of 'tiny'" in caplog.text
    with pytest.raises(UserError, match=r"does not exist; its open_clip_config\.json tells what to build"):
        build_open_clip(None, gone, checkpoint=path)


def test_a_text_tower_of_32_positions_cuts_captions_there(open_clip_folder: Folder) -> None:
    _, tokenizer, _ = build_open_clip(pretrained=open_clip_folder("plain"))
    assert tokenizer.text_length == 16
    assert tokenizer(["word " * 40])["input_ids"].shape == (1, 16)
