"""Masked language modelling, as a loss on tokens."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.types import Batch, Tokens
from model.heads import CrossModalHead
from model.losses import mlm_loss
from model.objective import Rows, Sizes, TokenObjective
from model.protocol import DualEncoder
from options import ExperimentOptions

IGNORED = -100  # the label of a token that is not masked


class MLM(TokenObjective):
    """Masked language modelling: the masked words from the image and the words around them (paper, MLM).

    Args:
        depth: blocks of the cross-modal transformer.
        irra_length: None: the cross-modal part is TBPS-CLIP's. Otherwise it is that of IRRA's release, which
            reads the tokens of padding up to this length too, and starts with smaller weights of the words.
        masks_all: whether the other losses read the masked captions too, as in IRRA's release and NAM.
    """

    head_name = "mlm_head"
    head: CrossModalHead

    def __init__(
        self,
        embed_dim: int,
        depth: int,
        vocab_size: int,
        irra_length: int | None = None,
        masks_all: bool = False,
    ) -> None:
        word_std = (embed_dim * 2 * max(1, depth)) ** -0.5 if irra_length else None
        self.head, self.pad_to = CrossModalHead(embed_dim, depth, vocab_size, word_std), irra_length
        self.captions = "tokens" if masks_all else "masked_tokens"
        self.inputs = ("view1", "tokens", "mlm_labels") if masks_all else ("view1", "masked_tokens")
        self.dense = ("view1", "tokens") if masks_all else ("view1",)

    @classmethod
    def from_options(cls, experiment: ExperimentOptions, sizes: Sizes) -> "MLM":
        """With the depth of its cross-modal transformer."""
        irra_length = sizes.text_length if experiment.mlm_variant == "irra" else None
        of_head = sizes.embed_dim, experiment.cmt_depth, sizes.vocab_size
        masks_all = experiment.mlm_masks_all or experiment.mask_captions != "none"
        return cls(*of_head, irra_length, masks_all)

    def fast_parameters(self) -> list[nn.Parameter]:
        """All but the norms around the cross-modal part."""
        return self.head.fast_parameters()

    def classifier_parameters(self) -> list[nn.Parameter]:
        """The layers after the cross-modal part, as in IRRA's release."""
        parts = (self.head.dense, self.head.ln, self.head.fc)
        return [parameter for part in parts for parameter in part.parameters()]

    def count(self, batch: Batch) -> Tensor:
        """Masked tokens, and all of them."""
        masked, tokens = batch.mlm_labels != IGNORED, getattr(batch, self.captions)["attention_mask"]
        return torch.stack([masked.sum(), tokens.sum()]).float()

    def report(self, counts: Tensor) -> Rows:
        """The share of tokens that are masked."""
        return {"masked_share": counts[0] / counts[1]}

    def loss(self, clip: DualEncoder, batch: Batch, tokens: Rows, counts: Tensor) -> Tensor:
        """Cross-entropy over the masked tokens of these rows, divided by the masked tokens of the batch."""
        captions = padded(getattr(batch, self.captions), self.pad_to)
        text_tokens = tokens.get("tokens")
        if text_tokens is None:
            _, text_tokens = clip.encode_text(captions, return_dense=True)
        text_tokens = text_tokens[:, : captions["input_ids"].shape[1]]  # a second caption may be longer
        num_more = text_tokens.shape[1] - batch.mlm_labels.shape[1]
        labels = F.pad(batch.mlm_labels, (0, num_more), value=IGNORED).flatten()
        masked = (labels != IGNORED).nonzero()[:, 0]
        mask = None if self.pad_to else captions["attention_mask"]
        logits = self.head(text_tokens, tokens["view1"], mask, masked)
        return mlm_loss(logits.float(), labels[masked], counts[0])


def padded(captions: Tokens, length: int | None) -> Tokens:
    """Captions padded to a length, or as they are where that is None."""
    num_more = 0 if length is None else length - captions["input_ids"].shape[1]
    return {name: F.pad(values, (0, num_more)) for name, values in captions.items()}


def join_captions(captions: list[Tokens]) -> Tokens:
    """Several batches of captions as one, padded to the longest of them."""
    if len(captions) == 1:
        return captions[0]
    longest = max(tokens["input_ids"].shape[1] for tokens in captions)
    return {
        name: torch.cat([F.pad(tokens[name], (0, longest - tokens[name].shape[1])) for tokens in captions])
        for name in captions[0]
    }
