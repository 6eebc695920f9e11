"""An image tower of timm, as open_clip builds it, with the features of its patches."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.protocol import Selected, Selection
from model.towers.hub import recorded
from model.towers.layers import head_row, rows_at
from model.towers.selection import most_attended_patches


class TimmVision(nn.Module):
    """Images (B, 3, H, W) -> features (B, D).

    The feature of a patch is what the pooling and the projection make of that patch alone: of a class token,
    OpenAI's way; of an attention pooling, the value of the patch.

    Args:
        tower: open_clip's `TimmModel`, of the size of its weights.
        image_size: (height, width) in pixels; positions are resized to it as timm resizes them.

    Attributes:
        grid: rows and columns of patches, of convolutions those of the last map.
        selects_tokens: whether there is an attention over the patches that the feature is pooled by: that of
            a class token in the last block, or of an attention pooling.
        pooling: see `DualEncoder.pooling`.
    """

    def __init__(self, tower: nn.Module, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.tower, self.image_size = tower, image_size
        trunk = tower.trunk
        if hasattr(trunk, "set_input_size"):  # convolutions take any size
            trunk.set_input_size(image_size)
        stride = trunk.feature_info[-1]["reduction"]
        self.grid = (image_size[0] // stride, image_size[1] // stride)
        self.num_prefix_tokens = getattr(trunk, "num_prefix_tokens", 0)
        self.has_batch_norm = any(
            isinstance(part, nn.modules.batchnorm._BatchNorm) for part in trunk.modules()
        )
        self.selects_tokens = self._attention() is not None
        self.shows_blocks = hasattr(trunk, "num_prefix_tokens")  # a vision transformer, no convolutions
        is_class = getattr(trunk, "global_pool", None) == "token"
        has_attention = getattr(trunk, "attn_pool", None) is not None
        self.pooling = "attention" if has_attention else "class" if is_class else "mean"

    def train(self, mode: bool = True) -> "TimmVision":
        """Batch normalisation stays in evaluation mode: with the statistics of a batch, parts of a batch
        would not give the gradients of the whole, nor several processes those of one.
        """
        super().train(mode)
        for part in self.tower.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                part.eval()
        return self

    def lockable(self) -> tuple[nn.Module, list[nn.Module | nn.Parameter], nn.ModuleList]:
        """Of `Lockable`: the patch embedding, all embeddings, the blocks."""
        trunk = self.tower.trunk
        first = trunk.patch_embed if hasattr(trunk, "patch_embed") else trunk.stem
        names = ("cls_token", "reg_token", "pos_embed", "norm_pre")
        others = [part for name in names if (part := getattr(trunk, name, None)) is not None]
        blocks = next(getattr(trunk, name) for name in ("blocks", "stages", "layers") if hasattr(trunk, name))
        return first, [first, *others], nn.ModuleList(blocks)

    def checkpoint_blocks(self) -> None:
        """Keep only the input of each block, and recompute the block in the backward pass."""
        self.tower.trunk.set_grad_checkpointing(True)

    def forward(
        self, pixel_values: Tensor, return_dense: bool = False, select: Selection | None = None
    ) -> Tensor | tuple[Tensor, ...]:
        """See `DualEncoder.encode_image`: row 0 of the dense ones is the feature."""
        assert pixel_values.shape[-2:] == self.image_size, (tuple(pixel_values.shape), self.image_size)
        attention = None if select is None else self._attention()
        with recorded(*(() if attention is None else (attention.q_norm, attention.k_norm))) as projected:
            x = self.tower.trunk.forward_features(pixel_values)
            pooled = self._pool(x)
        if not return_dense and attention is None:
            return pooled
        patches = self._patches(x)
        tokens = torch.cat([pooled[:, None], self._alone(patches)], dim=1) if return_dense else None
        if attention is None:
            return pooled, tokens
        row = head_row(*self._rotated(*projected))[:, -patches.shape[1] :]
        chosen = most_attended_patches(F.pad(row, (1, 0)), select.share) - 1
        return pooled, tokens, Selected(self._alone(rows_at(patches, chosen)), None)

    def finish(self, x: Tensor) -> Tensor:
        """See `DualEncoder.shows_blocks`."""
        return self._alone(self._patches(self.tower.trunk.norm(x)))

    def _pool(self, x: Tensor) -> Tensor:
        return self.tower.head(self.tower.trunk.forward_head(x))

    def _patches(self, x: Tensor) -> Tensor:
        """The output of the trunk -> (B, P, width), row by row."""
        if x.ndim == 3:
            return x[:, self.num_prefix_tokens :]
        return x.flatten(1, 2) if self._is_channels_last else x.flatten(2).transpose(1, 2)

    def _alone(self, patches: Tensor) -> Tensor:
        """(B, K, width) -> (B, K, D), each pooled and projected by itself."""
        x = patches.flatten(0, 1)
        if hasattr(self.tower.trunk, "num_prefix_tokens"):  # some poolings leave out the first tokens
            x = x[:, None].expand(-1, 1 + self.num_prefix_tokens, -1)
        else:
            x = x[:, None, None] if self._is_channels_last else x[:, :, None, None]
        return self._pool(x).unflatten(0, patches.shape[:2])

    @property
    def _is_channels_last(self) -> bool:
        return getattr(self.tower.trunk, "output_fmt", "NCHW") == "NHWC"

    def _attention(self) -> nn.Module | None:
        """The attention by whose first row the feature is pooled, with its queries and keys as the outputs of
        `q_norm` and `k_norm`, (B, heads, N, width / heads); None: there is none.
        """
        trunk = self.tower.trunk
        if getattr(trunk, "attn_pool", None) is not None:
            return trunk.attn_pool if getattr(trunk.attn_pool, "latent_len", 0) == 1 else None
        if getattr(trunk, "global_pool", None) != "token" or getattr(trunk, "rope_mixed", False):
            return None
        attention = getattr(trunk.blocks[-1], "attn", None)
        is_plain = all(
            getattr(attention, name, None) is None for name in ("rel_pos", "relative_position_index")
        )
        return attention if is_plain and hasattr(attention, "k_norm") else None

    def _rotated(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys with their rotary positions; the first query, of the class token, has none."""
        trunk = self.tower.trunk
        if getattr(trunk, "rope", None) is None or trunk.attn_pool is not None:
            return query, key
        from timm.layers import apply_rot_embed_cat

        first = self.num_prefix_tokens
        half = getattr(trunk.blocks[-1].attn, "rotate_half", False)
        patches = apply_rot_embed_cat(key[:, :, first:], trunk.rope.get_embed(), half=half)
        return query, torch.cat([key[:, :, :first], patches.type_as(key)], dim=2)
