"""What the files of a model of transformers say, and what is refused in one line."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

from model import build_model
from model.families import FAMILIES
from model.transformers_adapter import BACKBONE, build_transformers_clip
from options import UserError, load_options

Families = Callable[[str], Path]


def changed(folder: Path, to: Path, **settings: object) -> Path:
    """A copy whose config.json differs."""
    shutil.copytree(folder, to)
    config = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps(config | settings))
    return to


def go_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_images_are_prepared_as_the_files_say_else_as_the_family_does_which_is_logged(
    families: Families, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = shutil.copytree(families("siglip2"), tmp_path / "model")
    with caplog.at_level(logging.INFO):
        processor = build_transformers_clip(folder)[2]
    assert processor.image_size == (32, 32)
    assert (processor.image_mean, processor.image_std) == ((0.5,) * 3, (0.5,) * 3)
    assert processor.interpolation == "bilinear"
    assert "bilinear, mean (0.5, 0.5, 0.5)" in caplog.text
    assert "Siglip2Model's default: there is no preprocessor_config.json" in caplog.text
    saved = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "resample": 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(saved))
    caplog.clear()
    with caplog.at_level(logging.INFO):
        processor = build_transformers_clip(folder)[2]
    assert (processor.image_mean, processor.image_std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert processor.interpolation == "bicubic"
    assert "Siglip2Model's default" not in caplog.text
    given = build_transformers_clip(folder, normalization="clip", interpolation="bilinear")[2]
    assert given.image_mean[0] == pytest.approx(0.48145466)
    assert given.interpolation == "bilinear"
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": 0, "image_std": 0.25}))
    of_all_channels = build_transformers_clip(folder)[2]
    assert (of_all_channels.image_mean, of_all_channels.image_std) == ((0,) * 3, (0.25,) * 3)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": None}))
    with pytest.raises(UserError, match="other statistics than of 3 channels"):
        build_transformers_clip(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5], "image_std": [0.5]}))
    with pytest.raises(UserError, match=r"other statistics than of 3 channels: \(\[0\.5\], \[0\.5\]\)"):
        build_transformers_clip(folder)


def test_captions_are_cut_and_cleaned_as_the_weights_want(families: Families, kind: str) -> None:
    clip, tokenizer, _ = build_transformers_clip(families(kind))
    assert tokenizer.text_length == 24
    assert tokenizer.cleaning == ("lower" if kind.startswith("siglip") else "whitespace")
    assert clip.vocab_size == tokenizer.vocab_size
    assert build_transformers_clip(families(kind), text_length=9)[1].text_length == 9
    with pytest.raises(UserError, match=r"experiment\.text_length: expected at most 24, .* found 25"):
        build_transformers_clip(families(kind), text_length=25)
    with pytest.raises(UserError, match=r"data\.image_size: expected multiples of the patch size 8,"):
        build_transformers_clip(families(kind), image_size=(44, 16))


def test_an_export_gives_the_library_the_same_features(
    families: Families, kind: str, tmp_path: Path, captions: list[str]
) -> None:
    import transformers

    options = load_options(
        "config/config.yaml",
        ["model.backbone=transformers", f"model.transformers_pretrained={families(kind)}"],
    )
    size = (48, 16) if kind == "siglip2" else (48, 48)  # only one of them says a size that is no square
    clip = build_transformers_clip(families(kind), image_size=size)[0].eval()
    config, tensors = BACKBONE.to_transformers(clip, options)
    (tmp_path / "config.json").write_text(json.dumps(config))
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    safetensors.torch.save_file(contiguous, tmp_path / "model.safetensors", metadata={"format": "pt"})
    model_class = getattr(transformers, FAMILIES[kind].transformers_class)
    model, info = model_class.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[f"{name}_keys"] for name in ("missing", "unexpected", "mismatched"))
    torch.testing.assert_close(model.logit_scale.reshape(()), clip.logit_scale)
    pixels = torch.randn(2, 3, *size)
    with torch.no_grad():
        if kind != "siglip2":
            output = model.get_image_features(pixel_values=pixels)
            torch.testing.assert_close(getattr(output, "pooler_output", output), clip.encode_image(pixels))
    again = {name: tensor for name, tensor in model.state_dict().items() if "logit" not in name}
    original = model_class.from_pretrained(families(kind)).state_dict()
    resized = {"vision_model.embeddings.position_embedding.weight"} if kind != "siglip2" else set()
    assert all(torch.equal(again[name], original[name]) for name in again.keys() - resized)


REFUSED = {
    "another type": (
        lambda root, to: changed(root, to, model_type="clip"),
        r"holds a model of type 'clip'; one of chinese_clip, metaclip_2, siglip, siglip2 is expected",
    ),
    "an unknown type": (
        lambda root, to: changed(root, to, model_type="newclip", auto_map={"AutoModel": "evil.Model"}),
        r"holds a model of type 'newclip'; one of chinese_clip",
    ),
    "a block more than the weights have": (
        lambda root, to: changed(root, to, text_config={"num_hidden_layers": 3, "vocab_size": 300}),
        r"has no weights that can be read|does not fill the model",
    ),
    "no tokenizer": (
        lambda root, to: shutil.copytree(root, to, ignore=shutil.ignore_patterns("tokenizer*", "vocab*")),
        r"tokenizer.*tokenizer\.json.*huggingface-cli download",
    ),
    "no weights": (
        lambda root, to: shutil.copytree(root, to, ignore=shutil.ignore_patterns("*.safetensors")),
        r"has no weights that can be read .*neither model\.safetensors nor pytorch_model\.bin",
    ),
    "no such folder": (lambda _, to: to, r"does not exist; .*huggingface-cli download google/siglip2"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_built_is_refused_in_one_line(case: str, families: Families, tmp_path: Path) -> None:
    plant, expected = REFUSED[case]
    folder = plant(families("siglip2"), tmp_path / "model")
    with pytest.raises(UserError, match=expected) as error:
        build_transformers_clip(folder)
    assert str(error.value).startswith("model.transformers_pretrained: ")
    assert "\n" not in str(error.value)


def test_a_hub_id_that_the_cache_lacks_says_how_to_fetch_it_and_what_is_missing(
    families: Families, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_offline(monkeypatch)
    with pytest.raises(UserError, match=r"lacks config\.json; .*huggingface-cli download google/siglip2-x "):
        build_transformers_clip("google/siglip2-x", tmp_path)
    with pytest.raises(
        UserError, match=r"huggingface-cli download facebook/metaclip-2 --local-dir metaclip-2;"
    ):
        build_transformers_clip("facebook/metaclip-2", tmp_path)
    snapshot = tmp_path / "models--google--siglip2-x" / "snapshots" / "0123abc"
    shutil.copytree(families("siglip2"), snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0123abc")
    assert build_transformers_clip("google/siglip2-x", tmp_path)[2].image_size == (32, 32)
    assert build_transformers_clip(tmp_path)[2].image_size == (32, 32)  # the root of the cache
    (snapshot / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"the cache lacks tokenizer\.json"):
        build_transformers_clip("google/siglip2-x", tmp_path)


def test_a_tokenizer_with_another_end_token_than_the_one_that_is_read_is_refused(
    families: Families, tmp_path: Path
) -> None:
    text = json.loads((families("metaclip_2") / "config.json").read_text())["text_config"]
    folder = changed(families("metaclip_2"), tmp_path / "model", text_config=text | {"eos_token_id": 9})
    with pytest.raises(UserError, match=r"at the token 9 .*its tokenizer ends captions with 2"):
        build_transformers_clip(folder)


def test_the_backbone_needs_a_model() -> None:
    options = load_options("config/config.yaml", ["model.backbone=transformers"])
    with pytest.raises(UserError, match=r"model\.transformers_pretrained: expected .*, found null"):
        build_model(options, 3)
