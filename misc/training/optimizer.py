"""The optimizer: AdamW in at most four groups."""

from collections.abc import Sequence

import torch
from torch import nn

from misc.checkpoints.components import State
from options import UserError


class AdamW(torch.optim.AdamW):
    """AdamW whose rates, decays and betas stay those it was built with when a state is loaded."""

    def load_state_dict(self, state: State) -> None:
        """Continue with the moments of `state`.

        Raises:
            UserError: the state is of other trained parameters.
        """
        own = [len(group["params"]) for group in self.param_groups]
        saved = [len(group["params"]) for group in state["param_groups"]]
        if own != saved:
            raise UserError(
                f"resume: the checkpoint trained {sum(saved)} parameters in groups of {saved}, these options "
                f"train {own}; keep the losses and what is frozen (model.lock_*)"
            )
        settings = [{name: value for name, value in g.items() if name != "params"} for g in self.param_groups]
        super().load_state_dict(state)
        for group, values in zip(self.param_groups, settings, strict=True):
            group.update(values)


def build_optimizer(
    model: nn.Module,
    weight_decay: float,
    betas: tuple[float, float] = (0.9, 0.98),
    eps: float = 1e-8,
    fast: Sequence[nn.Parameter] = (),
    ratio_factor: float = 1.0,
) -> AdamW:
    """AdamW over the trained parameters, with no decay on biases, norms and other one-dimensional ones.

    The learning rate is set in each step (`misc.training.schedule`): `ratio_factor` times as high for the
    parameters `fast`. Frozen ones have no group.
    """
    is_fast = {id(parameter) for parameter in fast}
    groups = [
        {
            "params": [
                p
                for p in model.parameters()
                if p.requires_grad and (p.ndim > 1) == decays and (id(p) in is_fast) == at_own_rate
            ],
            "weight_decay": weight_decay if decays else 0.0,
            "lr_factor": ratio_factor if at_own_rate else 1.0,
        }
        for at_own_rate in (False, True)
        for decays in (True, False)
    ]
    return AdamW([g for g in groups if g["params"]], lr=0.0, betas=betas, eps=eps, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of the step in every group."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]
