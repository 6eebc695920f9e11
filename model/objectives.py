"""The losses as objects: what each one reads, its head, its call. The formulas are `model.losses`.

What loaders make, what is encoded, what is frozen, which rate a head trains at and what a checkpoint may drop
all derive from the objectives of a model. A new loss is one class here, listed in `OBJECTIVES`.
"""

import logging
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from data.types import TEXTS, VIEWS
from model.classification import CID, ID
from model.heads import TokenSelection, simclr_head
from model.losses import (
    citc_loss,
    nitc_loss,
    ritc_loss,
    sdm_loss,
    sigmoid_loss,
    ss_loss,
    tal_loss,
)
from model.mlm import MLM
from model.objective import Objective, Pairs, Rows, Sizes, SumObjective
from model.protocol import Selection
from options import ExperimentOptions

logger = logging.getLogger(__name__)
GRAB_LAST = 0.4  # the share that ITSELF's release selects at test time


class NITC(Objective):
    """Normalised image-text contrastive loss (paper, N-ITC), both directions averaged; with further views
    also over all pairs of views and captions (paper, MVS-I, MVS-T, MVS-IT).
    """

    uses_scale = True

    def __init__(self, mvs_image: bool = False, mvs_text: bool = False) -> None:
        self.views, self.texts = VIEWS[: 1 + mvs_image], TEXTS[: 1 + mvs_text]
        self.inputs = (*self.views, *self.texts)

    @classmethod
    def from_options(cls, experiment: ExperimentOptions, sizes: Sizes) -> "NITC":
        return cls(experiment.mvs_image, experiment.mvs_text)

    def __call__(self, pairs: Pairs) -> Tensor:
        losses = [
            nitc_loss(pairs.scale * cosines, pairs.targets, pairs.soft_label)
            for view in self.views
            for text in self.texts
            for cosines in pairs.cosines(view, text)
        ]
        return torch.stack(losses).mean()


class RITC(Objective):
    """Reversed image-text contrastive loss (paper, R-ITC), both directions averaged."""

    uses_scale = True

    def __init__(self, eps: float = 0.01) -> None:
        self.eps = eps

    @classmethod
    def from_options(cls, experiment: ExperimentOptions, sizes: Sizes) -> "RITC":
        return cls(experiment.ritc_eps)

    def __call__(self, pairs: Pairs) -> Tensor:
        losses = [ritc_loss(pairs.scale * cosines, pairs.targets, self.eps) for cosines in pairs.cosines()]
        return sum(losses) / 2


class CITC(Objective):
    """Cyclic image-text contrastive loss (paper, C-ITC)."""

    def __init__(self, lambda1: float = 0.25, lambda2: float = 0.25) -> None:
        self.lambdas = (lambda1, lambda2)

    @classmethod
    def from_options(cls, experiment: ExperimentOptions, sizes: Sizes) -> "CITC":
        return cls(experiment.citc_lambda1, experiment.citc_lambda2)

    def __call__(self, pairs: Pairs) -> Tensor:
        rows = [side[name] for side in (pairs.local, pairs.gathered) for name in self.inputs]
        return citc_loss(*rows, *self.lambdas)


class SDM(Objective):
    """Similarity distribution matching (IRRA), both directions added."""

    def __call__(self, pairs: Pairs) -> Tensor:
        return sum(sdm_loss(cosines, pairs.targets) for cosines in pairs.cosines())


class TAL(SumObjective):
    """Triplet alignment loss (RDE), both directions added, summed over the batch of all processes."""

    def rows(self, pairs: Pairs) -> Tensor:
        """See `SumObjective.rows`."""
        return sum(tal_loss(cosines, pairs.positives) for cosines in pairs.cosines())


class TSE(SumObjective):
    """TAL on an embedding of the tokens that the pooled one attends to (RDE), which test time uses too."""

    head_name = "tse_head"
    head: nn.ModuleDict
    acts_at_test = True
    rate_option = "tse_lr"

    def __init__(self, width: int, embed_dim: int = 1024, share: float = 0.3, is_frozen: bool = True) -> None:
        self.head = nn.ModuleDict(
            {modality: TokenSelection(width, embed_dim, is_frozen) for modality in ("image", "text")}
        )
        self.embed_dim, self.select = embed_dim, Selection(share)

    @classmethod
    def from_options(cls, experiment: ExperimentOptions, sizes: Sizes) -> "TSE":
        """For the width of the tokens."""
        is_frozen = experiment.tse_batchnorm == "frozen"
        return cls(sizes.embed_dim, experiment.tse_width, experiment.tse_share, is_frozen)

    def keep(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """(B, K, D) the tokens themselves: batch normalisation is over those of the whole batch."""
        return TokenSelection.normalised(tokens, mask)

    def embed(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """See `Objective.embed`."""
        return self.head["image" if mask is None else "text"](self.keep(tokens, mask))

    def project(self, features: Rows) -> Rows:
        heads = dict(zip(self.names(self.head_name), self.head.values(), strict=True))
        return {name: head(features[name]) for name, head in heads.items() if name in features}

    def rows(self, pairs: Pairs) -> Tensor:
        """See `SumObjective.rows`."""
        both = pairs.cosines(*self.names(self.head_name))
        return sum(tal_loss(cosines, pairs.positives) for cosines in both)


class Grab(TSE):
    """TAL on an embedding of the tokens that the rollout of two blocks selects (ITSELF), fewer from step to
    step; test time uses it too.
    """

    head_name = "grab_head"
    rate_option = "grab_lr"

    def __init__(self, width: int, experiment: ExperimentOptions) -> None:
        super().__init__(width, experiment.grab_width, is_frozen=False)
        self.shares, self.num_steps = experiment.grab_share, experiment.grab_steps
        self.blocks = experiment.grab_blocks
        is_last = experiment.grab_test_tokens == "last"
        self.select = Selection(GRAB_LAST) if is_last else Selection(self.shares[1], self.blocks)
        self.score_weight = 1 / experiment.grab_global_weight - 1

    @classmethod
    def from_options(cls, experiment: ExperimentOptions, sizes: Sizes) -> "Grab":
        """For the width of the tokens."""
        return cls(sizes.embed_dim, experiment)

    def select_at(self, step: int) -> Selection:
        """See `Objective.select_at`: the share falls geometrically, and is the last in step `num_steps`."""
        first, last = self.shares
        progress = min(1.0, (step + 1) / self.num_steps)
        share = last if progress == 1 else first * (last / first) ** progress
        return Selection(share, self.blocks)


class Sigmoid(Objective):
    """Sigmoid loss (SigLIP), with the learned bias."""

    uses_scale = True

    def __call__(self, pairs: Pairs) -> Tensor:
        return sigmoid_loss(pairs.scale * pairs.cosines()[0] + pairs.bias, pairs.positives)


class SimCLR(Objective):
    """SimCLR between two views of the same thing, through a head (paper, SS)."""

    head: nn.Sequential

    def __init__(
        self, embed_dim: int, widths: tuple[int | None, int, int | None], temperature: float = 0.1
    ) -> None:
        first, hidden, last = widths
        self.head = simclr_head(first or embed_dim, hidden, last or embed_dim)
        self.temperature = temperature

    @classmethod
    def from_options(cls, experiment: ExperimentOptions, sizes: Sizes) -> "SimCLR":
        return cls(sizes.embed_dim, experiment.simclr_mlp, experiment.simclr_temperature)

    def project(self, features: Rows) -> Rows:
        rows = super().project(features)
        return {f"{name}/{self.head_name}": self.head(of_input) for name, of_input in rows.items()}

    def __call__(self, pairs: Pairs) -> Tensor:
        names = self.names(self.head_name)
        rows = [side[name] for side in (pairs.local, pairs.gathered) for name in names]
        return ss_loss(*rows, pairs.offset, self.temperature)


class SS(SimCLR):
    """SS: two strongly augmented views of the image."""

    inputs = ("simclr1", "simclr2")
    head_name = "simclr_mlp"


class SSText(SimCLR):
    """SS-T: two augmentations of the caption."""

    inputs = ("tokens", "tokens2")
    head_name = "simclr_mlp_text"


OBJECTIVES: Mapping[str, type[Objective]] = {
    "nitc": NITC,
    "ritc": RITC,
    "citc": CITC,
    "ss": SS,
    "ss_text": SSText,
    "mlm": MLM,
    "id": ID,
    "cid": CID,
    "sdm": SDM,
    "tal": TAL,
    "grab": Grab,
    "tse": TSE,
    "sigmoid": Sigmoid,
}


def build_objectives(
    names: Iterable[str], experiment: ExperimentOptions, sizes: Sizes
) -> dict[str, Objective]:
    """The objectives of these names; those that act at test time first, whose embeddings others classify."""
    kinds = {name: OBJECTIVES[name] for name in names}
    built = {n: kind.from_options(experiment, sizes) for n, kind in kinds.items() if kind.acts_at_test}
    embeddings = {objective.head_name: objective.embed_dim for objective in built.values()}
    if experiment.id_on == "all" and not embeddings and kinds.keys() & {"id", "cid"}:
        logger.warning("experiment.id_on=all has no effect: no loss is on whose head acts at test time")
    sizes = sizes._replace(embeddings=embeddings)
    return {n: built.get(n) or kind.from_options(experiment, sizes) for n, kind in kinds.items()}


def head_names(at_test: bool = False) -> set[str]:
    """The names of all heads, which checkpoints hold beside the towers, or of those that act at test time."""
    kinds = (kind for kind in OBJECTIVES.values() if kind.acts_at_test or not at_test)
    return {kind.head_name for kind in kinds if kind.head_name}
