"""CLIP's image tower: a vision transformer (arXiv 2010.11929) with a norm before and after the blocks."""

import torch
from torch import Tensor, nn

from model.protocol import Selected, Selection
from model.towers.layers import LayerNorm, Transformer, rows_at
from model.towers.selection import most_attended_patches


class VisionTransformer(nn.Module):
    """Images (B, 3, H, W) -> features of their class token (B, embed_dim).

    Args:
        image_size: (height, width) in pixels, multiples of `patch_size`. P is the number of patches.
        width, layers, heads: of the transformer.
        embed_dim: of the space shared with the text tower.
        activation: of the MLPs, a name of `ACTIVATIONS`.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        patch_size: int,
        width: int,
        layers: int,
        heads: int,
        embed_dim: int,
        activation: str = "quick_gelu",
    ) -> None:
        super().__init__()
        assert all(side % patch_size == 0 for side in image_size), (image_size, patch_size)
        self.image_size = image_size
        self.grid = (image_size[0] // patch_size, image_size[1] // patch_size)  # rows and columns of patches
        num_patches = self.grid[0] * self.grid[1]
        std = width**-0.5
        self.conv1 = nn.Conv2d(3, width, kernel_size=patch_size, stride=patch_size, bias=False)
        self.class_embedding = nn.Parameter(std * torch.randn(width))
        self.positional_embedding = nn.Parameter(std * torch.randn(1 + num_patches, width))
        self.ln_pre = LayerNorm(width)
        self.transformer = Transformer(width, layers, heads, activation=activation)
        self.ln_post = LayerNorm(width)
        self.proj = nn.Parameter(std * torch.randn(width, embed_dim))

    def forward(
        self, pixel_values: Tensor, return_dense: bool = False, select: Selection | None = None
    ) -> Tensor | tuple[Tensor, ...]:
        """See `DualEncoder.encode_image`: the class token's features, then the patches' row by row, all after
        the last norm and the projection.
        """
        assert pixel_values.shape[-2:] == self.image_size, (tuple(pixel_values.shape), self.image_size)
        patches = self.conv1(pixel_values).flatten(2).transpose(1, 2)
        class_token = self.class_embedding.to(patches.dtype).expand(patches.shape[0], 1, -1)
        x = torch.cat([class_token, patches], dim=1) + self.positional_embedding
        x = self.ln_pre(x)
        first = torch.zeros(x.shape[0], 1, dtype=torch.int64, device=x.device)
        if select is None:
            x = self.transformer(x, positions=None if return_dense else first)
            tokens = self.ln_post(x) @ self.proj
            return (tokens[:, 0], tokens) if return_dense else tokens[:, 0]
        x, attention = self.transformer.before_last(x, first, select.blocks)
        chosen = most_attended_patches(attention, select.share)
        x, chosen = self.transformer.last(x, first, chosen, return_dense)
        tokens = self.ln_post(x) @ self.proj
        return tokens[:, 0], tokens if return_dense else None, Selected(rows_at(tokens, chosen), None)

    def finish(self, x: Tensor) -> Tensor:
        """See `DualEncoder.shows_blocks`."""
        return self.ln_post(x[:, 1:]) @ self.proj
