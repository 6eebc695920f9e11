"""TBPS-CLIP: the two towers, the heads, and the losses that the options switch on."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from misc.process import distributed
from misc.training.accumulation import accumulate
from model.heads import CrossModalHead, identity_classifier, simclr_head
from model.losses import (
    citc_loss,
    id_loss,
    identity_targets,
    mlm_loss,
    nitc_loss,
    ritc_loss,
    sdm_loss,
    sigmoid_loss,
    ss_loss,
    tal_loss,
)

MAX_LOGIT_SCALE = math.log(100)
IGNORED = -100  # the label of a token that is not masked
# glibc gives tensors of more than 32 MB back to the kernel one by one: what so many images make stays below
# it, and the page faults go, a tenth of a step.
CPU_IMAGES = 8
PAIRED = frozenset({"nitc", "ritc", "citc", "sdm", "tal", "sigmoid"})  # the losses on image-text similarities
Features = dict[str, Tensor]


class LossOutput(NamedTuple):
    """`total` to call backward on, the weighted `parts` it sums, and a `report` of other scalars."""

    total: Tensor
    parts: dict[str, Tensor]
    report: dict[str, Tensor]


class TBPS(nn.Module):
    """Towers and heads -> named losses over the batch of all processes.

    Args:
        clip: the towers: `visual`, `text`, `encode_image`, `encode_text`, `logit_scale`, `logit_bias` and
            `embed_dim` as `model.clip.CLIP` has them; MLM reads `text.token_embedding` too.
        weights: the weight of each loss that is on, under the names of `options.LOSSES`.
        ritc_eps, citc_lambdas, simclr_temperature: see `model.losses`.
        simclr_mlp: widths of the SimCLR heads; None at the ends for the embedding's width.
        mvs_image, mvs_text: N-ITC also on a second view of the image, on a second augmentation of the
            caption, averaged over all pairs of them (paper, MVS-I, MVS-T, MVS-IT).
        use_gather: contrast with the rows of all processes; otherwise with the local ones only.
        cmt_depth: blocks of the cross-modal transformer of MLM.
        num_identities: persons that the classifier of ID knows.

    `image_views` and `texts` name the inputs of a batch that the losses need; no other is encoded.
    """

    def __init__(
        self,
        clip: nn.Module,
        weights: dict[str, float],
        *,
        ritc_eps: float = 0.01,
        citc_lambdas: tuple[float, float] = (0.25, 0.25),
        simclr_mlp: tuple[int | None, int, int | None] = (None, 128, None),
        simclr_temperature: float = 0.1,
        mvs_image: bool = False,
        mvs_text: bool = False,
        use_gather: bool = True,
        cmt_depth: int = 4,
        num_identities: int = 0,
    ) -> None:
        super().__init__()
        self.clip = clip
        self.weights = weights
        self.ritc_eps = ritc_eps
        self.citc_lambdas = citc_lambdas
        self.simclr_temperature = simclr_temperature
        self.use_gather = use_gather
        on = set(weights)
        pooled = bool(on & (PAIRED | {"id"}))  # mlm reads the image's tokens and the masked caption alone
        second_view, second_text = "nitc" in on and mvs_image, "nitc" in on and mvs_text
        views = {
            "view1": pooled or "mlm" in on,
            "view2": second_view,
            "simclr1": "ss" in on,
            "simclr2": "ss" in on,
        }
        texts = {"tokens": pooled or "ss_text" in on, "tokens2": second_text or "ss_text" in on}
        self.image_views = [name for name, is_needed in views.items() if is_needed]
        self.texts = [name for name, is_needed in texts.items() if is_needed]
        self.nitc_pairs = [
            (view, text)
            for view in ("view1", "view2")[: 1 + second_view]
            for text in ("tokens", "tokens2")[: 1 + second_text]
        ]
        first, hidden, last = simclr_mlp
        widths = (first or clip.embed_dim, hidden, last or clip.embed_dim)
        if "ss" in on:
            self.simclr_mlp = simclr_head(*widths)
        if "ss_text" in on:
            self.simclr_mlp_text = simclr_head(*widths)
        if "mlm" in on:
            vocab_size = clip.text.token_embedding.num_embeddings
            self.mlm_head = CrossModalHead(clip.embed_dim, cmt_depth, vocab_size)
        if "id" in on:
            self.classifier = identity_classifier(clip.embed_dim, num_identities)
        self._freeze_unused()

    def _freeze_unused(self) -> None:
        """Freeze what no loss reaches, so that every trained parameter has a gradient in every step."""
        if not self.image_views:
            self.clip.visual.requires_grad_(False)
        if not self.texts and "mlm" not in self.weights:
            self.clip.text.requires_grad_(False)
        if not {"nitc", "ritc", "sigmoid"} & set(self.weights):
            self.clip.logit_scale.requires_grad_(False)

    def fast_parameters(self) -> list[nn.Parameter]:
        """The parameters of heads that train at `schedule.ratio_factor` times the learning rate."""
        mlm = self.mlm_head.fast_parameters() if "mlm" in self.weights else []
        return mlm + (list(self.classifier.parameters()) if "id" in self.weights else [])

    def forward(self, batch: Any, soft_label: float) -> LossOutput:
        """The losses of one batch.

        Args:
            batch: a `Batch`: `images` {view: (B, 3, H, W)}, `tokens`, `tokens2`, `masked_tokens`
                {input_ids, attention_mask} (B, L), `mlm_labels` (B, L), `person_ids` (B,). What no loss needs
                may be missing or None.
            soft_label: the share a of the model's own prediction in the targets of N-ITC.
        """
        report, num_masked = self.begin_step(batch)
        pooled, image_tokens = self.encode(batch)
        parts = self.compare(pooled, batch.person_ids, soft_label)
        if num_masked is not None:
            parts["mlm"] = self.masked_language(batch, image_tokens, num_masked)
        return self.output(parts, report)

    accumulate = accumulate  # losses and gradients of one batch, part by part

    def begin_step(self, batch: Any) -> tuple[dict[str, Tensor], Tensor | None]:
        """Clamps the scale; returns the step's report, and for MLM the mean over the processes of the number
        of masked tokens in the batch.
        """
        scale = self.clip.logit_scale.detach().clamp_(max=MAX_LOGIT_SCALE)
        report, num_masked = {"logit_scale": scale.exp()}, None
        if "mlm" in self.weights:
            counts = [(batch.mlm_labels != IGNORED).sum(), batch.masked_tokens["attention_mask"].sum()]
            counts = torch.stack(counts).to(scale.device, torch.float32)
            num_masked, num_tokens = distributed.mean_over_ranks(counts)
            report["masked_share"] = num_masked / num_tokens
        return report, num_masked

    def output(self, parts: dict[str, Tensor], report: dict[str, Tensor]) -> LossOutput:
        """The weighted losses in their usual order, and their sum."""
        parts = {name: parts[name] for name in self.weights}
        return LossOutput(torch.stack(list(parts.values())).sum(), parts, report)

    def encode(
        self, batch: Any, names: Sequence[str] | None = None, dense: bool = True
    ) -> tuple[Features, Tensor | None]:
        """The features (B, D) of each input, the images of all views in one pass of the tower and the
        captions in another; and, for MLM and unless not `dense`, the tokens (B, 1 + P, D) of view1.

        Args:
            names: of `image_views` and `texts`, those to encode; None: all.
        """
        views, texts = (
            [name for name in inputs if names is None or name in names]
            for inputs in (self.image_views, self.texts)
        )
        pooled: Features = {}
        tokens = None
        if dense and "mlm" in self.weights and "view1" in views:  # no one reads the other views' tokens
            pooled["view1"], tokens = self._encode_images([batch.images["view1"]], return_dense=True)
            views = [view for view in views if view != "view1"]
        if views:
            rows = self._encode_images([batch.images[view] for view in views])
            pooled |= zip(views, rows.chunk(len(views)), strict=True)
        if texts:
            rows = self.clip.encode_text(_joined([getattr(batch, name) for name in texts]))
            pooled |= zip(texts, rows.chunk(len(texts)), strict=True)
        return pooled, tokens

    def _encode_images(
        self, views: list[Tensor], return_dense: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        pixels = torch.cat(views) if len(views) > 1 else views[0]
        at_once = CPU_IMAGES if pixels.device.type == "cpu" else len(pixels)
        passes = [self.clip.encode_image(rows, return_dense) for rows in pixels.split(at_once)]
        if return_dense:
            pooled, tokens = map(torch.cat, zip(*passes, strict=True))
            return pooled, tokens
        return torch.cat(passes)

    def masked_language(self, batch: Any, image_tokens: Tensor, num_masked: Tensor) -> Tensor:
        """MLM, weighted; of a part of a batch, with the `num_masked` of the whole, its share in the loss."""
        captions, labels = batch.masked_tokens, batch.mlm_labels.flatten()
        _, text_tokens = self.clip.encode_text(captions, return_dense=True)
        masked = (labels != IGNORED).nonzero()[:, 0]
        logits = self.mlm_head(text_tokens, image_tokens, captions["attention_mask"], masked)
        return self.weights["mlm"] * mlm_loss(logits.float(), labels[masked], num_masked)

    def compare(self, pooled: Features, person_ids: Tensor, soft_label: float) -> dict[str, Tensor]:
        """The losses on features of inputs, weighted: all but MLM."""
        parts = {}
        if "id" in self.weights:
            logits = [self.classifier(pooled[name]).float() for name in ("view1", "tokens")]
            parts["id"] = id_loss(*logits, person_ids)
        features = self._project(pooled)
        with torch.autocast(person_ids.device.type, enabled=False):
            parts |= self._contrast(features, person_ids, soft_label)
        return {name: self.weights[name] * part for name, part in parts.items()}

    def _project(self, pooled: Features) -> Features:
        """What is compared: normalised fp32 features, those of SS and SS-T through their heads."""
        rows = {}
        if PAIRED & set(self.weights):
            rows |= {name: pooled[name] for pair in self.nitc_pairs for name in pair}
        if "ss" in self.weights:
            rows |= {name: self.simclr_mlp(pooled[name]) for name in ("simclr1", "simclr2")}
        if "ss_text" in self.weights:
            rows |= {f"simclr_{name}": self.simclr_mlp_text(pooled[name]) for name in ("tokens", "tokens2")}
        return {name: F.normalize(features.float(), dim=1) for name, features in rows.items()}

    def _contrast(self, local: Features, person_ids: Tensor, soft_label: float) -> dict[str, Tensor]:
        """The losses that compare the local rows with those of all processes."""
        every = self._gather(local)
        offset = distributed.rank() * len(person_ids) if self.use_gather else 0
        parts = {}
        for name, (first, second) in {
            "ss": ("simclr1", "simclr2"),
            "ss_text": ("simclr_tokens", "simclr_tokens2"),
        }.items():
            if name in self.weights:
                views = (local[first], local[second], every[first], every[second])
                parts[name] = ss_loss(*views, offset, self.simclr_temperature)
        if PAIRED & set(self.weights):
            all_ids = distributed.gather_with_gradient(person_ids) if self.use_gather else person_ids
            parts |= self._match(local, every, person_ids, all_ids, soft_label)
        return parts

    def _gather(self, local: Features) -> Features:
        """The rows of all processes, by one collective for all features."""
        if not (self.use_gather and local):
            return local
        widths = [rows.shape[1] for rows in local.values()]
        every = distributed.gather_with_gradient(torch.cat(list(local.values()), dim=1))
        return dict(zip(local, every.split(widths, dim=1), strict=True))

    def _match(
        self, local: Features, every: Features, person_ids: Tensor, all_ids: Tensor, soft_label: float
    ) -> dict[str, Tensor]:
        """The losses on the similarities of images and captions."""
        targets, positives = identity_targets(person_ids, all_ids), person_ids[:, None] == all_ids
        scale = self.clip.logit_scale.exp()
        pairs = {
            (view, text): (local[view] @ every[text].T, local[text] @ every[view].T)
            for view, text in self.nitc_pairs
        }
        ways = pairs["view1", "tokens"]
        parts = {}
        if "nitc" in self.weights:
            both = [nitc_loss(scale * way, targets, soft_label) for ways in pairs.values() for way in ways]
            parts["nitc"] = torch.stack(both).mean()
        if "ritc" in self.weights:
            parts["ritc"] = sum(ritc_loss(scale * way, targets, self.ritc_eps) for way in ways) / 2
        if "citc" in self.weights:
            features = (local["view1"], local["tokens"], every["view1"], every["tokens"])
            parts["citc"] = citc_loss(*features, *self.citc_lambdas)
        if "sdm" in self.weights:
            parts["sdm"] = sum(sdm_loss(way, targets) for way in ways)
        if "tal" in self.weights:  # a sum over the batch of all processes, and what they report is averaged
            parts["tal"] = distributed.world_size() * sum(tal_loss(way, positives) for way in ways)
        if "sigmoid" in self.weights:
            parts["sigmoid"] = sigmoid_loss(scale * ways[0] + self.clip.logit_bias, positives)
        return parts


def _joined(captions: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Several batches of captions as one, padded to the longest of them."""
    if len(captions) == 1:
        return captions[0]
    longest = max(tokens["input_ids"].shape[1] for tokens in captions)
    return {
        name: torch.cat([F.pad(tokens[name], (0, longest - tokens[name].shape[1])) for tokens in captions])
        for name in captions[0]
    }
