"""What the losses compare: the features of a batch on this process against those of all processes."""

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from model.losses import identity_targets

Rows = dict[str, Tensor]  # {name of an input, or input/head: (B, D)}


@dataclass(frozen=True)
class Pairs:
    """A batch as the losses see it: B rows of this process against the N rows of all processes.

    Attributes:
        features: (B, D) of each encoded input, not normalised.
        local: (B, D) fp32, normalised, of what the objectives project.
        gathered: (N, D), the same of all processes; row `offset` + i is local row i.
        person_ids, all_ids: (B,) and (N,).
        scale, bias: of the logits: logit = scale * cosine + bias.
        soft_label: a, the share of the model's own prediction in the targets of N-ITC.
    """

    features: Rows
    local: Rows
    gathered: Rows
    person_ids: Tensor
    all_ids: Tensor
    offset: int
    scale: Tensor
    bias: Tensor | float
    soft_label: float

    @cached_property
    def targets(self) -> Tensor:
        """(B, N) the true matching Q, rows summing to 1."""
        return identity_targets(self.person_ids, self.all_ids)

    @cached_property
    def positives(self) -> Tensor:
        """(B, N) bool, true where both show the same person."""
        return self.person_ids[:, None] == self.all_ids

    @cached_property
    def _cosines(self) -> dict[tuple[str, str], tuple[Tensor, Tensor]]:
        return {}

    def cosines(self, image: str = "view1", text: str = "tokens") -> tuple[Tensor, Tensor]:
        """(B, N) cosine similarities of images to captions and of captions to images, computed once."""
        if (image, text) not in self._cosines:
            self._cosines[image, text] = (
                self.local[image] @ self.gathered[text].T,
                self.local[text] @ self.gathered[image].T,
            )
        return self._cosines[image, text]
