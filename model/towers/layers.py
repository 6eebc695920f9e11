"""The layers of both towers: CLIP's pre-norm transformer, under OpenAI's parameter names."""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model.towers.recompute import linear_of
from model.towers.selection import rollout_row

QUICK = 1.702  # of QuickGELU
# An activation is function(scale x) / scale: its two factors are part of the MLP's products, at no cost.
ACTIVATIONS = {"quick_gelu": (F.silu, QUICK), "gelu": (F.gelu, 1.0)}


class LayerNorm(nn.LayerNorm):
    """Layer normalisation in fp32, returned in the input's type: half precision would lose the variance."""

    def forward(self, x: Tensor) -> Tensor:
        return _layer_norm(x, self.weight, self.bias, self.eps)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor, alpha: float = 1.0) -> Tensor:
        """alpha * self(x) @ weight.T + bias, which keeps x for the backward pass and not self(x)."""
        norm = functools.partial(_layer_norm, eps=self.eps)
        return linear_of(norm, (x, self.weight, self.bias), weight, bias, alpha)


def _layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x.float(), weight.shape, weight.float(), bias.float(), eps).to(x.dtype)


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x): the approximation of GELU that OpenAI's weights were trained with.

    Written through SiLU, z * sigmoid(z): its fused kernel keeps one tensor for the backward pass, not two.
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(QUICK * x) / QUICK


class Attention(nn.Module):
    """Multi-head self-attention over norm(x), x (B, L, width); the caller owns the norm.

    Args:
        dropout: probability of dropping an attention weight, in training mode only.
        causal: position i sees positions 0..i; no mask tensor is made for it.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0, causal: bool = False) -> None:
        super().__init__()
        assert width % heads == 0, f"width {width} does not divide into {heads} heads"
        self.heads, self.dropout, self.causal = heads, dropout, causal
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(
        self, x: Tensor, norm: LayerNorm, mask: Tensor | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """(B, L, width), or (B, Q, width) of `positions`.

        Args:
            x: (B, L, width).
            mask: bool, broadcast to (B, heads, L, L), true where a query sees a key.
            positions: (B, Q) the positions of each row that are queries; None: all.
        """
        batch, length, width = x.shape
        if positions is None:
            query, key, value = self._project(x, norm, slice(None))
        else:
            (query,) = self._project(rows_at(x, positions), norm, slice(width))
            key, value = self._project(x, norm, slice(width, None))
            mask = self._seen(length, positions) if self.causal else mask
        x = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=self.causal and positions is None,
        )
        return self.out_proj(x.transpose(1, 2).reshape(batch, -1, width))

    @staticmethod
    def _seen(length: int, positions: Tensor) -> Tensor:
        """(B, 1, Q, L) which keys a query at one of `positions` (B, Q) sees."""
        return (torch.arange(length, device=positions.device) <= positions[..., None])[:, None]

    @torch.no_grad()
    def row(self, x: Tensor, norm: LayerNorm, position: Tensor) -> Tensor:
        """(B, L) the attention of the query at `position` (B, 1), averaged over the heads, without gradient.

        One row is a matrix-vector product; no other row of the matrix is made.
        """
        length, width = x.shape[1:]
        (query,) = self._project(rows_at(x, position), norm, slice(width))
        (key,) = self._project(x, norm, slice(width, 2 * width))
        logits = (query @ key.transpose(-2, -1)).float() * query.shape[-1] ** -0.5
        if self.causal:
            logits = logits.masked_fill(~self._seen(length, position), -torch.inf)
        return logits.softmax(dim=-1).mean(dim=1)[:, 0]

    @torch.no_grad()
    def matrix(self, x: Tensor, norm: LayerNorm) -> Tensor:
        """(B, L, L) the attention of all queries, averaged over the heads, without gradient."""
        length, width = x.shape[1:]
        query, key = self._project(x, norm, slice(2 * width))
        seen = self._seen(length, torch.arange(length, device=x.device)[None])[:, 0] if self.causal else None
        return head_matrix(query, key, seen)

    def _project(self, x: Tensor, norm: LayerNorm, rows: slice) -> Tensor:
        """Queries, keys and values, those of the `rows` of the fused projection:
        (1 to 3, B, heads, L, width / heads).
        """
        projected = norm.linear(x, self.in_proj_weight[rows], self.in_proj_bias[rows])
        width = x.shape[2]
        return projected.view(*x.shape[:2], -1, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)


class MLP(nn.Module):
    """width -> 4 width -> width over norm(x), with an activation between, by its name in `ACTIVATIONS`.

    QuickGELU is silu(1.702 x) / 1.702.
    """

    def __init__(self, width: int, activation: str) -> None:
        super().__init__()
        self.activation, self.scale = ACTIVATIONS[activation]
        self.c_fc, self.c_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, norm: LayerNorm) -> Tensor:
        hidden = norm.linear(x, self.c_fc.weight, self.scale * self.c_fc.bias, alpha=self.scale)
        weight, bias = self.c_proj.weight, self.c_proj.bias
        return linear_of(self.activation, (hidden,), weight, bias, alpha=1 / self.scale)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), with an MLP four times as wide."""

    def __init__(
        self, width: int, heads: int, dropout: float, causal: bool, activation: str = "quick_gelu"
    ) -> None:
        super().__init__()
        self.ln_1 = LayerNorm(width)
        self.attn = Attention(width, heads, dropout, causal)
        self.ln_2 = LayerNorm(width)
        self.mlp = MLP(width, activation)

    def forward(self, x: Tensor, mask: Tensor | None = None, positions: Tensor | None = None) -> Tensor:
        """(B, L, width), or (B, Q, width) of `positions` (B, Q); arguments as of `Attention`."""
        kept = x if positions is None else rows_at(x, positions)
        x = kept + self.attn(x, self.ln_1, mask, positions)
        return x + self.mlp(x, self.ln_2)


def rows_at(x: Tensor, positions: Tensor) -> Tensor:
    """(B, L, width) at some positions of each row, (B, Q): (B, Q, width)."""
    return x[torch.arange(x.shape[0], device=x.device)[:, None], positions]


def head_row(query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
    """(B, L) the attention of the first of the queries, averaged over the heads.

    Args:
        query, key: (B, heads, Q, width / heads), (B, heads, L, width / heads).
        mask: (B, L), 0 where a key is not seen.
    """
    logits = (query[:, :, :1] @ key.transpose(-2, -1)).float() * query.shape[-1] ** -0.5
    if mask is not None:
        logits = logits.masked_fill(mask[:, None, None] == 0, -torch.inf)
    return logits.softmax(dim=-1).mean(dim=1)[:, 0]


def head_matrix(query: Tensor, key: Tensor, seen: Tensor | None = None) -> Tensor:
    """(B, Q, L) the attention of all queries, averaged over the heads: one after another, to save memory.

    Args:
        query, key: (B, heads, Q, width / heads), (B, heads, L, width / heads).
        seen: bool, broadcast to (B, Q, L), which keys a query sees.
    """
    total = torch.zeros((), device=query.device)
    for own_query, own_key in zip(query.unbind(1), key.unbind(1), strict=True):
        logits = (own_query @ own_key.transpose(-2, -1)).float() * query.shape[-1] ** -0.5
        logits = logits if seen is None else logits.masked_fill(~seen, -torch.inf)
        total = total + logits.softmax(dim=-1)
    return total / query.shape[1]


class Transformer(nn.Module):
    """A stack of `layers` blocks over (B, L, width), initialised as OpenAI's text tower.

    Standard deviations: width^-1/2 into the attention, (2 width)^-1/2 into the MLP, and
    width^-1/2 (2 layers)^-1/2 for the two projections that write into the residual stream, so that its
    variance does not grow with depth.

    Attributes:
        grad_checkpointing: keep only the input of each block, and recompute the block in the backward pass.
    """

    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        dropout: float = 0.0,
        causal: bool = False,
        activation: str = "quick_gelu",
    ) -> None:
        super().__init__()
        self.activation, self.heads, self.causal = activation, heads, causal
        self.grad_checkpointing = False
        self.has_dropout = dropout > 0
        self.resblocks = nn.ModuleList(
            Block(width, heads, dropout, causal, activation) for _ in range(layers)
        )
        residual_std = width**-0.5 * (2 * max(1, layers)) ** -0.5
        for block in self.resblocks:
            nn.init.normal_(block.attn.in_proj_weight, std=width**-0.5)
            nn.init.normal_(block.mlp.c_fc.weight, std=(2 * width) ** -0.5)
            for projection in (block.attn.out_proj, block.mlp.c_proj):
                nn.init.normal_(projection.weight, std=residual_std)
            for linear in (block.attn.out_proj, block.mlp.c_fc, block.mlp.c_proj):
                nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, mask: Tensor | None = None, positions: Tensor | None = None) -> Tensor:
        """(B, L, width) -> (B, L, width), or (B, Q, width) of `positions` (B, Q), for which the last block
        computes nothing else; `mask` as of `Attention`.
        """
        for block in self.resblocks[:-1]:
            x = self._through(block, x, mask, None)
        for block in self.resblocks[-1:]:
            x = self._through(block, x, mask, positions)
        return x

    def before_last(
        self, x: Tensor, position: Tensor, rollout: tuple[int, int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """The input (B, L, width) of the last block, and the attention (B, L) that it pays at `position`
        (B, 1), averaged over the heads, without a mask; with `rollout` that of two `Selection.blocks`.
        """
        last, both = self.resblocks[-1], [self.resblocks[number] for number in rollout or ()]
        matrices = []
        for block in self.resblocks:
            if block in both:
                matrices.append(block.attn.matrix(x, block.ln_1))
            x = x if block is last else self._through(block, x, None, None)
        if rollout is None:
            return x, last.attn.row(x, last.ln_1, position)
        # More than a quarter of a causal matrix is 0 as it is.
        return x, rollout_row(*matrices, position, drops=not self.causal)

    def last(self, x: Tensor, position: Tensor, chosen: Tensor, all_rows: bool) -> tuple[Tensor, Tensor]:
        """The last block's rows, of its input: all or those needed; and where the `chosen` ones are in them.

        Returns:
            the rows (B, L, width) and `chosen` (B, Q), or the rows (B, 1 + Q, width) at `position` (B, 1)
            and the chosen ones, and the positions 1 to Q.
        """
        last = self.resblocks[-1]
        if all_rows:
            return self._through(last, x, None, None), chosen
        x = self._through(last, x, None, torch.cat([position, chosen], dim=1))
        return x, torch.arange(1, x.shape[1], device=x.device).expand(x.shape[0], -1)

    def _through(self, block: Block, x: Tensor, mask: Tensor | None, positions: Tensor | None) -> Tensor:
        if self.grad_checkpointing and torch.is_grad_enabled():
            has_dropout = self.has_dropout
            return checkpoint(block, x, mask, positions, use_reentrant=False, preserve_rng_state=has_dropout)
        return block(x, mask, positions)
