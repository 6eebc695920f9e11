"""Where AltCLIP's weights may lie, and what is refused in one line."""

import json
import logging
import os
import re
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor

from main import main
from model.altclip_adapter import build_altclip_clip
from model.weights.altclip_files import altclip_model
from options import UserError
from tests.helpers.altclip_folders import (
    COMMIT,
    IMAGE_SIZE,
    TEXT_LENGTH,
    WEIGHTS,
    cache_root,
    copied,
    with_tensors,
    write_altclip,
)
from tests.helpers.malicious import Creates

PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
TOKENIZER_FILES = ("tokenizer*", "sentencepiece*", "special_tokens*")


def scaled(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**tensors, "logit_scale": torch.tensor(1.5)}


def loads(pretrained: Path | str, cache_dir: Path | None = None) -> float:
    """Loads all three parts; returns what tells one model from another."""
    clip, tokenizer, processor = build_altclip_clip(pretrained, cache_dir)
    assert tokenizer(["a man"])["input_ids"].shape[1] > 2
    assert processor.image_size == (IMAGE_SIZE, IMAGE_SIZE)
    return clip.logit_scale.item()


# Places


def test_a_model_folder_loads(folder: Path, tmp_path: Path) -> None:
    assert loads(folder) == pytest.approx(2.6592)
    assert loads(with_tensors(folder, tmp_path / "other", scaled)) == 1.5


def test_a_relative_path_and_a_home_are_folders_too(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_tensors(folder, tmp_path / "weights" / "altclip", scaled)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert loads("weights/altclip") == 1.5  # though it looks like a hub id
    assert loads("~/weights/altclip") == 1.5


def test_a_cache_root_loads_its_current_snapshot(folder: Path, tmp_path: Path) -> None:
    root = cache_root(with_tensors(folder, tmp_path / "other", scaled), tmp_path / "cache")
    assert loads(root) == 1.5
    cache_root(folder, root, commit="4567def")
    assert loads(root) == pytest.approx(2.6592)
    (root / "models--BAAI--AltCLIP" / "refs" / "main").write_text("0123abc\n")
    assert loads(root) == 1.5


def test_a_cache_root_without_refs_loads_its_newest_snapshot(folder: Path, tmp_path: Path) -> None:
    root = cache_root(folder, tmp_path / "cache", commit="1")
    cache_root(with_tensors(folder, tmp_path / "other", scaled), root, commit="0")
    model = root / "models--BAAI--AltCLIP"
    (model / "refs" / "main").unlink()
    os.utime(model / "snapshots" / "1", (1, 1))
    assert loads(root) == 1.5


def test_other_models_in_a_cache_root_are_passed_over_but_not_a_second_altclip(
    folder: Path, tmp_path: Path
) -> None:
    root = cache_root(folder, tmp_path / "cache")
    cache_root(plain_clip(tmp_path / "clip"), root, "models--openai--clip")
    assert loads(root) == pytest.approx(2.6592)
    cache_root(folder, root, "models--BAAI--AltCLIP-m9")
    with pytest.raises(UserError, match=r"several models.*AltCLIP, .*AltCLIP-m9"):
        _ = altclip_model(root).folder


def test_a_hub_id_is_found_in_its_cache_offline_with_safetensors_or_pytorch_model_bin(
    folder: Path, tmp_path: Path
) -> None:
    root = cache_root(with_tensors(folder, tmp_path / "other", scaled), tmp_path / "cache")
    assert loads("BAAI/AltCLIP", root) == 1.5
    weights = root / "models--BAAI--AltCLIP" / "snapshots" / COMMIT / WEIGHTS
    torch.save(safetensors.torch.load_file(weights), weights.with_name("pytorch_model.bin"))
    weights.unlink()
    assert loads("BAAI/AltCLIP", root) == loads(weights.parent) == 1.5


def test_a_malicious_pytorch_model_bin_is_refused_and_runs_nothing(folder: Path, tmp_path: Path) -> None:
    """Not left to transformers, whose older versions run it."""
    old, planted = copied(folder, tmp_path / "old", (WEIGHTS,)), tmp_path / "planted"
    tensors = safetensors.torch.load_file(folder / WEIGHTS)
    torch.save({**tensors, "evil": Creates(planted)}, old / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"model.altclip_pretrained: .* it asks for '\S+', which"):
        build_altclip_clip(old)
    assert not planted.exists()


@pytest.mark.parametrize("name", ["layer", "layers"])
def test_the_image_towers_blocks_load_under_either_of_their_names(
    folder: Path, tmp_path: Path, name: str
) -> None:
    """transformers 5 saves `layer`; the hub's files and transformers 4 have `layers`."""
    if name == "layer" and int(version("transformers").split(".")[0]) < 5:
        pytest.skip("transformers 4 never wrote it, and does not read it")
    block = re.compile(r"(?<=vision_model\.encoder\.)layers?(?=\.)")
    there = with_tensors(
        folder, tmp_path / "model", lambda t: {block.sub(name, key): value for key, value in t.items()}
    )
    images = torch.randn(2, 3, IMAGE_SIZE, IMAGE_SIZE)
    with torch.no_grad():
        expected, found = (
            build_altclip_clip(path)[0].eval().encode_image(images) for path in (folder, there)
        )
    assert torch.equal(found, expected)


def test_counted_buffers_of_older_files_are_no_surprise(folder: Path, tmp_path: Path) -> None:
    buffers = {
        "vision_model.embeddings.position_ids": torch.arange(17)[None],
        "text_model.roberta.embeddings.position_ids": torch.arange(TEXT_LENGTH + 2)[None],
    }
    assert loads(with_tensors(folder, tmp_path / "old", lambda tensors: scaled(tensors) | buffers)) == 1.5


def test_a_folder_without_processor_files_gets_the_default_preprocessing_which_is_logged(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bare = copied(folder, tmp_path / "bare", PROCESSOR_FILES)
    with caplog.at_level(logging.WARNING):
        own = build_altclip_clip(folder)[2]
        assert [record for record in caplog.records if "processor" in record.getMessage()] == []
        standard = build_altclip_clip(bare)[2]
    (warning,) = [r.getMessage() for r in caplog.records if "processor" in r.getMessage()]
    assert str(bare) in warning
    assert "default preprocessing" in warning
    noise = np.random.default_rng(0).integers(90, 166, (11, 5, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((40, 90), Image.Resampling.BICUBIC)
    pixels = standard(images=[image], return_tensors="pt")["pixel_values"]
    assert torch.equal(pixels, own(images=[image], return_tensors="pt")["pixel_values"])
    resized = image.resize((32, 72), Image.Resampling.BICUBIC).crop((0, 20, 32, 52))
    plain = torch.from_numpy(np.array(resized)).permute(2, 0, 1) / 255
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    expected = (plain - mean) / std
    torch.testing.assert_close(pixels[0], expected, atol=1.01 / 255 / 0.26, rtol=0)


# Refusals, through the command line


def plain_clip(folder: Path) -> Path:
    """A CLIP of transformers, as its hub folders are."""
    from transformers import CLIPConfig, CLIPModel

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**sizes, "image_size": 32, "patch_size": 16}
    config = CLIPConfig(text_config={**sizes, "vocab_size": 99}, vision_config=vision, projection_dim=16)
    CLIPModel(config).save_pretrained(folder)
    return folder


def without(name: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {key: value for key, value in tensors.items() if key != name}


def empty(folder: Path, tmp_path: Path) -> Path:
    (tmp_path / "empty").mkdir()
    return tmp_path / "empty"


def rewritten(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path, Path], Path]:
    """A copy of the model folder with one file changed."""

    def plant(folder: Path, tmp_path: Path) -> Path:
        to = copied(folder, tmp_path / "changed")
        (to / name).write_bytes(change((folder / name).read_bytes()))
        return to

    return plant


def deeper(content: bytes) -> bytes:
    """The config of one block more than the weights have."""
    config = json.loads(content)
    config["text_config"]["num_hidden_layers"] = 3
    return json.dumps(config).encode()


def wider(folder: Path, tmp_path: Path) -> Path:
    """The config of one model, the weights of another."""
    write_altclip(tmp_path / "wide", width=48)
    return rewritten(WEIGHTS, lambda _: (tmp_path / "wide" / WEIGHTS).read_bytes())(folder, tmp_path)


REFUSED = {
    "a file": (lambda model, _: model / WEIGHTS, ["is a file"]),
    "a missing path": (lambda _, tmp: tmp / "no" / "such", ["does not exist", "huggingface-cli download"]),
    "a missing name": (lambda *_: "AltCLIP", ["does not exist", "huggingface-cli download"]),
    "a hub id offline": (lambda *_: "BAAI/AltCLIP", ["huggingface-cli download BAAI/AltCLIP"]),
    "another hub id offline": (lambda *_: "BAAI/AltCLIP-m9", ["huggingface-cli download BAAI/AltCLIP-m9"]),
    "a missing folder that looks like a hub id": (lambda *_: "weights/altclip", ["is not a folder"]),
    "an empty folder": (empty, ["config.json", "snapshots"]),
    "a broken config": (rewritten("config.json", lambda _: b"{"), ["config.json"]),
    "a plain CLIP": (lambda _, tmp: plain_clip(tmp / "clip"), ["type 'clip'", "an AltCLIP is expected"]),
    "no weights": (lambda model, tmp: copied(model, tmp / "bare", (WEIGHTS,)), ["no weights"]),
    "damaged weights": (
        rewritten(WEIGHTS, lambda content: content[:5000]),
        ["no weights that can be read", "is damaged"],
    ),
    "a tensor too few": (
        lambda model, tmp: with_tensors(model, tmp / "few", without("text_projection.weight")),
        ["1 tensors missing", "text_projection.weight"],
    ),
    "a tensor too many": (
        lambda model, tmp: with_tensors(model, tmp / "many", lambda t: t | {"extra.weight": torch.ones(1)}),
        ["1 tensors unexpected", "extra.weight"],
    ),
    "a block too few": (
        rewritten("config.json", deeper),
        ["tensors missing", "text_model.roberta.encoder.layer", ".2."],
    ),
    "other sizes": (wider, []),
    "no tokenizer": (lambda model, tmp: copied(model, tmp / "mute", TOKENIZER_FILES), ["no tokenizer"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_altclip_is_refused_in_one_line(
    case: str,
    folder: Path,
    config: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plant, expected = REFUSED[case]
    pretrained = plant(folder, tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    cache = [f"model.tokenizer_cache_dir={tmp_path / 'hub'}"]  # the machine's own may hold the real one
    capfd.readouterr()
    caplog.clear()  # of what transformers says while the case is made
    overrides = [f"model.altclip_pretrained={pretrained}", "model.embed_dim=null", *cache]
    assert main(["--config", str(config), "--backbone", "altclip", *overrides]) == 2
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert [record for record in caplog.records if record.name.startswith("transformers")] == []
    assert line.startswith("error: model.altclip_pretrained: ")
    assert str(pretrained) in line
    for word in expected:
        assert word in line
