"""The optimiser: AdamW in a handful of groups."""

import torch
from torch import nn


def build_optimizer(
    model: nn.Module, weight_decay: float, betas: tuple[float, float] = (0.9, 0.98), eps: float = 1e-8
) -> torch.optim.AdamW:
    """AdamW over the trained parameters, with no decay on biases, norms and other one-dimensional ones.

    The learning rate is set in each step (`misc.schedule`); frozen parameters are left out.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=0.0, betas=betas, eps=eps, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group the learning rate of the step."""
    for group in optimizer.param_groups:
        group["lr"] = lr
