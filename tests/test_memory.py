"""What a step keeps for its backward pass, counted without computing, against what a block needs."""

import pytest
import torch
from tiny import IMAGE_SIZE, SIZES, tiny_model

from misc.benchmark.memory import main, needs
from options import load_options

WIDTH, HEADS, TOKENS = 16, 2, 1 + 2  # of SIZES: two patches of 8 x 8
assert (SIZES["model.image_width"], SIZES["model.image_heads"], IMAGE_SIZE) == (WIDTH, HEADS, (16, 8))


def growth(dtype: torch.dtype, **changes: object) -> float:
    """Bytes that one more block of the image tower keeps of a sample."""
    found = []
    for layers in (3, 4):
        settings = SIZES | changes | {"model.image_layers": layers}
        options = load_options("config/s.config.yaml", [f"{key}={value}" for key, value in settings.items()])
        found.append(1e9 * needs(options, dtype)[2])
    return found[1] - found[0]


def test_a_block_keeps_two_sums_the_attention_and_the_hidden_layer() -> None:
    kept = TOKENS * (4 * WIDTH * (1 + 3 + 1 + 1 + 4) + 4 * HEADS)  # x, q k v, attended, x, hidden; softmax
    assert growth(torch.float32) == pytest.approx(kept)


def test_in_half_precision_the_sums_alone_stay_fp32() -> None:
    kept = TOKENS * (4 * WIDTH * 2 + 2 * WIDTH * (3 + 1 + 4) + 4 * HEADS)
    assert growth(torch.bfloat16) == pytest.approx(kept)


def test_with_checkpoints_a_block_keeps_its_input() -> None:
    kept = TOKENS * 4 * WIDTH
    changes = {"model.grad_checkpointing": "true"}
    assert growth(torch.float32, **changes) == pytest.approx(kept)


def test_a_part_keeps_one_view_at_a_time_or_the_captions() -> None:
    settings = [f"{key}={value}" for key, value in (SIZES | {"model.image_layers": 9}).items()]
    full, simplified = (load_options(f"config/{name}", settings) for name in ("config.yaml", "s.config.yaml"))
    (*_, sample, part), (*_, sample_of_one_view, same) = (needs(o, torch.float32) for o in (full, simplified))
    assert part == pytest.approx(same)
    assert sample - sample_of_one_view == pytest.approx(3 * part)


def test_model_gradients_and_moments_are_held() -> None:
    options = load_options("config/s.config.yaml", [f"{key}={value}" for key, value in SIZES.items()])
    held, copies, *_ = needs(options, torch.float32)
    parameters = list(tiny_model({}, "config/s.config.yaml").parameters())
    numbers = sum(p.numel() * (4 if p.requires_grad else 1) for p in parameters)
    assert any(not p.requires_grad for p in parameters)
    assert held == pytest.approx(4 * numbers / 1e9)
    assert copies == pytest.approx(0, abs=1e-9)


def test_it_prints_a_row_for_each_way(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"{key}={value}" for key, value in SIZES.items()]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 2 * 2 * 2
    assert main(["model.width=3"]) == 2
    assert capsys.readouterr().err.startswith("error: model.width: no such option")
