"""An objective whose head embeds at test time, for tests to put into `OBJECTIVES`."""

import torch
from torch import Tensor, nn

from model.losses import tal_loss
from model.objective import Objective, Pairs, Rows, Sizes
from options import ExperimentOptions


class Largest(Objective):
    """TAL on the largest projected tokens: trained through its head, and part of the embedding."""

    head_name = "largest"
    acts_at_test = True
    embed_dim = 6

    def __init__(self, width: int) -> None:
        self.head = nn.Linear(width, self.embed_dim)

    @classmethod
    def from_options(cls, experiment: ExperimentOptions, sizes: Sizes) -> "Largest":
        return cls(sizes.embed_dim)

    def embed(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        rows = self.head(tokens)
        if mask is not None:
            rows = rows.masked_fill(mask[..., None] == 0, -torch.inf)
        return rows.amax(dim=1)

    def project(self, features: Rows) -> Rows:
        return {f"{name}/largest": features[f"{name}/largest"] for name in self.inputs}

    def __call__(self, pairs: Pairs) -> Tensor:
        both = pairs.cosines("view1/largest", "tokens/largest")
        return sum(tal_loss(cosines, pairs.positives).sum() for cosines in both)
