"""Folders of open_clip whose configuration says more than the sizes, or contradicts what lies beside it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from model.open_clip_adapter import build_open_clip
from options import UserError
from tests.helpers.altclip_folders import copied

Folder = Callable[[str], Path]


def changed(folder: Path, section: str, **settings: Any) -> Path:
    """The folder, its configuration changed."""
    file = folder / "open_clip_config.json"
    content = json.loads(file.read_text())
    (content if section == "preprocess_cfg" else content["model_cfg"])[section].update(settings)
    file.write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("section", "settings", "message"),
    [
        ("text_cfg", {"pool_type": "eos", "eos_id": 7}, "at the token 7 .*ends captions with 2"),
        ("text_cfg", {"pool_type": "argmax"}, "at the token 3.*ends captions with 2"),
        ("preprocess_cfg", {"mean": [0.5]}, r"the mean \[0.5\]: 3 numbers are expected"),
        ("preprocess_cfg", {"std": "half"}, "the std half: 3 numbers are expected"),
        ("text_cfg", {"context_length": None}, "has a context_length that it cannot have: None"),
        ("text_cfg", {"tokenizer_kwargs": ["x"]}, "has a tokenizer_kwargs that it cannot have"),
        ("vision_cfg", {"timm_model_name": "hf-hub:timm/some"}, "an image tower on the hub"),
        ("vision_cfg", {"image_size": 96}, r"positional_embedding' of shape \(17, .*of another image size"),
        ("text_cfg", {"tokenizer_kwargs": {"reduction_mask": "random"}}, "with reduction_mask, which is not"),
        ("text_cfg", {"tokenizer_kwargs": {"clean": "whitespace"}}, "with clean, which is not supported"),
    ],
)
def test_a_folder_that_contradicts_itself_or_is_not_supported_is_refused_in_one_line(
    open_clip_folder: Folder, tmp_path: Path, section: str, settings: dict[str, Any], message: str
) -> None:
    is_pooled_elsewhere = "pool_type" in settings  # only a tokenizer of transformers has another end token
    kind = "attention pooling" if is_pooled_elsewhere else "plain"
    folder = changed(copied(open_clip_folder(kind), tmp_path / "model"), section, **settings)
    with pytest.raises(UserError, match=message) as error:
        build_open_clip(pretrained=folder)
    assert "\n" not in str(error.value)


@torch.no_grad()
def test_captions_are_read_at_the_end_token_that_the_configuration_names(
    open_clip_folder: Folder, tmp_path: Path
) -> None:
    import open_clip

    folder = copied(open_clip_folder("attention pooling"), tmp_path / "model")
    changed(folder, "text_cfg", pool_type="eos", eos_id=2)
    clip, tokenizer, _ = build_open_clip(pretrained=folder)
    ids = open_clip.get_tokenizer(f"local-dir:{folder}")(["a man", "a woman in a red coat"])
    expected = open_clip.create_model(f"local-dir:{folder}").eval().encode_text(ids)
    found = clip.eval().encode_text(tokenizer(["a man", "a woman in a red coat"]))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_one_number_of_the_statistics_is_of_all_channels_and_captions_are_cleaned_as_the_folder_says(
    open_clip_folder: Folder, tmp_path: Path
) -> None:
    folder = copied(open_clip_folder("plain"), tmp_path / "model")
    changed(folder, "preprocess_cfg", mean=0, std=0.5)
    changed(folder, "text_cfg", tokenizer_kwargs={"clean": "canonicalize"})
    _, tokenizer, processor = build_open_clip(pretrained=folder)
    assert (processor.image_mean, processor.image_std) == ((0, 0, 0), (0.5, 0.5, 0.5))
    assert tokenizer.clean("A man, in black!") == "a man in black"
