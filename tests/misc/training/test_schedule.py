"""Learning rate, soft label and parameter groups."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from misc.training.optimizer import build_optimizer, set_learning_rate
from misc.training.schedule import Schedule, build_schedule
from options import ScheduleOptions, load_options, to_dict
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


def by_epoch(*overrides: str) -> Schedule:
    """Of IRRA's rates, in epochs of 7 steps."""
    irra = ["lr=1e-5", "lr_start=1e-6", "lr_end=0", "epoch=60", "epoch_warmup=5", "rate_per=epoch"]
    options = load_options("config/config.yaml", [f"schedule.{setting}" for setting in [*irra, *overrides]])
    return build_schedule(to_dict(options)["schedule"], 0.5, 7)


def test_a_rate_by_epoch_is_that_of_irra_in_every_step_of_an_epoch() -> None:
    cosine = [1e-5 * math.cos(math.pi * t / 110) ** 2 for t in range(55)]  # (1 + cos x) / 2 = cos(x / 2)^2
    wanted = [1.0e-6, 2.8e-6, 4.6e-6, 6.4e-6, 8.2e-6, *cosine]
    schedule = by_epoch()
    rates = [schedule.learning_rate(step) for step in range(60 * 7)]
    assert rates == pytest.approx([rate for rate in wanted for _ in range(7)])
    assert len(set(rates)) == 60
    assert schedule.soft_label_ratio(3) == pytest.approx(0.5 * 3 / 7), "it still rises from step to step"


def test_a_rate_by_epoch_may_have_any_length_of_warm_up() -> None:
    schedule = by_epoch("epoch=5", "epoch_warmup=1.5")
    wanted = [1e-6, 1e-6 + 9e-6 / 1.5, *(1e-5 * math.cos(math.pi * t / 7) ** 2 for t in (0.5, 1.5, 2.5))]
    assert [schedule.learning_rate(7 * epoch) for epoch in range(5)] == pytest.approx(wanted)
    for warmup in ("0", "5", "4.7", "9"):
        rates = [by_epoch("epoch=5", f"epoch_warmup={warmup}").learning_rate(step) for step in range(36)]
        assert all(0 <= rate <= 1e-5 for rate in rates)
        assert rates[0] == (1e-6 if warmup != "0" else 1e-5)


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
    optimizer = build_optimizer(model, ScheduleOptions(weight_decay=0.02, betas=(0.8, 0.9), eps=1e-7))
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
    optimizer = build_optimizer(module, ScheduleOptions(weight_decay=0.1, betas=(0.9, 0.98), eps=1e-8))
    set_learning_rate(optimizer, 0.01)
    parameter.grad = torch.tensor([[0.5, -3.0]])
    optimizer.step()
    # First step: the bias-corrected moments are g and g^2, so the update is lr * sign(g) after the decay.
    expected = torch.tensor([[1.0, -2.0]]) * (1 - 0.01 * 0.1) - 0.01 * torch.tensor([[1.0, -1.0]])
    torch.testing.assert_close(parameter.detach(), expected)


def test_the_heads_of_mlm_and_id_train_at_their_own_rate_and_the_norms_around_do_not() -> None:
    model = tiny_model({"experiment.mlm": True, "experiment.id": True, "experiment.ss_text": True})
    optimizer = build_optimizer(model, ScheduleOptions(ratio_factor=5.0), model.objectives.values())
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
