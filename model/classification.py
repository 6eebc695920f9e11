"""Identity classification, as losses on the embeddings that test time uses."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from model.heads import PairClassifier, identity_classifier
from model.losses import cid_loss, hardest, id_loss
from model.objective import Objective, Pairs, Rows, Sizes
from options import ExperimentOptions

POOLED = "pooled"  # in CID's head beside the names of the heads that embed


class ID(Objective):
    """Identity classification of images and captions by one linear layer (paper, ID), of each embedding.

    Args:
        embed_dim: of the pooled features.
        num_classes: of the layer.
        embeddings: the widths of further embeddings, by the name of their head.
    """

    head_name = "classifier"
    head: nn.Linear

    def __init__(self, embed_dim: int, num_classes: int, embeddings: Mapping[str, int]) -> None:
        self.head = identity_classifier(embed_dim, num_classes)
        for name, width in embeddings.items():  # inside the first, which keeps its name in checkpoints
            self.head.add_module(name, identity_classifier(width, num_classes))

    @classmethod
    def from_options(cls, experiment: ExperimentOptions, sizes: Sizes) -> "ID":
        """With the class that the classifiers of ITSELF's release have too many where CID is as there."""
        has_one_more = experiment.cid and experiment.cid_no_match == "release"
        return cls(sizes.embed_dim, sizes.num_identities + has_one_more, _embeddings(experiment, sizes))

    def fast_parameters(self) -> list[nn.Parameter]:
        return list(self.head.parameters())

    def project(self, features: Rows) -> Rows:
        return {}  # no row is compared with another

    def __call__(self, pairs: Pairs) -> Tensor:
        """The sum over the embeddings."""
        losses = []
        for head_name, classifier in {"": self.head, **dict(self.head.named_children())}.items():
            rows = (pairs.features[name] for name in self.names(head_name))
            losses.append(id_loss(*(classifier(each.float()) for each in rows), pairs.person_ids))
        return torch.stack(losses).sum()


class CID(Objective):
    """Cross-modal identity classification of pairs, hard ones among them (ITSELF), of each embedding.

    All rows have hard pairs, or none has, where the whole batch shows one person: so that the mean over the
    pairs is the mean over the rows.

    Args:
        embed_dim: of the pooled features.
        num_identities: C; class C is that of no match.
        embeddings: the widths of further embeddings, by the name of their head.
        marks_next: no match is the class after the largest one of the batch, as in ITSELF's release, which
            is that of a person unless the last of them is in the batch.
    """

    head_name = "cid_head"
    head: nn.ModuleDict

    def __init__(
        self, embed_dim: int, num_identities: int, embeddings: Mapping[str, int], marks_next: bool = False
    ) -> None:
        widths = {POOLED: embed_dim, **embeddings}
        heads = {name: PairClassifier(width, num_identities + 1) for name, width in widths.items()}
        self.head, self.num_identities, self.marks_next = nn.ModuleDict(heads), num_identities, marks_next

    @classmethod
    def from_options(cls, experiment: ExperimentOptions, sizes: Sizes) -> "CID":
        marks_next = experiment.cid_no_match == "release"
        return cls(sizes.embed_dim, sizes.num_identities, _embeddings(experiment, sizes), marks_next)

    def fast_parameters(self) -> list[nn.Parameter]:
        """The classifiers; the layers before them have the rate of the towers, as in ITSELF's release."""
        return [parameter for head in self.head.values() for parameter in head.classifier.parameters()]

    def __call__(self, pairs: Pairs) -> Tensor:
        """The sum over the embeddings."""
        no_match = torch.full_like(pairs.person_ids, self.num_identities)
        if self.marks_next:
            no_match = (pairs.all_ids.max() + 1).expand_as(no_match)
        losses = []
        for name, head in self.head.items():
            images, texts = _pairs_of(pairs, *self.names("" if name == POOLED else name))
            scores = head(images, texts), head(texts, images)
            losses.append(cid_loss(*scores, pairs.person_ids, no_match, (~pairs.positives).any(dim=1)))
        return torch.stack(losses).sum()


def _pairs_of(pairs: Pairs, image: str, text: str) -> tuple[Tensor, Tensor]:
    """(3, B, D) twice: the images and the captions of each row's own pair, then of its two hard ones."""
    hard_text, hard_image = (hardest(cosines, pairs.positives) for cosines in pairs.cosines(image, text))
    images, texts = pairs.features[image], pairs.features[text]
    others = pairs.all_features[image][hard_image], pairs.all_features[text][hard_text]
    return torch.stack([images, others[0], images]), torch.stack([texts, texts, others[1]])


def _embeddings(experiment: ExperimentOptions, sizes: Sizes) -> Mapping[str, int]:
    """Those beside the pooled features that the losses are on."""
    return sizes.embeddings if experiment.id_on == "all" else {}
