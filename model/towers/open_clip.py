"""The towers that open_clip has of its own, and those of transformers in it, with features of tokens."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.protocol import Selected, Selection
from model.towers.hub import recorded
from model.towers.layers import head_row, rows_at
from model.towers.selection import most_attended_patches, most_attended_words, words_of


class PlainVision(nn.Module):
    """Images (B, 3, H, W) -> features (B, D), by open_clip's vision transformer.

    Args:
        tower: open_clip's `VisionTransformer`, without attention pooling, of the size of its weights.
        image_size: (height, width) in pixels; positions are resized to it as open_clip resizes them.
    """

    has_batch_norm = False
    shows_blocks = True

    def __init__(self, tower: nn.Module, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.tower, self.image_size = tower, image_size
        self.grid = tuple(side // patch for side, patch in zip(image_size, tower.patch_size, strict=True))
        positions = resize_positions(tower.positional_embedding.detach(), tower.grid_size, self.grid)
        tower.positional_embedding = nn.Parameter(positions, tower.positional_embedding.requires_grad)
        tower.grid_size, tower.image_size = self.grid, image_size
        is_plain = isinstance(tower.transformer.resblocks[-1].attn, nn.MultiheadAttention)
        self.selects_tokens = tower.pool_type == "tok" and is_plain
        self.pooling = "class" if tower.pool_type == "tok" else "mean"

    def lockable(self) -> tuple[nn.Module, list[nn.Module | nn.Parameter], nn.ModuleList]:
        """Of `Lockable`: the patch embedding, all embeddings, the blocks."""
        tower = self.tower
        others = [tower.class_embedding, tower.positional_embedding, tower.ln_pre]
        return tower.conv1, [tower.conv1, *others], tower.transformer.resblocks

    def checkpoint_blocks(self) -> None:
        """Keep only the input of each block, and recompute the block in the backward pass."""
        self.tower.transformer.grad_checkpointing = True

    def forward(
        self, pixel_values: Tensor, return_dense: bool = False, select: Selection | None = None
    ) -> Tensor | tuple[Tensor, ...]:
        """See `DualEncoder.encode_image`: row 0 of the dense ones is the feature."""
        assert pixel_values.shape[-2:] == self.image_size, (tuple(pixel_values.shape), self.image_size)
        tower = self.tower
        block = tower.transformer.resblocks[-1]
        with recorded(*(() if select is None else (block.ln_1,))) as inputs:
            x = tower.transformer(tower._embeds(pixel_values))
        pooled = tower._pool(x)[0] @ tower.proj
        if not return_dense and select is None:
            return pooled
        patches = tower.ln_post(x[:, 1:]) @ tower.proj
        tokens = torch.cat([pooled[:, None], patches], dim=1) if return_dense else None
        if select is None:
            return pooled, tokens
        first = torch.zeros(x.shape[0], 1, dtype=torch.int64, device=x.device)
        chosen = most_attended_patches(mha_row(block.attn, *inputs, first), select.share)
        return pooled, tokens, Selected(rows_at(patches, chosen - 1), None)

    def finish(self, x: Tensor) -> Tensor:
        """See `DualEncoder.shows_blocks`."""
        return self.tower.ln_post(x[:, 1:]) @ self.tower.proj


class PlainText(nn.Module):
    """Token ids (B, L) -> features (B, D), by open_clip's text transformer.

    Where the feature depends on the padding (every token sees every other, or the last position is read),
    captions are padded to all positions with the weights' own padding. A causal tower that reads the end
    token takes them as they are.

    Args:
        tower: open_clip's `TextTransformer`, without a class token.
        text_length: the maximum number of tokens of a caption, start and end included.
        pad_id: the id that the weights were trained to see after a caption.
    """

    shows_blocks = True

    def __init__(self, tower: nn.Module, text_length: int, pad_id: int) -> None:
        super().__init__()
        self.tower, self.text_length, self.pad_id = tower, text_length, pad_id
        self.is_causal = tower.attn_mask is not None
        self.is_padded = not self.is_causal or tower.pool_type == "last"
        self.selects_tokens = isinstance(tower.transformer.resblocks[-1].attn, nn.MultiheadAttention)

    def lockable(self) -> tuple[list[nn.Module | nn.Parameter], nn.ModuleList]:
        """Of `Lockable`: the embeddings, the blocks."""
        tower = self.tower
        return [tower.token_embedding, tower.positional_embedding], tower.transformer.resblocks

    def checkpoint_blocks(self) -> None:
        """Keep only the input of each block, and recompute the block in the backward pass."""
        self.tower.transformer.grad_checkpointing = True

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        return_dense: bool = False,
        select: Selection | None = None,
    ) -> Tensor | tuple[Tensor, ...]:
        """See `DualEncoder.encode_text`."""
        tower, length = self.tower, input_ids.shape[1]
        assert length <= tower.context_length, (length, tower.context_length)
        # A trace of nn.MultiheadAttention is of one length.
        is_padded = self.is_padded or torch.jit.is_tracing()
        ids = self._padded(input_ids, attention_mask) if is_padded else input_ids
        x = tower.token_embedding(ids) + tower.positional_embedding[: ids.shape[1]]
        mask = tower.attn_mask[: ids.shape[1], : ids.shape[1]] if self.is_causal else None
        block = tower.transformer.resblocks[-1]
        with recorded(*(() if select is None else (block.ln_1,))) as inputs:
            x = tower.transformer(x, attn_mask=mask)
        position = self._pooled_position(attention_mask, ids.shape[1])
        pooled = self._project(tower.ln_final(rows_at(x, position)))[:, 0]
        if not return_dense and select is None:
            return pooled
        tokens = self.finish(x[:, :length])
        if select is None:
            return pooled, tokens
        row = mha_row(block.attn, *inputs, position, self.is_causal)[:, :length]
        words = self._words(input_ids, attention_mask)
        chosen, mask = most_attended_words(row, words, select.share, self.text_length)
        return pooled, tokens if return_dense else None, Selected(rows_at(tokens, chosen), mask)

    def finish(self, x: Tensor) -> Tensor:
        """See `DualEncoder.shows_blocks`."""
        return self._project(self.tower.ln_final(x))

    def _padded(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        ids = input_ids.masked_fill(attention_mask == 0, self.pad_id)
        return F.pad(ids, (0, self.tower.context_length - ids.shape[1]), value=self.pad_id)

    def _pooled_position(self, attention_mask: Tensor, length: int) -> Tensor:
        """(B, 1) where the feature is read; open_clip's `argmax` and `eos` find the end token."""
        end = attention_mask.sum(dim=1, keepdim=True) - 1
        fixed = {"first": 0, "last": length - 1}.get(self.tower.pool_type)
        return end if fixed is None else torch.full_like(end, fixed)

    def _words(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, L) the tokens that may be selected; there is no start token where the last position is read."""
        if self.tower.pool_type != "last":
            return words_of(input_ids, attention_mask)
        with_start = (F.pad(part, (1, 0), value=1) for part in (input_ids, attention_mask))
        return words_of(*with_start)[:, 1:]

    def _project(self, x: Tensor) -> Tensor:
        projection = self.tower.text_projection
        if projection is None:
            return x
        return projection(x) if isinstance(projection, nn.Linear) else x @ projection


class HubText(nn.Module):
    """Token ids (B, L) -> features (B, D), by an encoder of transformers in open_clip's `HFTextEncoder`.

    Its attention has a mask, so that a feature does not depend on the padding; RoBERTa counts its positions
    by the padding's id, which is therefore written where the mask is 0.

    Args:
        tower: open_clip's `HFTextEncoder`.
        text_length: the maximum number of tokens of a caption, start and end included.
    """

    selects_tokens = False  # most are pooled by a mean, which attends to nothing
    shows_blocks = False

    def __init__(self, tower: nn.Module, text_length: int) -> None:
        super().__init__()
        self.tower, self.text_length = tower, text_length

    def lockable(self) -> tuple[list[nn.Module | nn.Parameter], nn.ModuleList]:
        """Of `Lockable`: the embeddings, the blocks."""
        encoder = self.tower.transformer
        blocks = next(part for part in encoder.modules() if isinstance(part, nn.ModuleList))
        return [getattr(encoder, "embeddings", encoder.get_input_embeddings())], blocks

    def checkpoint_blocks(self) -> None:
        """Keep only the input of each block, and recompute the block in the backward pass."""
        self.tower.transformer.gradient_checkpointing_enable({"use_reentrant": False})

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, return_dense: bool = False
    ) -> Tensor | tuple[Tensor, ...]:
        """See `DualEncoder.encode_text`; a token's feature is that of a caption of this token alone."""
        tower = self.tower
        ids = input_ids.masked_fill(attention_mask == 0, tower.config.pad_token_id)
        output = tower.transformer(input_ids=ids, attention_mask=attention_mask)
        pooled = tower.proj(tower.pooler(output, attention_mask))
        if not return_dense:
            return pooled
        x = output.last_hidden_state
        if getattr(output, "pooler_output", None) is not None:  # BERT's layer over the first token
            x = tower.transformer.pooler(x.flatten(0, 1)[:, None]).unflatten(0, x.shape[:2])
        return pooled, tower.proj(x)


def resize_positions(positions: Tensor, grid: tuple[int, int], new_grid: tuple[int, int]) -> Tensor:
    """(1 + h w, width) -> (1 + h' w', width): the class position kept, the others resized as open_clip does,
    by bicubic interpolation with anti-aliasing.
    """
    if tuple(grid) == tuple(new_grid):
        return positions
    patches = positions[1:].unflatten(0, grid).permute(2, 0, 1)[None]
    resized = F.interpolate(patches, size=new_grid, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([positions[:1], resized[0].flatten(1).T])


@torch.no_grad()
def mha_row(attention: nn.MultiheadAttention, x: Tensor, position: Tensor, is_causal: bool = False) -> Tensor:
    """(B, L) the attention of the query at `position` (B, 1) to x (B, L, width), averaged over the heads."""
    width, heads = attention.embed_dim, attention.num_heads
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    query = F.linear(rows_at(x, position), weight[:width], bias[:width])
    key = F.linear(x, weight[width : 2 * width], bias[width : 2 * width])
    query, key = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in (query, key))
    seen = torch.arange(x.shape[1], device=x.device) <= position if is_causal else None
    return head_row(query, key, seen)
