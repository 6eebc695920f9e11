"""The optimizer: AdamW or Adam, its parameters in a handful of groups by the kind of their rate and decay."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from misc.checkpoints.components import State
from model.objective import Objective
from options import ScheduleOptions, UserError

BASE, FAST, BIAS, OWN = range(4)  # kinds of rates; parameters of one kind and decay share a group


class _ByName(torch.optim.Optimizer):
    """An optimizer whose groups have the `names` of their parameters: the groups of a state may be others.

    The moments are the state's; rates, decays and betas stay those it was built with.
    """

    def load_state_dict(self, state: State) -> None:
        """Continue with the moments of `state`, which are of the same meaning in Adam and AdamW.

        Raises:
            UserError: the state is of other trained parameters.
        """
        groups = self.state_dict()["param_groups"]
        saved = [name for group in named_groups(state, groups) for name in group["names"]]
        own = [name for group in groups for name in group["names"]]
        if unknown := set(own) ^ set(saved):
            raise UserError(
                f"resume: the checkpoint trained {len(saved)} parameters, these options train {len(own)}: "
                f"one of the two has no '{min(unknown)}'; keep the losses and what is frozen (model.lock_*)"
            )
        position = {name: number for number, name in enumerate(saved)}
        places = [position[name] for name in own]
        moments = {n: state["state"][at] for n, at in enumerate(places) if at in state["state"]}
        super().load_state_dict({"state": moments, "param_groups": groups})


class AdamW(_ByName, torch.optim.AdamW):
    """AdamW: decoupled weight decay."""


class Adam(_ByName, torch.optim.Adam):
    """Adam: coupled weight decay, which is added to the gradient (L2)."""


KINDS: Mapping[str, type[AdamW | Adam]] = {"adamw": AdamW, "adam": Adam}


def named_groups(state: State, own: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The groups of a saved state, with the names of their parameters: in those of older checkpoints, which
    have none, they are the names of the groups `own`.

    Raises:
        UserError: a state without names has other groups.
    """
    groups = state["param_groups"]
    if all("names" in group for group in groups):
        return groups
    sizes, own_sizes = ([len(group["params"]) for group in each] for each in (groups, own))
    if sizes != own_sizes:
        raise UserError(
            f"resume: the checkpoint trained {sum(sizes)} parameters in groups of {sizes}, these options "
            f"train {own_sizes}; keep the losses, what is frozen (model.lock_*), schedule.decay_on and "
            "schedule.bias_factor"
        )
    return [{**group, "names": mine["names"]} for group, mine in zip(groups, own, strict=True)]


def build_optimizer(
    model: nn.Module, schedule: ScheduleOptions, objectives: Iterable[Objective] = ()
) -> AdamW | Adam:
    """The optimizer of the trained parameters, at a rate of 0. Frozen ones have no group.

    Args:
        objectives: those of the model, which say the rates of their heads; without them these have the rate
            of the towers.
    """
    rate_of = _rates(schedule, objectives)
    groups: dict[tuple[int, float, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_bias = "bias" in name.rpartition(".")[2]  # such as in_proj_bias
            kind, factor = rate_of(parameter, is_bias)
            decays = parameter.ndim > 1 if schedule.decay_on == "matrices" else not is_bias
            settings = {"weight_decay": schedule.weight_decay * decays, "lr_factor": factor}
            group = groups.setdefault((kind, factor, not decays), {"names": [], "params": [], **settings})
            group["names"].append(name)
            group["params"].append(parameter)
    in_order = [group for _, group in sorted(groups.items())]  # the order of checkpoints without names
    return KINDS[schedule.optimizer](in_order, lr=0.0, betas=schedule.betas, eps=schedule.eps, fused=True)


def _rates(
    schedule: ScheduleOptions, objectives: Iterable[Objective]
) -> Callable[[nn.Parameter, bool], tuple[int, float]]:
    """The kind of rate of a parameter, which may be a bias, and its factor on the rate of the step.

    A later rule wins: 1; `schedule.ratio_factor` for fast parameters; `schedule.bias_factor` for biases, but
    those of classifiers; the rate of a `rate_option`.
    """
    fast: set[int] = set()
    classifiers: set[int] = set()
    own: dict[int, float] = {}
    for objective in objectives:
        fast |= set(map(id, objective.fast_parameters()))
        classifiers |= set(map(id, objective.classifier_parameters()))
        if objective.rate_option and (rate := getattr(schedule, objective.rate_option)):
            own |= dict.fromkeys(map(id, objective.head.parameters()), rate / schedule.lr)

    def rate_of(parameter: nn.Parameter, is_bias: bool) -> tuple[int, float]:
        key = id(parameter)
        if key in own:
            return OWN, own[key]
        if is_bias and schedule.bias_factor is not None and key not in classifiers:
            return BIAS, schedule.bias_factor
        return (FAST, schedule.ratio_factor) if key in fast else (BASE, 1.0)

    return rate_of


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of the step in every group."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]
