"""What a step keeps for its backward pass, counted without computing, against what a block needs."""

from functools import cache

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from misc.benchmark.flops import computed_flops
from misc.benchmark.memory import Needs, faked, main, needs
from model import build_model
from options import load_options
from tests.helpers.tiny import IMAGE_SIZE, NUM_PERSONS, SIZES, tiny_model

WIDTH, HEADS, TOKENS, LENGTH = 16, 2, 1 + 2, 12  # of SIZES: two patches of 8 x 8
FULL, SIMPLIFIED = "config/config.yaml", "config/s.config.yaml"
LEAN = SIZES | {"model.text_width": 4, "model.text_layers": 1}  # images need more than captions
assert (SIZES["model.image_width"], SIZES["model.image_heads"], IMAGE_SIZE) == (WIDTH, HEADS, (16, 8))


@cache
def counted(layers: int, dtype: torch.dtype, checkpoints: bool = False, recipe: str = SIMPLIFIED) -> Needs:
    settings = LEAN | {"model.image_layers": layers, "model.grad_checkpointing": str(checkpoints).lower()}
    options = load_options(recipe, [f"{key}={value}" for key, value in settings.items()])
    model = build_model(options, NUM_PERSONS)[0].train()
    fake = FakeTensorMode()
    model = faked(model, fake)
    with fake:
        return needs(model, IMAGE_SIZE, LENGTH, dtype, checkpoints)


def of_a_block(dtype: torch.dtype, checkpoints: bool = False) -> int:
    """Bytes that one more block of the image tower keeps of a sample."""
    three, two = counted(3, dtype, checkpoints), counted(2, dtype, checkpoints)
    assert three.part - two.part == three.sample - two.sample  # of a row of a part: the same
    return three.sample - two.sample


def block(sums: int, others: int) -> int:
    """By bytes per element: of x and the first sum; of q k v, the attention's output and the hidden layer."""
    return TOKENS * (sums * WIDTH * 2 + others * WIDTH * (3 + 1 + 4) + 4 * HEADS)  # softmax: fp32, of a head


def test_a_block_keeps_two_sums_the_attention_and_the_hidden_layer() -> None:
    assert of_a_block(torch.float32) == block(4, 4)
    assert (
        0 < counted(3, torch.float32).part - 2 * block(4, 4) < block(4, 4)
    )  # the last: of one token, in part


def test_in_half_precision_the_sums_alone_stay_fp32() -> None:
    assert of_a_block(torch.bfloat16) == block(4, 2)


def test_with_checkpoints_a_block_keeps_its_input_and_one_is_recomputed() -> None:
    inputs = TOKENS * 4 * WIDTH
    assert of_a_block(torch.float32, checkpoints=True) == inputs
    found = counted(3, torch.float32, checkpoints=True)
    assert 0 < found.part - 2 * inputs - block(4, 4) < 2 * inputs  # what lies below and above the blocks


def test_a_part_keeps_one_view_at_a_time_or_the_captions() -> None:
    full, simplified = (counted(3, torch.float32, recipe=recipe) for recipe in (FULL, SIMPLIFIED))
    assert full.part == simplified.part
    of_simclr = full.sample - simplified.sample - 3 * full.part
    assert 0 < of_simclr < full.part / 20


def test_model_gradients_and_moments_are_held() -> None:
    found = counted(2, torch.float32)
    parameters = list(tiny_model(LEAN | {"model.image_layers": 2}, SIMPLIFIED).parameters())
    assert any(not p.requires_grad for p in parameters)
    assert found.held == 4 * sum(p.numel() * (4 if p.requires_grad else 1) for p in parameters)
    assert found.copies == 0


def test_a_block_more_costs_its_products_forward_and_twice_in_backward() -> None:
    three, two = (counted(layers, torch.float32).flops for layers in (3, 2))
    products = TOKENS * (3 + 1 + 4 + 4) * WIDTH * WIDTH + 2 * TOKENS * TOKENS * WIDTH
    assert three - two == pytest.approx(3 * 2 * products, rel=0.1)  # the backward pass may recompute scores


@pytest.mark.parametrize("groups", [1, 6])
def test_a_convolution_costs_twice_as_much_backward_with_groups_too(groups: int) -> None:
    convolution = nn.Conv2d(6, 6, 3, padding=1, groups=groups)
    image = torch.ones(2, 6, 5, 4, requires_grad=True)
    assert computed_flops(lambda: convolution(image).sum().backward()) == 3 * 2 * (2 * 6 * 5 * 4) * (
        6 // groups * 9
    )


def test_it_prints_a_row_for_each_combination(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "misc.benchmark.memory.needs", lambda *_: Needs(10**9, 10**9, 10**8, 25 * 10**6, 3 * 10**9)
    )
    tiny = [f"{key}={value}" for key, value in LEAN.items()]
    assert main(tiny) == 0
    _, *rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 4 * 2 * 2
    for row in rows:
        words = row.replace("bf16, fp16", "bf16").split()
        assert words[3:] == ["2.00", "GB", "100.0", "MB", "25.0", "MB", "3.0", "80", "200", "440"]
    for mistake, complaint in {
        "model.width=3": "model.width: no such option",
        "experiment.mlm=true": "only the towers of clip or open_clip can be counted",
        "model.backbone=altclip": "only the towers of clip or open_clip can be counted",
    }.items():
        assert main([*tiny, mistake]) == 2
        assert capsys.readouterr().err.startswith(f"error: {complaint}")
