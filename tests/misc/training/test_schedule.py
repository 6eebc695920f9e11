"""Learning rate, soft label and parameter groups."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from misc.training.optimizer import build_optimizer, set_learning_rate
from misc.training.schedule import Schedule
from options import UserError
from tests.helpers.tiny import tiny_model

PAPER = Schedule(
    lr_start=1e-6,
    lr=1e-4,
    lr_end=5e-6,
    warmup_steps=212,
    total_steps=5 * 212,
    soft_label=0.5,
    steps_per_epoch=212,
)


def test_the_rates_of_two_epochs_of_three_steps_are_those_of_the_release() -> None:
    schedule = Schedule(1e-6, 1e-4, 5e-6, warmup_steps=3, total_steps=6, soft_label=0.5, steps_per_epoch=3)
    rates = [schedule.learning_rate(step) for step in range(6)]
    assert rates == pytest.approx([1.0e-6, 5.05e-5, 1.0e-4, 1.0e-4, 7.625e-5, 2.875e-5])


def test_the_rates_of_the_paper_follow_a_line_and_then_a_cosine_that_would_end_after_the_last_step() -> None:
    warmup = np.linspace(1e-6, 1e-4, 212)
    turn = np.linspace(0, np.pi, 4 * 212 + 1)[:-1]
    expected = [*warmup, *(5e-6 + 95e-6 * np.cos(turn / 2) ** 2)]  # (1 + cos x) / 2 = cos(x / 2) squared
    assert [PAPER.learning_rate(step) for step in range(1060)] == pytest.approx(expected)


def test_the_soft_label_rises_over_epoch_1_and_stays() -> None:
    shares = [PAPER.soft_label_ratio(step) for step in (0, 53, 106, 212, 1059)]
    assert shares == pytest.approx([0, 0.125, 0.25, 0.5, 0.5])


@pytest.mark.parametrize(("warmup", "total"), [(0, 1), (0, 5), (1, 5), (5, 5), (5, 6), (10, 5)])
def test_short_runs_have_a_finite_rate_in_every_step(warmup: int, total: int) -> None:
    schedule = Schedule(1e-6, 1e-4, 5e-6, warmup, total, 0.5, 5)
    for step in range(total):
        assert 1e-6 <= schedule.learning_rate(step) <= 1e-4
        assert math.isfinite(schedule.soft_label_ratio(step))


def test_decay_spares_biases_norms_and_frozen_parameters_have_no_group() -> None:
    model = nn.ModuleDict({"linear": nn.Linear(3, 2), "norm": nn.LayerNorm(2), "frozen": nn.Linear(4, 4)})
    model.scale = nn.Parameter(torch.tensor(1.0))
    model["frozen"].requires_grad_(False)
    optimizer = build_optimizer(model, weight_decay=0.02, betas=(0.8, 0.9), eps=1e-7)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    expected = {id(model["linear"].weight): 0.02, id(model["linear"].bias): 0.0, id(model.scale): 0.0}
    expected |= {id(model["norm"].weight): 0.0, id(model["norm"].bias): 0.0}
    assert decay == expected
    set_learning_rate(optimizer, 0.25)
    assert {group["lr"] for group in optimizer.param_groups} == {0.25}
    assert {(*group["betas"], group["eps"]) for group in optimizer.param_groups} == {(0.8, 0.9, 1e-7)}


def test_a_step_is_that_of_the_adamw_formula() -> None:
    parameter = nn.Parameter(torch.tensor([[1.0, -2.0]]))
    module = nn.Module()
    module.weight = parameter
    optimizer = build_optimizer(module, weight_decay=0.1, betas=(0.9, 0.98), eps=1e-8)
    set_learning_rate(optimizer, 0.01)
    parameter.grad = torch.tensor([[0.5, -3.0]])
    optimizer.step()
    # First step: the bias-corrected moments are g and g^2, so the update is lr * sign(g) after the decay.
    expected = torch.tensor([[1.0, -2.0]]) * (1 - 0.01 * 0.1) - 0.01 * torch.tensor([[1.0, -1.0]])
    torch.testing.assert_close(parameter.detach(), expected)


def test_the_heads_of_mlm_and_id_train_at_their_own_rate_and_the_norms_around_do_not() -> None:
    model = tiny_model({"experiment.mlm": True, "experiment.id": True, "experiment.ss_text": True})
    optimizer = build_optimizer(model, 0.02, fast=model.fast_parameters(), ratio_factor=5.0)
    set_learning_rate(optimizer, 1e-3)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    slow = ("clip.", "simclr_mlp", "mlm_head.ln_pre_t.", "mlm_head.ln_pre_i.", "mlm_head.ln_post.")
    seen = set()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            expected = 1e-3 if name.startswith(slow) else 5e-3
            assert rates[id(parameter)] == pytest.approx(expected), name
            seen.add((name.split(".")[0], expected))
    assert {("mlm_head", 5e-3), ("mlm_head", 1e-3), ("classifier", 5e-3), ("simclr_mlp_text", 1e-3)} <= seen


def test_moments_are_loaded_and_the_options_rates_and_decays_stay() -> None:
    module = nn.Linear(2, 2)
    old = build_optimizer(module, weight_decay=0.5, betas=(0.5, 0.5))
    set_learning_rate(old, 0.1)
    module(torch.ones(1, 2)).sum().backward()
    old.step()
    state = old.state_dict()
    for group in state["param_groups"]:
        del group["lr_factor"]  # as checkpoints of earlier versions are
    new = build_optimizer(
        module, weight_decay=0.02, betas=(0.9, 0.98), fast=[module.weight], ratio_factor=5.0
    )
    with pytest.raises(UserError, match=r"resume: .* keep the losses"):
        new.load_state_dict({"state": {}, "param_groups": [{"params": [0, 1]}]})
    new.load_state_dict(state | {"param_groups": state["param_groups"][::-1]})
    set_learning_rate(new, 0.1)
    assert sorted(group["lr"] for group in new.param_groups) == pytest.approx([0.1, 0.5])
    assert {group["betas"] for group in new.param_groups} == {(0.9, 0.98)}
    assert sorted(group["weight_decay"] for group in new.param_groups) == [0.0, 0.02]
    assert all(new.state[p]["exp_avg"].any() for p in module.parameters())
