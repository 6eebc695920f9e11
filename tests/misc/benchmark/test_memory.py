"""What a step keeps for its backward pass, counted without computing, against what a block needs."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from misc.benchmark.memory import Needs, main, needs
from model import build_model
from options import load_options
from tests.helpers.tiny import IMAGE_SIZE, NUM_PERSONS, SIZES, tiny_model

WIDTH, HEADS, TOKENS = 16, 2, 1 + 2  # of SIZES: two patches of 8 x 8
FULL, SIMPLIFIED = "config/config.yaml", "config/s.config.yaml"
assert (SIZES["model.image_width"], SIZES["model.image_heads"], IMAGE_SIZE) == (WIDTH, HEADS, (16, 8))


def counted(layers: int, dtype: torch.dtype, checkpoints: bool = False, recipe: str = SIMPLIFIED) -> Needs:
    settings = SIZES | {"model.image_layers": layers}
    options = load_options(recipe, [f"{key}={value}" for key, value in settings.items()])
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = build_model(options, NUM_PERSONS)[0].train()
        return needs(model, options, dtype, checkpoints)


def of_a_block(dtype: torch.dtype, checkpoints: bool = False) -> int:
    """Bytes that one more block of the image tower keeps of a sample."""
    return counted(4, dtype, checkpoints).sample - counted(3, dtype, checkpoints).sample


def block(sums: int, others: int) -> int:
    """Of so many bytes a number: x and the sum in its midst; q k v, what is attended to, the hidden layer."""
    return TOKENS * (sums * WIDTH * 2 + others * WIDTH * (3 + 1 + 4) + 4 * HEADS)  # softmax: fp32, of a head


def test_a_block_keeps_two_sums_the_attention_and_the_hidden_layer() -> None:
    assert of_a_block(torch.float32) == block(4, 4)


def test_in_half_precision_the_sums_alone_stay_fp32() -> None:
    assert of_a_block(torch.bfloat16) == block(4, 2)


def test_with_checkpoints_a_block_keeps_its_input_and_one_is_computed_anew() -> None:
    assert of_a_block(torch.float32, checkpoints=True) == TOKENS * 4 * WIDTH
    plain, lean = counted(60, torch.float32), counted(60, torch.float32, checkpoints=True)
    inputs = 59 * TOKENS * 4 * WIDTH
    # the last block, and the small text tower, keep something of their own
    assert lean.part == pytest.approx(inputs + block(4, 4), rel=0.05)
    assert plain.part == pytest.approx(59 * block(4, 4), rel=0.05)


def test_a_part_keeps_one_view_at_a_time_or_the_captions() -> None:
    full, simplified = (counted(9, torch.float32, recipe=recipe) for recipe in (FULL, SIMPLIFIED))
    assert full.part == simplified.part
    assert full.sample - simplified.sample == 3 * full.part


def test_model_gradients_and_moments_are_held() -> None:
    found = counted(2, torch.float32)
    parameters = list(tiny_model({}, SIMPLIFIED).parameters())
    assert any(not p.requires_grad for p in parameters)
    assert found.held == 4 * sum(p.numel() * (4 if p.requires_grad else 1) for p in parameters)
    assert found.copies == 0


def test_it_prints_a_row_for_each_way(capsys: pytest.CaptureFixture[str]) -> None:
    tiny = [f"{key}={value}" for key, value in SIZES.items()]
    assert main(tiny) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + 2 * 2 * 2
    for mistake, complaint in {
        "model.width=3": "model.width: no such option",
        "experiment.mlm=true": "counted are CLIP's towers",
        "model.backbone=altclip": "counted are CLIP's towers",
    }.items():
        assert main([*tiny, mistake]) == 2
        assert capsys.readouterr().err.startswith(f"error: {complaint}")
