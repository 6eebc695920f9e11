"""The optimiser: AdamW in a handful of groups."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from options import UserError


def build_optimizer(
    model: nn.Module,
    weight_decay: float,
    betas: tuple[float, float] = (0.9, 0.98),
    eps: float = 1e-8,
    fast: Sequence[nn.Parameter] = (),
    ratio_factor: float = 1.0,
) -> torch.optim.AdamW:
    """AdamW over the trained parameters, with no decay on biases, norms and other one-dimensional ones.

    The learning rate is set in each step (`misc.training.schedule`); frozen parameters are left out.

    Args:
        fast: parameters that train at `ratio_factor` times the rate.
    """
    is_fast = {id(parameter) for parameter in fast}
    groups = [
        {
            "params": [
                p
                for p in model.parameters()
                if p.requires_grad and (p.ndim > 1) == decays and (id(p) in is_fast) == hurries
            ],
            "weight_decay": weight_decay if decays else 0.0,
            "lr_factor": ratio_factor if hurries else 1.0,
        }
        for hurries in (False, True)
        for decays in (True, False)
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=0.0, betas=betas, eps=eps, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group the learning rate of the step."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Go on with the moments of `state`, at the rates, decays and betas of `optimizer`.

    Raises:
        UserError: the state is of other trained parameters.
    """
    now = [len(group["params"]) for group in optimizer.param_groups]
    then = [len(group["params"]) for group in state["param_groups"]]
    if now != then:
        raise UserError(
            f"resume: the checkpoint trained {sum(then)} parameters in groups of {then}, these options train "
            f"{now}; keep the losses and what is frozen (model.lock_*)"
        )
    settings = [
        {key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups
    ]
    optimizer.load_state_dict(state)
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)
