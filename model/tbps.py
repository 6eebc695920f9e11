"""TBPS-CLIP: the two towers, the heads, and the losses that the options switch on."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from misc import distributed
from model.heads import simclr_head
from model.losses import citc_loss, identity_targets, nitc_loss, ritc_loss, ss_loss

MAX_LOGIT_SCALE = math.log(100)


class LossOutput(NamedTuple):
    """`total` to call backward on, the weighted `parts` it sums, and a `report` of other scalars."""

    total: Tensor
    parts: dict[str, Tensor]
    report: dict[str, Tensor]


class TBPS(nn.Module):
    """Towers and heads -> named losses over the batch of all processes.

    Args:
        clip: the towers (`encode_image`, `encode_text`, `logit_scale`, `embed_dim`).
        weights: the weight of each loss that is on, of nitc, ritc, citc, ss.
        ritc_eps, citc_lambdas, simclr_temperature: see `model.losses`.
        simclr_mlp: widths of the SimCLR head; None at the ends for the embedding's width.
        mvs_image: N-ITC also on a second view of the image, averaged (paper, MVS-I).
        use_gather: contrast with the rows of all processes; otherwise with the local ones only.
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
        use_gather: bool = True,
    ) -> None:
        super().__init__()
        self.clip = clip
        self.weights = weights
        self.ritc_eps = ritc_eps
        self.citc_lambdas = citc_lambdas
        self.simclr_temperature = simclr_temperature
        self.mvs_image = mvs_image and "nitc" in weights
        self.use_gather = use_gather
        self.matches_text = any(name in weights for name in ("nitc", "ritc", "citc"))
        if "ss" in weights:
            first, hidden, last = simclr_mlp
            self.simclr_mlp = simclr_head(first or clip.embed_dim, hidden, last or clip.embed_dim)
        self._freeze_unused()

    def _freeze_unused(self) -> None:
        """Freeze what no loss reaches, so that every trained parameter has a gradient in every step."""
        if not self.matches_text:
            self.clip.text.requires_grad_(False)
        if not {"nitc", "ritc"} & set(self.weights):
            self.clip.logit_scale.requires_grad_(False)

    def forward(self, batch: Any, soft_label: float) -> LossOutput:
        """The losses of one batch.

        Args:
            batch: `images` {view: (B, 3, H, W)}, `tokens` {input_ids, attention_mask} (B, L), `person_ids`
                (B,).
            soft_label: the share a of the model's own prediction in the targets of N-ITC.
        """
        with torch.no_grad():
            self.clip.logit_scale.clamp_(max=MAX_LOGIT_SCALE)
        local = self._features(batch)
        with torch.autocast(batch.person_ids.device.type, enabled=False):
            every = self._gather(local)
            parts = self._contrast(local, every, batch.person_ids, soft_label) if self.matches_text else {}
            if "ss" in self.weights:
                views = (local["simclr1"], local["simclr2"], every["simclr1"], every["simclr2"])
                parts["ss"] = ss_loss(*views, self._offset(batch), self.simclr_temperature)
        parts = {name: self.weights[name] * loss for name, loss in parts.items()}
        total = torch.stack(list(parts.values())).sum()
        return LossOutput(total, parts, {"logit_scale": self.clip.logit_scale.detach().exp()})

    def _features(self, batch: Any) -> dict[str, Tensor]:
        """Normalised fp32 features of the local rows; all views of the images in one pass of the tower."""
        views = list(batch.images)
        pixels = torch.cat(list(batch.images.values())) if len(views) > 1 else batch.images[views[0]]
        features = dict(zip(views, self.clip.encode_image(pixels).chunk(len(views)), strict=True))
        for view in ("simclr1", "simclr2"):
            if view in features:
                features[view] = self.simclr_mlp(features[view])
        if self.matches_text:
            features["text"] = self.clip.encode_text(batch.tokens)
        return {name: F.normalize(rows.float(), dim=1) for name, rows in features.items()}

    def _gather(self, local: dict[str, Tensor]) -> dict[str, Tensor]:
        """The rows of all processes, by one collective for all features."""
        if not self.use_gather:
            return local
        widths = [rows.shape[1] for rows in local.values()]
        every = distributed.gather_with_gradient(torch.cat(list(local.values()), dim=1))
        return dict(zip(local, every.split(widths, dim=1), strict=True))

    def _offset(self, batch: Any) -> int:
        return distributed.rank() * len(batch.person_ids) if self.use_gather else 0

    def _contrast(
        self, local: dict[str, Tensor], every: dict[str, Tensor], person_ids: Tensor, soft_label: float
    ) -> dict[str, Tensor]:
        all_ids = distributed.gather_with_gradient(person_ids) if self.use_gather else person_ids
        targets = identity_targets(person_ids, all_ids)
        scale = self.clip.logit_scale.exp()
        views = ["view1", "view2"] if self.mvs_image else ["view1"]
        logits = {
            view: (scale * local[view] @ every["text"].T, scale * local["text"] @ every[view].T)
            for view in views
        }
        parts = {}
        if "nitc" in self.weights:
            both = [nitc_loss(way, targets, soft_label) for view in views for way in logits[view]]
            parts["nitc"] = torch.stack(both).mean()
        if "ritc" in self.weights:
            both = [ritc_loss(way, targets, self.ritc_eps) for way in logits["view1"]]
            parts["ritc"] = torch.stack(both).mean()
        if "citc" in self.weights:
            features = (local["view1"], local["text"], every["view1"], every["text"])
            parts["citc"] = citc_loss(*features, *self.citc_lambdas)
        return parts
