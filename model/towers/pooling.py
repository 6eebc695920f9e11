"""SigLIP's image towers (arXiv 2303.15343, 2502.14786) of `transformers`: an attention pools the patches."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.protocol import Selected, Selection
from model.towers.hub import attention_row
from model.towers.layers import rows_at
from model.towers.selection import most_attended_patches


class PoolingVision(nn.Module):
    """Images (B, 3, H, W) -> features (B, D) of an attention pooling over their patches.

    Its patches have positions of a fixed grid, of SiglipModel.

    Args:
        vision_model: of the model, with a pooling head.
        image_size: (height, width) in pixels; the position grid is resized to it.
    """

    def __init__(self, vision_model: nn.Module, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.vision_model, self.image_size = vision_model, image_size
        self.patch_size = vision_model.config.patch_size
        self.grid = (image_size[0] // self.patch_size, image_size[1] // self.patch_size)
        self.fit_positions()

    def fit_positions(self) -> None:
        """Fit the position embeddings to the grid."""
        resized = resized_positions(self.vision_model.embeddings, self.image_size)
        self.vision_model.embeddings.position_embedding = nn.Embedding.from_pretrained(resized, freeze=False)

    def embed(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, H, W) -> patches with their positions, row by row (B, P, width)."""
        embeddings = self.vision_model.embeddings
        patches = embeddings.patch_embedding(pixel_values).flatten(2).transpose(1, 2)
        return patches + embeddings.position_embedding.weight

    def forward(
        self, pixel_values: Tensor, return_dense: bool = False, select: Selection | None = None
    ) -> Tensor | tuple[Tensor, ...]:
        """See `DualEncoder.encode_image`. The features of a patch are those of an image of this patch alone,
        after the last norm: the pooling of its value.
        """
        assert pixel_values.shape[-2:] == self.image_size, (tuple(pixel_values.shape), self.image_size)
        model = self.vision_model
        x = model.post_layernorm(model.encoder(inputs_embeds=self.embed(pixel_values))[0])
        pooled = model.head(x)
        if not return_dense and select is None:
            return pooled
        tokens = torch.cat([pooled[:, None], self._pooled_alone(x)], dim=1) if return_dense else None
        if select is None:
            return pooled, tokens
        chosen = most_attended_patches(F.pad(self._attention(x), (1, 0)), select.share) - 1
        return pooled, tokens, Selected(self._pooled_alone(rows_at(x, chosen)), None)

    def finish(self, x: Tensor) -> Tensor:
        """See `DualEncoder.shows_blocks`."""
        return self._pooled_alone(self.vision_model.post_layernorm(x))

    def _pooled_alone(self, x: Tensor) -> Tensor:
        """Each of (B, K, width) through the pooling: alone, a token is attended to with weight 1."""
        head, width = self.vision_model.head, x.shape[2]
        attention = head.attention
        value = F.linear(x, attention.in_proj_weight[2 * width :], attention.in_proj_bias[2 * width :])
        hidden = F.linear(value, attention.out_proj.weight, attention.out_proj.bias)
        return hidden + head.mlp(head.layernorm(hidden))

    @torch.no_grad()
    def _attention(self, x: Tensor) -> Tensor:
        """(B, P) the weights of the pooling, averaged over the heads."""
        head, width = self.vision_model.head, x.shape[2]
        weight, bias = head.attention.in_proj_weight, head.attention.in_proj_bias
        query = F.linear(head.probe, weight[:width], bias[:width])
        key = F.linear(x, weight[width : 2 * width], bias[width : 2 * width])
        return attention_row(query, key, head.attention.num_heads)


class NaFlexVision(PoolingVision):
    """The image tower of Siglip2Model, whose grid of positions is resized for every shape of image.

    The table stays as it is in the weights, so that a checkpoint fits images of any size; the product that
    resizes it is computed once.
    """

    def fit_positions(self) -> None:
        """Keep the matrix (P, N) that makes the positions of the grid of the N in the table."""
        embeddings = self.vision_model.embeddings
        number, side = embeddings.num_patches, embeddings.position_embedding_size
        resize = embeddings.resize_positional_embeddings(
            torch.eye(number).view(side, side, number), torch.tensor([self.grid]), self.grid[0] * self.grid[1]
        )
        self.register_buffer("resize", resize[0], persistent=False)

    def embed(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, H, W) -> patches with their positions, row by row (B, P, width)."""
        embeddings = self.vision_model.embeddings
        positions = self.resize @ embeddings.position_embedding.weight
        return embeddings.patch_embedding(self.patches(pixel_values)) + positions

    def patches(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, P, 3 p p) of p x p pixels, row by row, the channels of a pixel side by side."""
        (rows, columns), side = self.grid, self.patch_size
        patches = pixel_values.reshape(-1, 3, rows, side, columns, side).permute(0, 2, 4, 3, 5, 1)
        return patches.reshape(-1, rows * columns, 3 * side * side)


def resized_positions(embeddings: nn.Module, image_size: tuple[int, int]) -> Tensor:
    """The position embeddings, a class token's included, resized as transformers does where it is called with
    `interpolate_pos_encoding`: bicubic, without anti-aliasing.
    """
    number, width = embeddings.position_embedding.weight.shape
    patches = (image_size[0] // embeddings.patch_size) * (image_size[1] // embeddings.patch_size)
    sequence = torch.empty(1, number - embeddings.num_patches + patches, width)  # its length tells the size
    return embeddings.interpolate_pos_encoding(sequence, *image_size)[0].detach().clone()
