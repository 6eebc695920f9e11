"""The mismatch of tokens and patches, against a plain computation, for the towers of every kind."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from data.types import Batch
from model import build_model
from model.mismatch import Mismatch
from model.tbps import TBPS
from options import LOSSES, UserError, load_options
from tests.helpers.gradients import assert_same_gradients, in_parts, whole
from tests.helpers.tiny import ALL_OFF, LENGTH, tiny_batch, tiny_model

Folder = Callable[[str], Path]
NOISE_AWARE = ALL_OFF | {"experiment.sdm": True, "experiment.mask_captions": "noise-aware"}
RANDOM = NOISE_AWARE | {"experiment.mask_captions": "random"}


def masked_batch() -> Batch:
    """Whose captions are the masked ones, with the whole words as labels."""
    batch = tiny_batch()
    batch.tokens, batch.masked_tokens = batch.masked_tokens, None
    return batch


def by_hand(words: torch.Tensor, patches: torch.Tensor) -> list[np.ndarray]:
    """1 - the largest cosine of each token, row by row, of the tokens of two towers."""
    found = []
    for row, image in zip(words.detach().double().numpy(), patches.detach().double().numpy(), strict=True):
        cosines = [[t @ v / (np.linalg.norm(t) * np.linalg.norm(v)) for v in image] for t in row]
        found.append(1 - np.max(cosines, axis=1))
    return found


def test_it_is_one_minus_the_largest_cosine_of_the_whole_captions_after_a_block() -> None:
    model, batch = tiny_model(NOISE_AWARE | {"experiment.mask_block": -2}), masked_batch()
    found = model(batch, 0.0).mismatch
    assert found.shape == (8, LENGTH + 2)
    assert not found.requires_grad
    for tower in (model.clip.visual, model.clip.text):  # that ends with the block
        tower.transformer.resblocks = tower.transformer.resblocks[:-1]
    whole_captions = tiny_batch().tokens
    _, words = model.clip.encode_text(whole_captions, return_dense=True)
    _, patches = model.clip.encode_image(batch.images["view1"], return_dense=True)
    rows = zip(found.numpy(), by_hand(words, patches[:, 1:]), whole_captions["attention_mask"], strict=True)
    for row, expected, mask in rows:
        length = int(mask.sum())
        np.testing.assert_allclose(row[:length], expected[:length], atol=1e-5)
        assert not row[length:].any()


@pytest.mark.parametrize(
    "more", [{}, {"experiment.mlm": True}, {"experiment.ss": True, "experiment.nitc": True}]
)
def test_it_changes_no_loss_and_no_gradient_and_parts_of_a_batch_have_their_share(
    more: dict[str, bool],
) -> None:
    block = {"experiment.mask_block": 0}
    wanted, gradients = whole(tiny_model(RANDOM | more), masked_batch())
    output, found = whole(tiny_model(NOISE_AWARE | block | more), masked_batch())
    assert torch.equal(output.total, wanted.total)
    assert_same_gradients(found, gradients)
    assert wanted.mismatch is None
    again, found = in_parts(tiny_model(NOISE_AWARE | block | more), masked_batch(), num_parts=3)
    assert_same_gradients(found, gradients)
    torch.testing.assert_close(again.mismatch, output.mismatch)


def test_it_is_told_without_dropout_and_without_a_draw() -> None:
    settings = NOISE_AWARE | {"experiment.mask_block": 0, "experiment.dropout": 0.5}
    model, batch = tiny_model(settings), masked_batch()
    first, second = (model(batch, 0.0) for _ in range(2))
    assert torch.equal(first.mismatch, second.mismatch)
    assert not torch.equal(first.total, second.total)
    torch.manual_seed(3)
    before = model(batch, 0.0).total
    model.mismatch = None
    torch.manual_seed(3)
    assert torch.equal(model(batch, 0.0).total, before)


KINDS = (
    "plain",
    "class token",
    "attention pooling",
    "average",
    "siglip2",
    "chinese_clip",
    "metaclip_2",
    "altclip",
)


@pytest.fixture
def build(open_clip_folder: Folder, families: Folder, folder: Path) -> Callable[..., tuple[TBPS, Batch]]:
    def build_one(kind: str, **more: object) -> tuple[TBPS, Batch]:
        backbone = "transformers" if kind in ("siglip2", "chinese_clip", "metaclip_2") else "open_clip"
        weights = (
            {
                f"model.{backbone}_pretrained": (
                    families if backbone == "transformers" else open_clip_folder
                )(kind)
            }
            if kind != "altclip"
            else {"model.altclip_pretrained": folder}
        )
        settings = {f"experiment.{name}": name == "sdm" for name in LOSSES} | weights
        settings |= {
            "model.backbone": "altclip" if kind == "altclip" else backbone,
            "data.image_size": [64, 32],
        }
        settings |= {"experiment.mask_captions": "noise-aware", "experiment.mask_block": 0}
        torch.manual_seed(0)
        settings |= {key.replace("__", "."): value for key, value in more.items()}
        options = load_options("config/s.config.yaml", [f"{key}={value}" for key, value in settings.items()])
        model, tokenizer, processor = build_model(options, 4)
        tokens = tokenizer(["a man", "a woman in a long red coat", ""])
        images = torch.randn(3, 3, *processor.image_size)
        labels = torch.full_like(tokens["input_ids"], -100)
        people = torch.tensor([0, 1, 2])
        return model.eval(), Batch({"view1": images}, tokens, people, people, mlm_labels=labels)

    return build_one


@pytest.mark.parametrize("kind", KINDS)
def test_after_the_last_block_the_tokens_are_those_of_the_tower(
    build: Callable[..., tuple[TBPS, Batch]], kind: str
) -> None:
    model, batch = build(kind)
    model.mismatch = Mismatch(model.clip, -1, 77)
    found = model(batch, 0.0).mismatch
    _, words = model.clip.encode_text(batch.tokens, return_dense=True)
    _, patches = model.clip.encode_image(batch.images["view1"], return_dense=True)
    for row, expected, mask in zip(
        found, by_hand(words, patches[:, 1:]), batch.tokens["attention_mask"], strict=True
    ):
        length = int(mask.sum())
        np.testing.assert_allclose(row[:length].numpy(), expected[:length], atol=1e-4)


def test_losses_without_use_for_it_are_refused() -> None:
    with pytest.raises(UserError, match=r"experiment\.mask_captions=noise-aware .* do not read both"):
        tiny_model(NOISE_AWARE | {"experiment.sdm": False, "experiment.ss": True, "experiment.mask_block": 0})


def test_towers_that_do_not_show_the_block_are_refused(build: Callable[..., tuple[TBPS, Batch]]) -> None:
    with pytest.raises(UserError, match=r"experiment\.mask_captions=noise-aware .*model\.backbone=open_clip"):
        build("batch norm")
    with pytest.raises(UserError, match=r"experiment\.mask_block: .* have \d \(images\) and .* found 12"):
        build("siglip2", experiment__mask_block=12)
    with pytest.raises(UserError, match=r"model\.compile and experiment\.mask_captions"):
        build("siglip2", model__compile=True, model__grad_checkpointing=False)
