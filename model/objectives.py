"""The losses as objects: what each one reads, its head, its call. The formulas are `model.losses`.

What loaders make, what is encoded, what is frozen, which rate a head trains at and what a checkpoint may drop
all derive from the objectives of a model. A new loss is one class here, listed in `OBJECTIVES`.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from data.types import TEXTS, VIEWS, Batch
from model.heads import CrossModalHead, identity_classifier, simclr_head
from model.losses import (
    citc_loss,
    id_loss,
    mlm_loss,
    nitc_loss,
    ritc_loss,
    sdm_loss,
    sigmoid_loss,
    ss_loss,
    tal_loss,
)
from model.objective import Objective, Pairs, Rows, Sizes, SumObjective, TokenObjective
from model.protocol import DualEncoder
from options import ExperimentOptions

IGNORED = -100  # the label of a token that is not masked


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
        return {f"{name}/{self.head_name}": self.head(features[name]) for name in self.inputs}

    def __call__(self, pairs: Pairs) -> Tensor:
        names = [f"{name}/{self.head_name}" for name in self.inputs]
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


class ID(Objective):
    """Identity classification of images and captions by one linear layer (paper, ID)."""

    head_name = "classifier"
    head: nn.Linear

    def __init__(self, embed_dim: int, num_identities: int) -> None:
        self.head = identity_classifier(embed_dim, num_identities)

    @classmethod
    def from_options(cls, experiment: ExperimentOptions, sizes: Sizes) -> "ID":
        return cls(sizes.embed_dim, sizes.num_identities)

    def fast_parameters(self) -> list[nn.Parameter]:
        return list(self.head.parameters())

    def project(self, features: Rows) -> Rows:
        return {}  # no row is compared with another

    def __call__(self, pairs: Pairs) -> Tensor:
        images, texts = (self.head(pairs.features[name].float()) for name in self.inputs)
        return id_loss(images, texts, pairs.person_ids)


class MLM(TokenObjective):
    """Masked language modelling: the masked words from the image and the words around them (paper, MLM)."""

    inputs = ("view1", "masked_tokens")
    head_name = "mlm_head"
    head: CrossModalHead

    def __init__(self, embed_dim: int, depth: int, vocab_size: int) -> None:
        self.head = CrossModalHead(embed_dim, depth, vocab_size)

    @classmethod
    def from_options(cls, experiment: ExperimentOptions, sizes: Sizes) -> "MLM":
        """With the depth of its cross-modal transformer."""
        return cls(sizes.embed_dim, experiment.cmt_depth, sizes.vocab_size)

    def fast_parameters(self) -> list[nn.Parameter]:
        """All but the norms around the cross-modal part."""
        return self.head.fast_parameters()

    def classifier_parameters(self) -> list[nn.Parameter]:
        """The layers after the cross-modal part, as in IRRA's release."""
        parts = (self.head.dense, self.head.ln, self.head.fc)
        return [parameter for part in parts for parameter in part.parameters()]

    def count(self, batch: Batch) -> Tensor:
        """Masked tokens, and all of them."""
        masked, tokens = (batch.mlm_labels != IGNORED).sum(), batch.masked_tokens["attention_mask"].sum()
        return torch.stack([masked, tokens]).float()

    def report(self, counts: Tensor) -> Rows:
        """The share of tokens that are masked."""
        return {"masked_share": counts[0] / counts[1]}

    def loss(self, clip: DualEncoder, batch: Batch, image_tokens: Tensor, counts: Tensor) -> Tensor:
        """Cross-entropy over the masked tokens of these rows, divided by the masked tokens of the batch."""
        captions, labels = batch.masked_tokens, batch.mlm_labels.flatten()
        _, text_tokens = clip.encode_text(captions, return_dense=True)
        masked = (labels != IGNORED).nonzero()[:, 0]
        logits = self.head(text_tokens, image_tokens, captions["attention_mask"], masked)
        return mlm_loss(logits.float(), labels[masked], counts[0])


OBJECTIVES: Mapping[str, type[Objective]] = {
    "nitc": NITC,
    "ritc": RITC,
    "citc": CITC,
    "ss": SS,
    "ss_text": SSText,
    "mlm": MLM,
    "id": ID,
    "sdm": SDM,
    "tal": TAL,
    "sigmoid": Sigmoid,
}


def head_names(at_test: bool = False) -> set[str]:
    """The names of all heads, which checkpoints hold beside the towers, or of those that act at test time."""
    kinds = (kind for kind in OBJECTIVES.values() if kind.acts_at_test or not at_test)
    return {kind.head_name for kind in kinds if kind.head_name}
