"""A batch in parts, with or without kept activations, gives the gradients of the whole, for every family."""

import functools
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from data.types import Batch
from model import build_model
from model.protocol import Tokenizer
from model.tbps import TBPS
from options import LOSSES, UserError, load_options
from tests.helpers.gradients import assert_same_gradients, in_parts, whole

Folder = Callable[[str], Path]
Build = Callable[..., tuple[TBPS, Batch]]
KINDS = ("batch norm", "attention pooling", "siglip2", "chinese_clip")
CASES = ("nitc ritc", "sigmoid", "tal tse", "nitc mlm")
REFUSED = ("batch norm", "tal tse")
PAIRS = [pair for pair in itertools.product(KINDS, CASES) if pair != REFUSED]
SIZE = (64, 32)
CAPTIONS = [
    "a man",
    "a woman in a long red coat and black shoes carries a white bag over her left shoulder and walks on",
    "a man in a blue jacket",
    "a woman with a hat and a bag",
    "",
]


@functools.cache
def batch_of(tokenizer: Tokenizer) -> Batch:
    """Random images, and captions of many lengths, in which every third token is masked for MLM."""
    generator = torch.Generator().manual_seed(0)
    tokens, rows = tokenizer(CAPTIONS), len(CAPTIONS)
    ids, present = tokens["input_ids"], tokens["attention_mask"].bool()
    is_masked = present & (torch.arange(ids.shape[1]) % 3 == 1)
    masked = ids.masked_fill(is_masked, tokenizer.mask_token_id)
    return Batch(
        images={"view1": torch.randn(rows, 3, *SIZE, generator=generator)},
        tokens=tokens,
        person_ids=torch.tensor([0, 1, 0, 2, 3]),
        indices=torch.arange(rows),
        masked_tokens=tokens | {"input_ids": masked},
        mlm_labels=ids.masked_fill(~is_masked, -100),
    )


@pytest.fixture
def build(open_clip_folder: Folder, families: Folder) -> Build:
    """(kind, losses, option=value ...) -> a model with these losses alone, and a batch for it."""

    def build_one(kind: str, case: str, **others: object) -> tuple[TBPS, Batch]:
        of_transformers = kind in ("siglip2", "chinese_clip")
        backbone, weights = ("transformers", families) if of_transformers else ("open_clip", open_clip_folder)
        settings = {f"experiment.{name}": name in case.split() for name in LOSSES}
        settings |= {"model.backbone": backbone, f"model.{backbone}_pretrained": weights(kind)}
        settings |= {"data.image_size": list(SIZE), "experiment.tse_width": 12, "experiment.dropout": 0}
        settings |= {key.replace("__", "."): value for key, value in others.items()}
        torch.manual_seed(0)
        options = load_options("config/s.config.yaml", [f"{key}={value}" for key, value in settings.items()])
        model, tokenizer, _ = build_model(options, 4)
        return model.train(), batch_of(tokenizer)

    return build_one


@pytest.mark.parametrize(("kind", "case"), PAIRS)
def test_parts_and_recomputed_activations_give_the_gradients_of_the_whole_batch(
    build: Build, kind: str, case: str
) -> None:
    model, batch = build(kind, case)
    norms = [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]
    assert bool(norms) == (kind == "batch norm")
    assert not any(norm.training for norm in norms)
    output, wanted = whole(model, batch)
    assert output.total.isfinite()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == wanted.keys()
    assert ("clip.logit_bias" in wanted) == (case == "sigmoid")
    again, found = in_parts(build(kind, case)[0], batch, num_parts=3)
    assert_same_gradients(found, wanted)
    torch.testing.assert_close(again.total, output.total.detach())
    _, recomputed = whole(build(kind, case, model__grad_checkpointing=True)[0], batch)
    assert_same_gradients(recomputed, wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_frozen_parts_have_no_gradient_in_parts_either(build: Build, kind: str) -> None:
    model, batch = build(kind, "nitc", model__lock_image_blocks=1, model__lock_text_blocks=1)
    _, found = in_parts(model, batch, num_parts=2)
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == found.keys()
    assert len(found) < len(list(model.parameters()))


def test_towers_that_pool_by_no_attention_select_no_tokens(build: Build) -> None:
    with pytest.raises(UserError, match="it selects tokens by the attention of the last block"):
        build(*REFUSED)
