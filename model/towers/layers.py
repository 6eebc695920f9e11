"""The layers of both towers: CLIP's pre-norm transformer, under OpenAI's parameter names."""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model.towers.recompute import linear_of

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
        """(B, L, width), or (B, 1, width) of `positions`.

        Args:
            x: (B, L, width).
            mask: bool, broadcast to (B, heads, L, L), true where a query sees a key.
            positions: (B,) the one position of each row that is a query; None: all.
        """
        batch, length, width = x.shape
        if positions is None:
            query, key, value = self._project(x, norm, slice(None))
        else:
            (query,) = self._project(rows_at(x, positions), norm, slice(width))
            key, value = self._project(x, norm, slice(width, None))
            if self.causal:
                mask = (torch.arange(length, device=x.device) <= positions[:, None])[:, None, None]
        x = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=self.causal and positions is None,
        )
        return self.out_proj(x.transpose(1, 2).reshape(batch, -1, width))

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
        """(B, L, width), or (B, 1, width) of `positions` (B,); arguments as of `Attention`."""
        kept = x if positions is None else rows_at(x, positions)
        x = kept + self.attn(x, self.ln_1, mask, positions)
        return x + self.mlp(x, self.ln_2)


def rows_at(x: Tensor, positions: Tensor) -> Tensor:
    """(B, L, width) at one position of each row, (B,): (B, 1, width)."""
    return x[torch.arange(x.shape[0], device=x.device), positions][:, None]


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
        self.activation, self.heads = activation, heads
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
        """(B, L, width) -> (B, L, width), or (B, 1, width) of `positions` (B,), for which the last
        block computes nothing else; `mask` as of `Attention`.
        """
        last = len(self.resblocks) - 1
        for number, block in enumerate(self.resblocks):
            arguments = (x, mask, positions if number == last else None)
            if self.grad_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, *arguments, use_reentrant=False, preserve_rng_state=self.has_dropout)
            else:
                x = block(*arguments)
        return x
