"""What the towers return, by name."""

import itertools
from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from model.objective import Objective


class Encoded(NamedTuple):
    """What a tower returns of B inputs, (B, ...) each; None: not asked for."""

    pooled: Tensor
    tokens: Tensor | None
    mask: Tensor | None  # of the tokens of captions
    selected: Tensor | None
    selected_mask: Tensor | None

    @classmethod
    def of(cls, returned: Tensor | tuple[Tensor, ...], mask: Tensor | None = None) -> "Encoded":
        """What `DualEncoder.encode_image` or `encode_text` returned, by name."""
        pooled, tokens, selected = (
            (*returned, None)[:3] if isinstance(returned, tuple) else (returned, None, None)
        )
        return cls(pooled, tokens, mask, *(selected or (None, None)))

    @classmethod
    def joined(cls, parts: Sequence["Encoded"]) -> "Encoded":
        """Several of them, one after another."""
        return cls(*(None if rows[0] is None else torch.cat(rows) for rows in zip(*parts, strict=True)))

    def chunk(self, number: int) -> list["Encoded"]:
        """That many equal parts."""
        parts = ([None] * number if rows is None else rows.chunk(number) for rows in self)
        return list(itertools.starmap(Encoded, zip(*parts, strict=True)))

    def read_by(self, objective: Objective) -> tuple[Tensor, Tensor | None]:
        """The tokens that `Objective.embed` takes, and their mask."""
        is_selected = objective.select is not None
        return (self.selected, self.selected_mask) if is_selected else (self.tokens, self.mask)


def view_groups(views: list[str], dense: Collection[str]) -> list[list[str]]:
    """The views that go through the tower together: view1 by itself where its tokens are kept."""
    groups = [["view1"], [view for view in views if view != "view1"]] if "view1" in dense else [views]
    return [group for group in groups if set(group) & set(views)]
