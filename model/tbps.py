"""TBPS-CLIP: two towers and the losses that the options switch on: encode, gather, objectives, output."""

from collections.abc import Collection, Mapping
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from data.types import TEXTS, VIEWS, Batch, Tokens
from misc.process import distributed
from model.encoded import Encoded, view_groups
from model.mismatch import Mismatch
from model.mlm import join_captions, padded
from model.objective import LossOutput, Objective, Pairs, Rows, SumObjective, TokenObjective, renamed
from model.protocol import DualEncoder, Selection

# glibc returns tensors of more than 32 MB to the kernel one by one. Those of this many images stay below that
# size, which avoids page faults that cost a tenth of a step.
CPU_IMAGES = 8


class TBPS(nn.Module):
    """Towers and objectives -> named losses over the batch of all processes.

    Args:
        clip: the towers.
        objectives: the losses, by name.
        weights: the weight of each.
        rewrites: whether each loss on the captions, but those on tokens, has another term on rewritten ones.
        use_gather: contrast with the rows of all processes; otherwise with the local ones only.
        masks_captions: whether the losses read masked captions, with the masked words as labels.
        mismatch: watches that of these words; None: it is not needed.

    Attributes:
        inputs: the inputs of a batch that the objectives read; of these, `views` and `texts` are encoded.
        embed_dim: E, the width of what `embed` returns.
        step: finished steps of the optimizer, which some objectives depend on in training; the caller's.
    """

    def __init__(
        self,
        clip: DualEncoder,
        objectives: Mapping[str, Objective],
        weights: Mapping[str, float],
        use_gather: bool = True,
        rewrites: bool = False,
        masks_captions: bool = False,
        mismatch: Mismatch | None = None,
    ) -> None:
        super().__init__()
        self.clip, self.use_gather, self.mismatch = clip, use_gather, mismatch
        self.objectives, self.weights = dict(objectives), dict(weights)
        self.step = 0
        for objective in objectives.values():
            if objective.head is not None:
                self.add_module(objective.head_name, objective.head)
        self.rewritten = {
            name: objective
            for name, objective in objectives.items()
            if rewrites and "tokens" in objective.inputs and not isinstance(objective, TokenObjective)
        }
        inputs = {name for objective in objectives.values() for name in objective.inputs}
        more = {"rewritten": bool(self.rewritten), "mlm_labels": masks_captions}
        self.inputs = frozenset(inputs | {name for name, is_read in more.items() if is_read})
        self.views = [name for name in VIEWS if name in self.inputs]
        self.texts = [name for name in TEXTS if name in self.inputs]
        self.embedders = [objective for objective in objectives.values() if objective.acts_at_test]
        self.token_objectives = {
            name: objective for name, objective in objectives.items() if isinstance(objective, TokenObjective)
        }
        self.dense = {name for objective in self.token_objectives.values() for name in objective.dense}
        self._freeze_unused()

    def _freeze_unused(self) -> None:
        """Freeze what no loss reaches, so that every trained parameter has a gradient in every step."""
        if not self.views:
            self.clip.visual.requires_grad_(False)
        if not self.texts and "masked_tokens" not in self.inputs:
            self.clip.text.requires_grad_(False)
        if not any(objective.uses_scale for objective in self.objectives.values()):
            self.clip.logit_scale.requires_grad_(False)

    @property
    def embed_dim(self) -> int:
        """The embedding's width, with those of the heads that embed."""
        return self.clip.embed_dim + sum(objective.embed_dim for objective in self.embedders)

    def embed(self, inputs: Tensor | Tokens) -> Tensor:
        """The features that a gallery is ranked by: pixels (B, 3, H, W), or the tokens of B captions ->
        (B, E), not normalised.

        The pooled features or, where heads embed too, all of them normalised and side by side: the cosine of
        two is then the mean of the cosines of the parts, weighted by `Objective.score_weight`.
        """
        is_image = isinstance(inputs, Tensor)
        encode = self.clip.encode_image if is_image else self.clip.encode_text
        if not self.embedders:
            return encode(inputs)
        mask = None if is_image else inputs["attention_mask"]
        encoded = Encoded.of(encode(inputs, self._reads_all, self._select), mask)
        parts = [(encoded.pooled, 1.0)]
        parts += [(o.embed(*encoded.read_by(o)), o.score_weight) for o in self.embedders]
        return torch.cat([weight**0.5 * F.normalize(part.float(), dim=1) for part, weight in parts], dim=1)

    @property
    def _reads_all(self) -> bool:
        """Whether a head that embeds reads all tokens."""
        return any(objective.select is None for objective in self.embedders)

    @property
    def _select(self) -> Selection | None:
        """The tokens that heads which embed select; None: there is no such head."""
        wanted = {o.select_at(self.step) if self.training else o.select for o in self.embedders} - {None}
        assert len(wanted) <= 1, f"the towers make one selection of the tokens, not {sorted(wanted)}"
        return wanted.pop() if wanted else None

    def forward(self, batch: Batch, soft_label: float) -> LossOutput:
        """The losses of one batch.

        Args:
            batch: what no objective reads may be missing or None.
            soft_label: the share a of the model's own prediction in the targets of N-ITC.
        """
        counts = self.begin_step(batch)
        features, tokens = self.encode(batch)
        losses = self.losses(self.gather(features, batch, soft_label))
        return self.output(losses | self.token_losses(batch, tokens, counts), counts)

    def begin_step(self, batch: Batch) -> dict[str, Tensor]:
        """Clamps the scale; returns the counts of the objectives on tokens, as means over the processes."""
        self.clip.logit_scale.detach().clamp_(max=self.clip.max_logit_scale)
        device = self.clip.logit_scale.device
        return {
            name: distributed.mean_over_ranks(objective.count(batch).to(device))
            for name, objective in self.token_objectives.items()
        }

    def passes(self) -> list[list[str]]:
        """The inputs in groups, for those who encode one after another: a view each, then the captions; view1
        with the captions where an objective reads the tokens of both.
        """
        views = [[view] for view in self.views]
        if not self.texts:
            return views
        if set(self.texts) & self.dense:
            return [["view1", *self.texts], *(group for group in views if group != ["view1"])]
        return [*views, self.texts]

    def encode(
        self, batch: Batch, names: Collection[str] | None = None, keep_tokens: bool = True
    ) -> tuple[Rows, Rows]:
        """The features (B, D) of each input, the images of all views in one pass of the tower and the
        captions in another; and the tokens (B, L, D) that the objectives on tokens read.

        Args:
            names: of `views` and `texts`, those to encode; None: all.
            keep_tokens: false where the objectives on tokens are not computed.
        """
        views, texts = (
            [name for name in inputs if names is None or name in names] for inputs in (self.views, self.texts)
        )
        dense = self.dense if keep_tokens else set()
        features: Rows = {}
        tokens: Rows = {}
        for group in view_groups(views, dense):
            is_watched = self.mismatch and keep_tokens and "view1" in group
            with self.mismatch.watching(batch) if is_watched else nullcontext():
                images = [batch.images[view] for view in group]
                encoded = self._encode_images(images, *self._wanted(group, dense))
            self._add(features, tokens, group, encoded, dense)
        if texts:
            captions = join_captions([padded(getattr(batch, name), self._pad_to(dense)) for name in texts])
            encoded = self.clip.encode_text(captions, *self._wanted(texts, dense))
            mask = captions["attention_mask"]
            self._add(features, tokens, texts, Encoded.of(encoded, mask), dense)
        return features, tokens

    def _wanted(self, group: list[str], dense: Collection[str]) -> tuple[bool, Selection | None]:
        """`return_dense` and `select` of the towers for inputs that are encoded together."""
        is_embedded = any(set(group) & set(objective.inputs) for objective in self.embedders)
        is_dense = bool(set(group) & set(dense)) or (is_embedded and self._reads_all)
        return is_dense, self._select if is_embedded else None

    def _pad_to(self, dense: Collection[str]) -> int | None:
        """The length that captions are padded to, where the tokens of padding are read."""
        lengths = [o.pad_to for o in self.token_objectives.values() if {*o.dense} & {*self.texts} & {*dense}]
        return next(filter(None, lengths), None)

    def _add(
        self, features: Rows, tokens: Rows, names: list[str], encoded: Encoded, dense: Collection[str]
    ) -> None:
        """Add the rows of inputs that were encoded together: pooled, of the heads that embed, of tokens."""
        for name, own in zip(names, encoded.chunk(len(names)), strict=True):
            features[name] = own.pooled
            for objective in self.embedders:
                read_as = "tokens" if name == "rewritten" else name
                if read_as in objective.inputs:  # no other row of the head is read
                    features[f"{name}/{objective.head_name}"] = objective.keep(*own.read_by(objective))
            if name in dense:
                tokens[name] = own.tokens

    def _encode_images(self, views: list[Tensor], is_dense: bool, select: Selection | None) -> Encoded:
        pixels = torch.cat(views) if len(views) > 1 else views[0]
        at_once = CPU_IMAGES if pixels.device.type == "cpu" else len(pixels)
        passes = [Encoded.of(self.clip.encode_image(p, is_dense, select)) for p in pixels.split(at_once)]
        return Encoded.joined(passes)

    def gather(self, features: Rows, batch: Batch, soft_label: float) -> Pairs:
        """What the objectives contrast, normalised and not, of this process and of all, by one collective.

        Of the batch, person ids and weights are read, on the device of the features.
        """
        person_ids = batch.person_ids
        projected: Rows = {}
        for objective in self.objectives.values():
            projected |= objective.project(features)
        rewritten = renamed(features, "rewritten", "tokens")
        for objective in self.rewritten.values():
            projected |= renamed(objective.project(rewritten), "tokens", "rewritten")
        with torch.autocast(person_ids.device.type, enabled=False):
            own = {name: rows.float() for name, rows in projected.items()}
            local = {name: F.normalize(rows, dim=1) for name, rows in own.items()}
            every, gathered, all_ids, offset = own, local, person_ids, 0
            if self.use_gather and own:
                widths = [rows.shape[1] for rows in own.values()]
                number = batch.num_samples
                rows = distributed.gather_with_gradient(torch.cat(list(own.values()), dim=1), number)
                every = dict(zip(own, rows.split(widths, dim=1), strict=True))
                gathered = {name: F.normalize(rows, dim=1) for name, rows in every.items()}
                all_ids = distributed.gather_with_gradient(person_ids, number)
                offset = distributed.own_share(len(all_ids)).start
            scale, bias = self.clip.logit_scale.exp(), self.clip.logit_bias
            rows = (features | own, every, local, gathered, person_ids, all_ids, offset)
            shares = (batch.weights, batch.num_samples, batch.rewritten_weight)
            return Pairs(*rows, scale, bias, soft_label, *shares)

    def losses(self, pairs: Pairs) -> dict[str, Tensor]:
        """The objectives on features of inputs, weighted; their means over the processes are those of the
        whole batch. Of a large batch, blocks of rows are computed one after another, and again in backward.
        """
        blocks = pairs.blocks()
        with torch.autocast(pairs.person_ids.device.type, enabled=False):
            if len(blocks) <= 1:
                found = self._losses(pairs)
            else:
                settings = {"use_reentrant": False, "preserve_rng_state": False}
                parts = [checkpoint(self._losses, pairs, block, **settings) for block in blocks]
                shares = [(block.stop - block.start) / len(pairs.person_ids) for block in blocks]
                found = {}
                for name in parts[0]:
                    factors = (
                        [1.0] * len(blocks) if isinstance(self.objectives[name], SumObjective) else shares
                    )
                    found[name] = sum(f * part[name] for f, part in zip(factors, parts, strict=True))
            return {n: self.weights[n] * self._share(n, pairs) * loss for n, loss in found.items()}

    def _losses(self, pairs: Pairs, part: slice | None = None) -> dict[str, Tensor]:
        """The local losses, of a part of the rows."""
        pairs = pairs.rows(part) if part else pairs  # here: what pairs compute once, they keep
        contrasted = {n: o for n, o in self.objectives.items() if n not in self.token_objectives}
        return {name: self._loss(name, objective, pairs) for name, objective in contrasted.items()}

    def _loss(self, name: str, objective: Objective, pairs: Pairs) -> Tensor:
        """The local loss, with the term of the rewritten captions."""
        loss = objective(pairs)
        if name not in self.rewritten:
            return loss
        return loss + pairs.rewritten_weight * objective(pairs.rewritten)

    def _share(self, name: str, pairs: Pairs) -> float:
        """The factor of the local loss in the mean over the processes."""
        if isinstance(self.objectives[name], SumObjective):
            return distributed.world_size()
        if pairs.num_samples is None:
            return 1.0
        return len(pairs.person_ids) * distributed.world_size() / pairs.num_samples

    def token_losses(self, batch: Batch, tokens: Rows, counts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The objectives on tokens, weighted; of a part of a batch, its share in them."""
        return {
            name: self.weights[name] * objective.loss(self.clip, batch, tokens, counts[name])
            for name, objective in self.token_objectives.items()
        }

    def output(self, losses: Mapping[str, Tensor], counts: Mapping[str, Tensor]) -> LossOutput:
        """The weighted losses in the order of the objectives, their sum, and what is logged beside them."""
        parts = {name: losses[name] for name in self.objectives}
        report = {"logit_scale": self.clip.logit_scale.detach().exp()}
        for name, objective in self.token_objectives.items():
            report |= objective.report(counts[name])
        mismatch = self.mismatch.take() if self.mismatch else None
        return LossOutput(torch.stack(list(parts.values())).sum(), parts, report, mismatch)
