"""Heads that are trained from scratch on top of the towers."""

from torch import nn


def simclr_head(input_dim: int, hidden_dim: int, output_dim: int) -> nn.Sequential:
    """The projection of SimCLR: image embedding -> the space in which two views of it are compared."""
    return nn.Sequential(nn.Linear(input_dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, output_dim))
