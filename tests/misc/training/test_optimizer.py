"""Rates and decay by the kind of a parameter, Adam's update, and states of other groups."""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import nn

from misc.training.optimizer import build_optimizer, set_learning_rate
from options import ScheduleOptions, UserError
from tests.helpers.tiny import ALL_OFF, tiny_model

PEAK = 1e-5
IRRA = ScheduleOptions(
    lr=PEAK, optimizer="adam", weight_decay=4e-5, decay_on="all_but_biases", ratio_factor=5.0, bias_factor=2.0
)
ALL_HEADS = ALL_OFF | {f"experiment.{name}": True for name in ("sdm", "id", "cid", "mlm", "ss_text", "tse")}
ALL_HEADS |= {"experiment.id_on": "all"}
OF_ITSELF = {  # the others have those of IRRA
    "cid_head.pooled.mlp.": "mlp_global.",
    "cid_head.pooled.classifier.": "classifier_global.",
    "cid_head.tse_head.mlp.": "mlp_grab.",
    "cid_head.tse_head.classifier.": "classifier_grab.",
    "classifier.tse_head.": "classifier_id_grab.",
}


def irra_name(name: str) -> str:
    """The name in IRRA's release: its cross-modal part lies beside the head, which is its last layers; or in
    ITSELF's.
    """
    for ours, theirs in OF_ITSELF.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    first, _, rest = name.partition(".")
    is_inner = first == "mlm_head" and rest.startswith(("cross_", "ln_"))
    return rest if is_inner else name.replace("clip.", "base_model.")


def by_the_releases_rule(name: str, peak: float, own: float | None) -> tuple[float, float]:
    """(rate, decay), read off the name: a later line wins; `own`: of RDE's two layers that select tokens."""
    rate, decay = peak, 4e-5
    if "cross" in name:
        rate = peak * 5
    if "bias" in name:
        rate, decay = peak * 2, 0.0
    if "classifier" in name or "mlm_head" in name:
        rate = peak * 5
    if "tse_head" in name and own:
        rate = own
    return rate, decay


def settings(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, tuple[float, float]]:
    """The rate and the decay of each parameter that has a group, by its name in the model."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def assert_settings(found: dict[str, tuple[float, float]], wanted: dict[str, tuple[float, float]]) -> None:
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        assert found[name] == pytest.approx(values, rel=1e-12), name


@pytest.mark.parametrize(("own", "num_groups"), [(1e-3, 6), (None, 4)])
@pytest.mark.parametrize("share", [1.0, 0.28])
def test_the_releases_names_have_their_rates_and_decays_in_few_groups(
    own: float | None, num_groups: int, share: float
) -> None:
    model = tiny_model(ALL_HEADS)
    model.clip.visual.conv1.requires_grad_(False)
    optimizer = build_optimizer(model, dataclasses.replace(IRRA, tse_lr=own), model.objectives.values())
    set_learning_rate(optimizer, share * PEAK)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    names = {name: irra_name(name) for name in trained}
    wanted = {n: by_the_releases_rule(names[n], share * PEAK, own and share * own) for n in trained}
    assert_settings(settings(optimizer, model), wanted)
    assert len(set(wanted.values())) == len(optimizer.param_groups) == num_groups
    parts = {name.partition(".")[0] for name in names.values()}
    assert parts >= {
        "base_model",
        "cross_attn",
        "cross_modal_transformer",
        "ln_post",
        "mlm_head",
        "classifier",
    }
    assert parts >= {"simclr_mlp_text", "tse_head"}
    assert "clip.visual.conv1.weight" not in trained


@pytest.mark.parametrize(("decay_on", "is_spared"), [("matrices", True), ("all_but_biases", False)])
def test_norms_and_scalars_decay_with_all_but_biases_alone(decay_on: str, is_spared: bool) -> None:
    model = nn.ModuleDict(
        {"norm": nn.LayerNorm(2), "words": nn.Embedding(3, 2), "attn": nn.MultiheadAttention(2, 1)}
    )
    model.scale = nn.Parameter(torch.tensor(1.0))
    found = settings(build_optimizer(model, ScheduleOptions(decay_on=decay_on, weight_decay=0.5)), model)
    spared = {name for name, (_, decay) in found.items() if not decay}
    biases = {"norm.bias", "attn.in_proj_bias", "attn.out_proj.bias"}
    assert spared == (biases | {"norm.weight", "scale"} if is_spared else biases)


@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_updates_are_those_of_the_formula_with_coupled_or_decoupled_decay(kind: str) -> None:
    model = nn.Module()
    model.weight = nn.Parameter(torch.tensor([[1.0, -2.0]]))
    schedule = ScheduleOptions(optimizer=kind, weight_decay=0.3, betas=(0.9, 0.999), eps=1e-3)
    optimizer = build_optimizer(model, schedule)
    values, first, second = [1.0, -2.0], [0.0, 0.0], [0.0, 0.0]
    for step, gradient in enumerate(([0.5, -3.0], [0.01, 2.0], [-0.4, 0.0]), start=1):
        set_learning_rate(optimizer, 0.1 / step)
        model.weight.grad = torch.tensor([gradient])
        optimizer.step()
        for n in range(2):
            g = gradient[n] + (0.3 * values[n] if kind == "adam" else 0.0)
            first[n] = 0.9 * first[n] + 0.1 * g
            second[n] = 0.999 * second[n] + 0.001 * g * g
            rise = math.sqrt(second[n] / (1 - 0.999**step)) + 1e-3
            decay = 0.1 / step * 0.3 * values[n] if kind == "adamw" else 0.0
            values[n] -= 0.1 / step * first[n] / (1 - 0.9**step) / rise + decay
    assert model.weight[0].tolist() == pytest.approx(values, rel=1e-5)


def trained(names: Iterable[str]) -> nn.ModuleDict:
    return nn.ModuleDict({name: nn.Linear(2, 2) for name in names})


def state_after_a_step(model: nn.Module, schedule: ScheduleOptions) -> tuple[dict[str, Any], dict[str, Any]]:
    """The state of the optimizer, and each parameter's own moments."""
    optimizer = build_optimizer(model, schedule)
    for number, parameter in enumerate(model.parameters(), start=1):
        parameter.grad = torch.full_like(parameter, float(number))
    optimizer.step()
    return optimizer.state_dict(), {name: optimizer.state[p] for name, p in model.named_parameters()}


def test_moments_follow_their_parameters_into_other_groups_of_another_optimizer() -> None:
    model = trained("ab")
    state, moments = state_after_a_step(model, ScheduleOptions(weight_decay=0.5, betas=(0.5, 0.5)))
    schedule = ScheduleOptions(
        optimizer="adam", decay_on="all_but_biases", bias_factor=2.0, betas=(0.9, 0.98)
    )
    new = build_optimizer(model, schedule)
    new.load_state_dict(state)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(new.state[parameter], moments[name])
    assert {group["betas"] for group in new.param_groups} == {(0.9, 0.98)}
    set_learning_rate(new, 0.1)
    assert sorted(group["lr"] for group in new.param_groups) == pytest.approx([0.1, 0.2])
    assert sorted(group["weight_decay"] for group in new.param_groups) == [0.0, 0.02]


def test_a_state_of_other_parameters_is_refused() -> None:
    state, _ = state_after_a_step(trained("ab"), ScheduleOptions())
    for names in ("a", "abc", "ac"):
        with pytest.raises(UserError, match=r"resume: .* no '[bc].bias'; keep the losses"):
            build_optimizer(trained(names), ScheduleOptions()).load_state_dict(state)


def test_older_states_have_no_names_and_are_loaded_into_the_groups_they_were_of() -> None:
    model = tiny_model(ALL_OFF | {"experiment.sdm": True, "experiment.mlm": True})
    state, moments = state_after_a_step(model, ScheduleOptions())
    for group in state["param_groups"]:
        del group["names"], group["lr_factor"]
    new = build_optimizer(model, ScheduleOptions(weight_decay=0.1))
    new.load_state_dict(state)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(new.state[parameter], moments[name])
    assert sorted(group["weight_decay"] for group in new.param_groups) == [0.0, 0.1]
    with pytest.raises(UserError, match=r"resume: .* in groups of .* schedule.decay_on"):
        build_optimizer(model, ScheduleOptions(decay_on="all_but_biases")).load_state_dict(state)
