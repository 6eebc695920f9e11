"""Activations and heads other than OpenAI's: read where they are told, assumed aloud where nothing tells."""

import copy
import json
import logging
from pathlib import Path
from typing import Any

import open_clip
import pytest
import safetensors.torch
import torch

from main import main
from misc.export.__main__ import main as export
from misc.search.encoder import load_encoder
from model.clip import CLIP, build_clip
from model.weights.pretrained import load_clip_weights
from options import UserError, load_options
from tests.helpers.tiny_config import write_config
from tests.helpers.whole_runs import error_line, results_of

SIDE, PATCH = 32, 16
WIDTH, EMBED = 160, 24
CAPTIONS = ("a man in a red coat", "a woman with a bag and a long blue umbrella", "red")
# Image heads of 80 numbers as in ViT-H-14; text heads of 32.
CONFIG: dict[str, Any] = {
    "embed_dim": EMBED,
    "quick_gelu": False,
    "vision_cfg": {"image_size": SIDE, "layers": 2, "width": WIDTH, "head_width": 80, "patch_size": PATCH},
    "text_cfg": {"context_length": 77, "vocab_size": 49_408, "width": 64, "heads": 2, "layers": 2},
}
HEADS = {"image_heads": 2, "text_heads": 2}


def open_clip_model(**changes: Any) -> open_clip.CLIP:
    """A random model of open_clip of `CONFIG`, no tensor left at a constant."""
    config = copy.deepcopy(CONFIG) | changes
    torch.manual_seed(0)
    model = open_clip.CLIP(
        config["embed_dim"], config["vision_cfg"], config["text_cfg"], config["quick_gelu"]
    )
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model.eval()


@pytest.fixture(scope="module")
def gelu() -> open_clip.CLIP:
    return open_clip_model()


def write_folder(
    model: open_clip.CLIP, folder: Path, name: str = "open_clip_pytorch_model.bin", **changes: Any
) -> Path:
    """What the hub has of a model of open_clip."""
    folder.mkdir(exist_ok=True)
    if name.endswith("safetensors"):
        safetensors.torch.save_file(model.state_dict(), folder / name)
    else:
        torch.save(model.state_dict(), folder / name)
    content = {"model_cfg": CONFIG | changes, "preprocess_cfg": {"mean": [0.5] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    return folder


@torch.no_grad()
def assert_same_features(model: CLIP, tokenizer: Any, theirs: open_clip.CLIP) -> None:
    model.eval()
    tokens = tokenizer(list(CAPTIONS))
    pixels = torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    padded = torch.nn.functional.pad(tokens["input_ids"], (0, 77 - tokens["input_ids"].shape[1]))
    torch.testing.assert_close(model.encode_image(pixels), theirs.encode_image(pixels), atol=1e-4, rtol=0)
    ours, expected = model.encode_text(tokens), theirs.encode_text(padded)
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["open_clip_pytorch_model.bin", "open_clip_model.safetensors"])
@pytest.mark.parametrize("quick_gelu", [True, False])
def test_a_folder_of_open_clip_and_its_file_give_the_features_of_open_clip(
    tmp_path: Path, name: str, quick_gelu: bool
) -> None:
    theirs = open_clip_model(quick_gelu=quick_gelu)
    folder = write_folder(theirs, tmp_path / "hub", name, quick_gelu=quick_gelu)
    for path in (folder, folder / name):
        model, tokenizer, _ = build_clip(path, image_size=(SIDE, SIDE))
        assert_same_features(model, tokenizer, theirs)


def test_a_bare_state_dict_is_read_as_the_options_say_and_without_them_with_a_warning(
    tmp_path: Path, gelu: open_clip.CLIP, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(gelu.state_dict(), path := tmp_path / "weights.pt")
    model, tokenizer, _ = build_clip(path, image_size=(SIDE, SIDE), activation="gelu", **HEADS)
    assert_same_features(model, tokenizer, gelu)
    assert caplog.text == ""
    build_clip(path, image_size=(SIDE, SIDE), image_heads=2)
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "tells activation, text_heads; assumed: model.activation=quick_gelu, model.text_heads=1" in warning
    with pytest.raises(UserError, match=r"model.image_heads: null means model.image_width / 64, but 160"):
        build_clip(path, image_size=(SIDE, SIDE))


def test_the_sizes_of_vit_h_have_sixteen_heads_and_gelu(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of width 1280; OpenAI has no such tower."""
    vision = CONFIG["vision_cfg"] | {"width": 1280, "layers": 1}
    theirs = open_clip_model(vision_cfg=vision)
    torch.save(theirs.state_dict(), path := tmp_path / "open_clip_pytorch_model.bin")
    model, tokenizer, _ = build_clip(path, image_size=(SIDE, SIDE), text_heads=2)
    assert_same_features(model, tokenizer, theirs)
    assert "assumed: model.activation=gelu, model.image_heads=16" in caplog.text
    again, _, _ = build_clip(
        path, image_size=(SIDE, SIDE), image_heads=16, text_heads=2, activation="quick_gelu"
    )
    assert again.visual.transformer.activation == "quick_gelu"


def test_what_a_file_tells_is_not_given_another_value(tmp_path: Path, gelu: open_clip.CLIP) -> None:
    folder = write_folder(gelu, tmp_path / "hub")
    for option, value, told in (
        ("activation", "quick_gelu", "gelu"),
        ("image_heads", 4, 2),
        ("text_heads", 4, 2),
    ):
        with pytest.raises(
            UserError, match=f"model.{option}: {value} is set, but the weights .* have {told}"
        ):
            build_clip(folder, image_size=(SIDE, SIDE), **{option: value})


@pytest.mark.parametrize("act", ["gelu", "quick_gelu"])
def test_a_folder_of_transformers_gives_its_features_with_either_activation(tmp_path: Path, act: str) -> None:
    from transformers import CLIPConfig, CLIPModel

    shared = {
        "num_hidden_layers": 2,
        "hidden_act": act,
        "projection_dim": EMBED,
        "intermediate_size": 4 * WIDTH,
    }
    vision = {
        "hidden_size": WIDTH,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "patch_size": PATCH,
        **shared,
    }
    text = {"hidden_size": 64, "num_attention_heads": 2, **shared, "intermediate_size": 256}
    torch.manual_seed(0)
    theirs = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=EMBED)).eval()
    for parameter in theirs.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    theirs.save_pretrained(tmp_path / "hub")
    pixels = torch.randn(2, 3, SIDE, SIDE)
    for path in (tmp_path / "hub", tmp_path / "hub" / "model.safetensors"):
        model, tokenizer, _ = build_clip(path, image_size=(SIDE, SIDE))
        tokens = tokenizer(list(CAPTIONS))
        with torch.no_grad():
            images = theirs.visual_projection(theirs.vision_model(pixels).pooler_output)
            texts = theirs.text_projection(theirs.text_model(**tokens).pooler_output)
            torch.testing.assert_close(model.eval().encode_image(pixels), images, atol=1e-4, rtol=0)
            torch.testing.assert_close(model.encode_text(tokens), texts, atol=1e-4, rtol=0)


def test_a_configuration_beside_a_file_of_other_sizes_is_named_and_not_used(
    tmp_path: Path, gelu: open_clip.CLIP, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_folder(gelu, tmp_path / "hub", embed_dim=32)
    with pytest.raises(
        UserError, match=r"configuration and tensors that disagree: embed_dim 32 \(the tensors: 24\)"
    ):
        load_clip_weights(folder)
    weights = load_clip_weights(folder / "open_clip_pytorch_model.bin")
    assert weights.assumed == {"activation", "image_heads", "text_heads"}
    assert "open_clip_config.json' describes another model: embed_dim 32" in caplog.text


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a timm tower": (
        {"vision_cfg": {"timm_model_name": "vit_base", "image_size": 224}},
        "timm_model_name 'vit_base'",
    ),
    "a ResNet": ({"vision_cfg": {"layers": [3, 4, 6, 3], "width": 64}}, r"vision_cfg.layers \[3, 4, 6, 3\]"),
    "another MLP": (
        {"vision_cfg": CONFIG["vision_cfg"] | {"mlp_ratio": 4.9231}},
        "vision_cfg.mlp_ratio 4.9231",
    ),
    "another pooling": (
        {"text_cfg": CONFIG["text_cfg"] | {"pool_type": "last"}},
        "text_cfg.pool_type 'last'",
    ),
    "another GELU": (
        {"text_cfg": CONFIG["text_cfg"] | {"act_kwargs": {"approximate": "tanh"}}},
        "text_cfg.act_kwargs",
    ),
    "another tokenizer": (
        {"text_cfg": CONFIG["text_cfg"] | {"hf_tokenizer_name": "bert-base-uncased"}},
        "hf_tokenizer_name 'bert-base-uncased'",
    ),
    "CoCa": ({"multimodal_cfg": {"width": 64}}, "multimodal_cfg"),
    "no towers": ({"text_cfg": None}, "no model_cfg with vision_cfg, text_cfg"),
    "heads in words": (
        {"text_cfg": CONFIG["text_cfg"] | {"heads": "two"}},
        "text_cfg.heads 'two'; a whole number",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_our_towers_do_not_have_is_refused_by_its_name(
    tmp_path: Path, gelu: open_clip.CLIP, kind: str
) -> None:
    changes, message = REFUSED[kind]
    with pytest.raises(UserError, match=message) as error:
        load_clip_weights(write_folder(gelu, tmp_path / "hub", **changes))
    assert "\n" not in str(error.value)


def test_a_run_from_such_weights_goes_on_without_them(
    people: Path, tmp_path: Path, gelu: open_clip.CLIP, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its checkpoint and options.yaml tell what no tensor shows: to evaluation, search, export and resume."""
    hub, run, sizes = write_folder(gelu, tmp_path / "hub"), tmp_path / "run", ("patch_size", "image_layers")
    cleared = dict.fromkeys((*sizes, *HEADS, "text_layers", "image_width", "text_width", "embed_dim"))
    model = cleared | {"clip_pretrained": str(hub)}
    changes = {"schedule": {"epoch": 1}, "data": {"batch_size": 16, "image_size": [SIDE, SIDE]}}
    config = write_config(tmp_path / "c.yaml", people, 16, model=model, output={"dir": str(run)}, **changes)
    assert main(["--config", str(config)]) == 0
    options, best = load_options(run / "options.yaml"), run / "checkpoint_best.pth"
    assert (options.model.activation, options.model.image_heads, options.model.text_heads) == ("gelu", 2, 2)
    (hub / "open_clip_config.json").unlink()
    arguments = ["--config", str(run / "options.yaml"), "--evaluate", str(best)]
    assert main([*arguments, "--output-dir", str(tmp_path / "again")]) == 0
    assert results_of(tmp_path / "again")["languages"] == results_of(run)["languages"]
    assert load_encoder(best).model.clip.visual.transformer.activation == "gelu"
    for form, path in (("openai", "."), ("safetensors", "model.safetensors")):
        out = tmp_path / form
        assert export([str(best), str(out), "--format", form]) == 0  # which compares the features
        assert load_clip_weights(out / path).shape.activation == "gelu"
    config.write_text(config.read_text().replace(str(hub), str(hub / "open_clip_pytorch_model.bin")))
    more = [
        "--config",
        str(config),
        "--resume",
        str(best),
        "schedule.epoch=2",
        f"output.dir={tmp_path / 'more'}",
    ]
    capsys.readouterr()
    assert main([*more, "model.image_heads=2", "model.text_heads=2"]) == 2
    assert "model.activation: the checkpoint was trained with gelu" in error_line(capsys)


def test_releases_that_start_from_openais_weights_are_read_without_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, _, _ = build_clip(
        image_size=(SIDE, SIDE), image_width=64, text_width=64, image_layers=1, text_layers=1
    )
    state = {f"base_model.{name.removeprefix('text.')}": t for name, t in model.state_dict().items()}
    torch.save({"model": state}, path := tmp_path / "best.pth")
    with caplog.at_level(logging.WARNING):
        build_clip(path, image_size=(SIDE, SIDE))
    assert caplog.text == ""
    assert (
        build_clip(path, image_size=(SIDE, SIDE), activation="gelu")[0].text.transformer.activation == "gelu"
    )
