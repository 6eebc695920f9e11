"""Folders of Hugging Face's CLIPModel: the same features, and what is refused in one line."""

import json
import logging
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from model.clip import build_clip
from model.weights.pretrained import load_clip_weights
from options import UserError
from tests.helpers.altclip_folders import cache_root, copied

WEIGHTS = "model.safetensors"
SIDE = 48
SIZES = {"intermediate_size": 128, "num_hidden_layers": 2, "hidden_size": 32}
CAPTIONS = ("a man in a red coat", "a woman with a bag and a long blue umbrella", "red")


@pytest.fixture(scope="module")
def theirs() -> Any:
    """A small CLIPModel, heads not of width 64, no tensor left at a constant."""
    from transformers import CLIPConfig, CLIPModel

    text = {**SIZES, "num_attention_heads": 2, "projection_dim": 24}
    vision = {**SIZES, "num_attention_heads": 4, "image_size": SIDE, "patch_size": 16, "projection_dim": 24}
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def clip_folder(theirs: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub") / "clip-vit-base-patch16"
    theirs.save_pretrained(folder)
    return folder


def to_bin(folder: Path) -> Path:
    tensors = safetensors.torch.load_file(folder / WEIGHTS)
    torch.save(tensors, folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    return folder


def to_parts(folder: Path) -> Path:
    tensors = safetensors.torch.load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    files = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    parts = {name: files[number % 2] for number, name in enumerate(sorted(tensors))}
    for part in files:
        safetensors.torch.save_file({n: tensors[n] for n in tensors if parts[n] == part}, folder / part)
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": parts}))
    return folder


def changed(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> Path:
    tensors = safetensors.torch.load_file(folder / WEIGHTS)
    change(tensors)
    safetensors.torch.save_file(tensors, folder / WEIGHTS)
    return folder


def with_positions(folder: Path) -> Path:
    """Older files hold these two buffers."""
    counts = {"text": torch.arange(77)[None], "vision": torch.arange(10)[None]}
    buffers = {f"{name}_model.embeddings.position_ids": count for name, count in counts.items()}
    return changed(folder, lambda tensors: tensors.update(buffers))


def with_config(folder: Path, section: str, **changes: object) -> Path:
    config = json.loads((folder / "config.json").read_text())
    config[section] = {**config.get(section, {}), **changes}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def old_config(folder: Path) -> Path:
    """The heads of the text tower stand in text_config_dict, and the end token has its old id."""
    with_config(folder, "text_config", num_attention_heads=1, eos_token_id=2)
    return with_config(folder, "text_config_dict", num_attention_heads=2)


FOLDERS: dict[str, Callable[[Path], Path]] = {
    "safetensors": lambda folder: folder,
    "pytorch_model.bin": to_bin,
    "parts": to_parts,
    "positions": with_positions,
    "old config": old_config,
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_folder_gives_the_features_of_transformers(
    theirs: Any, clip_folder: Path, tmp_path: Path, kind: str
) -> None:
    folder = FOLDERS[kind](copied(clip_folder, tmp_path / "clip"))
    model, tokenizer, _ = build_clip(folder, image_size=(SIDE, SIDE))
    model.eval()
    pixels, tokens = torch.randn(2, 3, SIDE, SIDE), tokenizer(list(CAPTIONS))
    with torch.no_grad():
        images = theirs.visual_projection(theirs.vision_model(pixels).pooler_output)
        texts = theirs.text_projection(theirs.text_model(**tokens).pooler_output)
        torch.testing.assert_close(model.encode_image(pixels), images, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(model.encode_text(tokens), texts, rtol=1e-5, atol=1e-5)
    assert model.logit_scale.item() == theirs.logit_scale.item()
    assert (texts[0] - texts[1]).abs().max() > 0.01


def test_a_folder_brings_its_heads_and_its_grid(clip_folder: Path) -> None:
    weights = load_clip_weights(clip_folder)
    assert (weights.shape.image_heads, weights.shape.text_heads) == (4, 2)
    assert weights.grid == (3, 3)


def test_heads_that_a_config_leaves_out_are_those_of_transformers(clip_folder: Path, tmp_path: Path) -> None:
    folder = copied(clip_folder, tmp_path / "clip")
    config = json.loads((folder / "config.json").read_text())
    for tower in ("text_config", "vision_config"):
        del config[tower]["num_attention_heads"]
    (folder / "config.json").write_text(json.dumps(config))
    weights = load_clip_weights(folder)
    assert (weights.shape.image_heads, weights.shape.text_heads) == (12, 8)


def test_buffers_of_older_files_are_named_as_dropped(
    clip_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = with_positions(copied(clip_folder, tmp_path / "clip"))
    with caplog.at_level(logging.INFO, logger="model.weights.hf_clip"):
        load_clip_weights(folder)
    assert caplog.text.count("dropped") == 2
    assert "vision_model.embeddings.position_ids" in caplog.text


def test_a_hub_cache_and_one_model_of_it_load_their_snapshot(
    clip_folder: Path, folder: Path, tmp_path: Path
) -> None:
    name = "models--openai--clip-vit-base-patch16"
    root = cache_root(clip_folder, tmp_path / "cache", name)
    cache_root(folder, root, "models--BAAI--AltCLIP")
    expected = load_clip_weights(clip_folder).tensors
    for path in (root, root / name):
        assert torch.equal(load_clip_weights(path).tensors["visual.proj"], expected["visual.proj"])


def without(folder: Path, name: str) -> Path:
    next(folder.glob(name)).unlink()
    return folder


def with_text(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    return folder


def spoiling(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], Path]:
    return lambda folder: changed(folder, change)


KEY, INDEX = "text_model.encoder.layers.1.self_attn.k_proj.weight", f"{WEIGHTS}.index.json"
NO_INDEX, TEXT_TOWER = "is not an index of weights", '{"model_type": "clip", "text_config": "small"}'
CONFIGS: list[tuple[str, str, object, str]] = [
    ("vision_config", "hidden_act", "gelu", r"hidden_act 'quick_gelu' in text_config and 'gelu' in vision_c"),
    ("text_config", "layer_norm_eps", 1e-6, r"text_config.layer_norm_eps 1e-06; 1e-05 is expected"),
    ("text_config", "eos_token_id", 7, r"text_config.eos_token_id 7; CLIP's tokenizer has 49407"),
    (
        "vision_config",
        "num_attention_heads",
        5,
        r"model.image_heads: expected a divisor of model.image_width, 32",
    ),
    ("text_config", "num_attention_heads", "2", r"has text_heads '2'; a whole number is expected"),
    ("vision_config", "image_size", [32, 32], r"has image_size \[32, 32\]; a whole number is expected"),
]
REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    f"{section}.{name} {value}": (partial(with_config, section=section, **{name: value}), message)
    for section, name, value, message in CONFIGS
} | {
    "another model": (
        lambda f: with_text(f, "config.json", '{"model_type": "siglip"}'),
        r"a model of type 'siglip'; a CLIP is expected\.$",
    ),
    "no config": (lambda f: without(f, "config.json"), r"neither a config.json nor models--"),
    "a broken config": (lambda f: with_text(f, "config.json", "{"), r"a model of type 'None'"),
    "no weights": (lambda f: without(f, WEIGHTS), r"neither model.safetensors nor pytorch_model.bin"),
    "a missing part": (lambda f: without(to_parts(f), "model-00002*"), r"-00002-of-00002.* does not exist"),
    "a broken index": (lambda f: with_text(without(f, WEIGHTS), INDEX, "[]"), NO_INDEX),
    "an index of numbers": (
        lambda f: with_text(without(f, WEIGHTS), INDEX, '{"weight_map": {"a": 3}}'),
        NO_INDEX,
    ),
    "a missing tensor": (
        spoiling(lambda t: t.pop(KEY)),
        r"lacks 1 of CLIP's tensors \(first: 'text.transformer.resblocks.1.attn.in_proj_weight'\)",
    ),
    "another shape": (spoiling(lambda t: t.update({KEY: torch.ones(32, 31)})), r"lacks 1 of CLIP's tensors"),
    "a tensor too many": (
        spoiling(lambda t: t.update(extra=torch.ones(1))),
        r"1 unexpected tensors .*'extra'",
    ),
    "a tower of text": (
        lambda f: with_text(f, "config.json", TEXT_TOWER),
        r"holds no CLIP|model.text_heads|positions for|disagree",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_folder_that_does_not_fit_is_one_line_for_the_user(
    clip_folder: Path, tmp_path: Path, kind: str
) -> None:
    spoil, message = REFUSED[kind]
    spoilt = spoil(copied(clip_folder, tmp_path / "clip"))
    with pytest.raises(UserError, match=message) as error:
        build_clip(spoilt, image_size=(SIDE, SIDE))
    assert "\n" not in str(error.value)


def test_an_altclip_folder_is_told_where_it_belongs(folder: Path) -> None:
    with pytest.raises(UserError, match=r"type 'altclip'; a CLIP .*; load it with model.backbone=altclip"):
        build_clip(folder)


def test_the_file_alone_does_not_tell_its_heads(clip_folder: Path, tmp_path: Path) -> None:
    shutil.copy(clip_folder / WEIGHTS, tmp_path / WEIGHTS)
    with pytest.raises(UserError, match=r"has Hugging Face's names; give its folder"):
        build_clip(tmp_path / WEIGHTS)
