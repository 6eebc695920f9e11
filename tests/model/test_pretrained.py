"""Weights in every format we read, and files that are none."""

import logging
import pickle
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from model.clip import build_clip
from model.weights.pickles import read_pickled
from model.weights.pretrained import load_clip_weights
from model.weights.shapes import resize_image_positions, resize_text_positions
from options import UserError
from tests.helpers.malicious import Creates
from tests.helpers.openai_format import SIZES, openai_state_dict, save_torchscript

TEXT = ("transformer.", "token_embedding.", "positional_embedding", "ln_final.", "text_projection")
BUFFERS = ("input_resolution", "context_length", "vocab_size")


@pytest.fixture(scope="module")
def openai() -> dict[str, Tensor]:
    return openai_state_dict(half=True)


@pytest.fixture(scope="module")
def ours(openai) -> dict[str, Tensor]:
    """The same weights under our names, renamed here without the code that is tested."""
    weights = {name: tensor.float() for name, tensor in openai.items() if name not in BUFFERS}
    named = {f"text.{n}" if n.startswith(TEXT) else n: tensor for n, tensor in weights.items()}
    assert len([name for name in named if name.startswith("text.")]) == 2 * 12 + 5
    return named


def checkpoint(ours: dict[str, Tensor], **sections: dict) -> dict:
    """A training checkpoint of this project, with heads."""
    heads = {"simclr_mlp.0.weight": torch.zeros(2, 2), "classifier.bias": torch.zeros(3)}
    return {"model": {f"clip.{n}": t for n, t in ours.items()} | heads, "epoch": 3, "options": sections}


def save(content: object, path: Path, **how: bool) -> Path:
    torch.save(content, path, **how)
    return path


FORMATS = {
    "torchscript": lambda openai, ours, path: save_torchscript(openai, path),
    "state dict": lambda openai, ours, path: save(openai, path),
    "old state dict": lambda openai, ours, path: save(openai, path, _use_new_zipfile_serialization=False),
    "under model": lambda openai, ours, path: save({"model": openai, "epoch": 1}, path),
    "under state_dict": lambda openai, ours, path: save({"state_dict": openai}, path),
    "our names": lambda openai, ours, path: save(ours, path),
    "our checkpoint": lambda openai, ours, path: save(checkpoint(ours), path),
    "safetensors": lambda openai, ours, path: safetensors.torch.save_file(openai, path) or path,
}


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_gives_the_same_weights_in_fp32_under_our_names(tmp_path, openai, ours, kind):
    weights = load_clip_weights(FORMATS[kind](openai, ours, tmp_path / "weights"))
    assert weights.tensors.keys() == ours.keys()
    for name, tensor in weights.tensors.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, ours[name]), name
    assert weights.grid == (4, 4)
    assert {name: getattr(weights.shape, name) for name in SIZES} == SIZES
    assert (weights.shape.image_heads, weights.shape.text_heads, weights.shape.vocab_size) == (2, 1, 49_408)


def test_tensors_that_are_views_of_one_storage_are_read_from_an_archive_as_they_are(tmp_path):
    storage = torch.randn(3, 4, 5)
    views = {"a": storage[1], "b.c": storage[2].T, "d": storage[0, 0, 0]}
    read = read_pickled(save_torchscript(views, tmp_path / "views.pt"))
    assert read.keys() == views.keys()
    assert all(torch.equal(read[name], view) for name, view in views.items())


@pytest.mark.parametrize(("patch", "side"), [(32, 96), (14, 56), (14, 84)])
def test_the_patch_and_the_grid_of_an_archive_are_read_off_it(tmp_path, patch, side):
    """ViT-B/32, ViT-L/14 and ViT-L/14 at 336 pixels differ from ViT-B/16 in sizes alone."""
    state = openai_state_dict(half=True, image_size=(side, side), patch_size=patch, image_width=192)
    path = save_torchscript(state, tmp_path / "ViT.pt")
    weights = load_clip_weights(path)
    assert (weights.shape.patch_size, weights.shape.image_heads) == (patch, 3)
    assert weights.grid == (side // patch, side // patch)
    model, _, _ = build_clip(path, image_size=(2 * patch, 3 * patch))
    with torch.no_grad():
        assert model.encode_image(torch.randn(1, 3, 2 * patch, 3 * patch)).shape == (1, 32)


def test_weights_fill_every_parameter_and_leave_it_trainable(tmp_path, openai, ours):
    model, _, _ = build_clip(save(openai, tmp_path / "weights.pt"), image_size=(64, 64))
    parameters = dict(model.named_parameters())
    assert parameters.keys() == ours.keys()
    assert all(p.requires_grad and torch.equal(p, ours[name]) for name, p in parameters.items())


def test_weights_outlive_a_change_of_their_file(tmp_path, ours):
    path = save(ours, tmp_path / "weights.pt")
    tensors = load_clip_weights(path).tensors
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert all(torch.equal(tensor, ours[name]) for name, tensor in tensors.items())


def test_heads_are_named_in_the_log_in_one_line(tmp_path, ours, caplog):
    with caplog.at_level(logging.INFO, logger="model.weights.pretrained"):
        load_clip_weights(save(checkpoint(ours), tmp_path / "last.pth"))
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.endswith("tensors that are not part of the towers: simclr_mlp (1), classifier (1)")


def test_a_checkpoint_of_ours_brings_its_grid_and_heads(tmp_path):
    sizes = {**SIZES, "image_width": 96, "image_heads": 3, "text_width": 48, "text_heads": 2}
    model, tokenizer, _ = build_clip(image_size=(96, 32), text_length=20, **sizes)
    options = {"data": {"image_size": [96, 32]}, "model": {"image_heads": 3, "text_heads": 2}}
    path = save(checkpoint(model.state_dict(), **options), tmp_path / "last.pth")
    again, _, _ = build_clip(path, image_size=(96, 32), text_length=20)
    pixels, tokens = torch.randn(2, 3, 96, 32), tokenizer(["a man in red", "a woman"])
    with torch.no_grad():
        assert torch.equal(again.encode_image(pixels), model.encode_image(pixels))
        assert torch.equal(again.encode_text(tokens), model.encode_text(tokens))
    with pytest.raises(UserError, match=r"model.image_heads: 4 is set, but .* have 3"):
        build_clip(path, image_size=(96, 32), text_length=20, image_heads=4)


def test_a_grid_that_is_no_square_and_stands_in_no_options_is_an_error(tmp_path):
    model, _, _ = build_clip(image_size=(96, 32), **SIZES)
    path = save(model.state_dict(), tmp_path / "weights.pt")
    with pytest.raises(UserError, match="12 patches, which do not make a square"):
        load_clip_weights(path)
    path = save(checkpoint(model.state_dict(), data={"image_size": (64, 64)}), path)
    with pytest.raises(UserError, match=r"12 patches, which do not make the image size \(64, 64\)"):
        load_clip_weights(path)


@pytest.mark.parametrize("option", [*SIZES, "image_heads", "vocab_size"])
def test_a_size_that_disagrees_with_the_weights_names_option_and_both_numbers(tmp_path, openai, option):
    known = {**SIZES, "image_heads": 2, "vocab_size": 49_408}[option]
    message = f"model.{option}: {known + 1} is set, but the weights .* have {known}"
    with pytest.raises(UserError, match=message):
        build_clip(save(openai, tmp_path / "weights.pt"), image_size=(64, 64), **{option: known + 1})


def test_other_image_sizes_and_text_lengths_are_built_from_the_weights(tmp_path, openai, ours):
    path = save(openai, tmp_path / "weights.pt")
    model, tokenizer, processor = build_clip(path, image_size=(384, 128), text_length=50)
    assert model.visual.positional_embedding.shape == (1 + 24 * 8, 128)
    assert model.text.positional_embedding.shape == (50, 64)
    assert torch.equal(model.visual.positional_embedding[0], ours["visual.positional_embedding"][0])
    with torch.no_grad():
        assert model.encode_image(torch.randn(1, 3, 384, 128)).shape == (1, 32)
        assert model.encode_text(tokenizer(["a red " * 60])).shape == (1, 32)
    assert processor.image_size == (384, 128)


def test_image_positions_are_resized_bilinearly_by_rows_and_columns_and_keep_the_class():
    grid = torch.tensor([[0.0, 1.0, 2.0], [10.0, 11.0, 12.0]])
    positions = torch.cat([torch.tensor([-7.0]), grid.flatten()])[:, None]
    resized = resize_image_positions(positions, (2, 3), (4, 3))
    rows = torch.tensor([0.0, 2.5, 7.5, 10.0])
    assert resized[0].item() == -7
    torch.testing.assert_close(resized[1:, 0].view(4, 3), rows[:, None] + torch.arange(3.0))


@pytest.mark.parametrize("length", [3, 7, 20, 168])
def test_text_positions_are_resized_linearly_and_keep_the_first_and_the_last(length):
    positions = torch.stack([torch.arange(11.0), 5 - torch.arange(11.0)], dim=1)
    resized = resize_text_positions(positions, length)
    line = torch.linspace(0, 10, length)
    torch.testing.assert_close(resized, torch.stack([line, 5 - line], dim=1))


BIAS = "transformer.resblocks.1.attn.in_proj_bias"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("visual.conv1.weight", "lacks 'visual.conv1.weight'"),
        (BIAS, f"'text.{BIAS}'"),
        ("logit_scale", "lacks 1 of CLIP's tensors .first: 'logit_scale'"),
        ({"extra": torch.zeros(1)}, "1 unexpected tensors .first: 'extra'"),
        ({"visual.proj": torch.zeros(5, 5)}, r"'visual.proj' of shape \(5, 5\); \(128, 32\)"),
        ({"visual.conv1.weight": torch.zeros(3)}, r"'visual.conv1.weight' of shape \(3,\)"),
        ({"text.ln_final.bias": torch.zeros(64)}, "'text.ln_final.bias' under two names"),
    ],
)
def test_a_tensor_missing_unexpected_or_of_another_shape_is_named(tmp_path, openai, change, message):
    added = {} if isinstance(change, str) else change
    state = {name: tensor for name, tensor in openai.items() if name != change} | added
    with pytest.raises(UserError, match=message):
        load_clip_weights(save(state, tmp_path / "weights.pt"))


def evil_torchscript(evil: Creates, path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ViT/data.pkl", pickle.dumps({"weight": evil}, protocol=2))
        archive.writestr("ViT/constants.pkl", pickle.dumps(()))


@pytest.mark.parametrize(
    "write",
    [
        evil_torchscript,
        lambda evil, path: torch.save({"model": evil}, path),
        lambda evil, path: torch.save({"model": evil}, path, _use_new_zipfile_serialization=False),
        lambda evil, path: path.write_bytes(pickle.dumps({"model": evil}, protocol=2)),
    ],
)
def test_a_file_that_would_run_something_is_refused_and_runs_nothing(tmp_path, write):
    victim, path = tmp_path / "created", tmp_path / "weights.pt"
    write(Creates(victim), path)
    with pytest.raises(UserError, match=r"weights.pt' is (refused|damaged)") as refusal:
        load_clip_weights(path)
    assert "\n" not in str(refusal.value)
    assert not victim.exists()


def test_the_forbidden_global_of_an_archive_is_named(tmp_path):
    evil_torchscript(Creates(tmp_path / "created"), tmp_path / "ViT.pt")
    with pytest.raises(UserError, match=r"refused: it asks for '(posix|nt)\.mkdir', which no weights need"):
        load_clip_weights(tmp_path / "ViT.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist. OpenAI's are at https://openaipublic.*model.clip_pretrained=null"),
        (b"", "damaged or holds no weights"),
        (b"no weights at all\n" * 99, "damaged or holds no weights"),
        (bytes(8) + b"{", "damaged or holds no weights"),
        (b"PK\x03\x04" + bytes(99), "damaged or holds no weights"),
    ],
)
def test_a_file_of_something_else_is_one_line_for_the_user(tmp_path, content, message):
    path = tmp_path / "weights.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=f"weights '.*weights.pt' .*{message}") as error:
        build_clip(path)
    assert "\n" not in str(error.value)


def test_a_folder_and_a_list_are_no_weights(tmp_path):
    with pytest.raises(UserError, match=r"neither a config.json nor .* of type 'clip'"):
        load_clip_weights(tmp_path)
    with pytest.raises(UserError, match="holds a list; a state dict is expected"):
        load_clip_weights(save([1, 2], tmp_path / "list.pt"))


@pytest.mark.parametrize("kind", ["torchscript", "state dict", "old state dict", "safetensors"])
def test_a_truncated_file_is_damaged(tmp_path, openai, ours, kind):
    path = FORMATS[kind](openai, ours, tmp_path / "weights")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match="damaged or holds no weights"):
        load_clip_weights(path)


@pytest.mark.parametrize("kind", ["torchscript", "state dict"])
def test_one_flipped_bit_among_the_numbers_is_damage(tmp_path, openai, ours, kind):
    path = FORMATS[kind](openai, ours, tmp_path / "weights")
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    content[largest.header_offset + largest.file_size // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"damaged: the checksum of '.*/data/.*' in it does not match"):
        load_clip_weights(path)
