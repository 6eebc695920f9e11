"""AltCLIP's towers of `transformers`, with the features of their tokens."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from model.protocol import Selected
from model.towers.layers import head_row, rows_at
from model.towers.selection import most_attended_patches, most_attended_words, words_of
from model.weights.shapes import resize_image_positions


class AltVision(nn.Module):
    """Images (B, 3, H, W) -> features of their class token (B, D).

    Args:
        vision_model, projection: of `AltCLIPModel`.
        image_size: (height, width) in pixels; the position grid is resized to it.
    """

    def __init__(self, vision_model: nn.Module, projection: nn.Linear, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.vision_model, self.visual_projection = vision_model, projection
        self.image_size = image_size
        embeddings = vision_model.embeddings
        side = embeddings.image_size // embeddings.patch_size
        self.grid = (image_size[0] // embeddings.patch_size, image_size[1] // embeddings.patch_size)
        positions = embeddings.position_embedding
        resized = resize_image_positions(positions.weight.detach(), (side, side), self.grid)
        embeddings.position_embedding = nn.Embedding.from_pretrained(resized, freeze=False)

    def forward(
        self, pixel_values: Tensor, return_dense: bool = False, select: float | None = None
    ) -> Tensor | tuple[Tensor, ...]:
        """See `DualEncoder.encode_image`.

        The embeddings are computed here, since `transformers` only takes square images.
        """
        assert pixel_values.shape[-2:] == self.image_size, (tuple(pixel_values.shape), self.image_size)
        model, embeddings = self.vision_model, self.vision_model.embeddings
        patches = embeddings.patch_embedding(pixel_values).flatten(2).transpose(1, 2)
        class_token = embeddings.class_embedding.to(patches.dtype).expand(patches.shape[0], 1, -1)
        x = torch.cat([class_token, patches], dim=1) + embeddings.position_embedding.weight
        last = blocks(model.encoder)[-1].self_attn
        with recorded(*(() if select is None else (last.q_proj, last.k_proj))) as projected:
            x = model.encoder(inputs_embeds=model.pre_layrnorm(x))[0]
        if not return_dense and select is None:
            return self.visual_projection(model.post_layernorm(x[:, 0]))
        tokens = self.visual_projection(model.post_layernorm(x))
        if select is None:
            return tokens[:, 0], tokens
        chosen = most_attended_patches(first_row(*projected, last.num_heads), select)
        return tokens[:, 0], tokens if return_dense else None, Selected(rows_at(tokens, chosen), None)


class AltText(nn.Module):
    """Token ids (B, L) -> features of the first token (B, D).

    Args:
        text_length: the maximum number of tokens of a caption, start and end included.
    """

    def __init__(self, text_model: nn.Module, projection: nn.Linear, text_length: int) -> None:
        super().__init__()
        self.text_model, self.text_projection = text_model, projection
        self.text_length = text_length

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        return_dense: bool = False,
        select: float | None = None,
    ) -> Tensor | tuple[Tensor, ...]:
        """See `DualEncoder.encode_text`."""
        last = blocks(self.text_model.roberta.encoder)[-1].attention.self
        with recorded(*(() if select is None else (last.query, last.key))) as projected:
            x = self.text_model(input_ids=input_ids, attention_mask=attention_mask)[0]
        if not return_dense and select is None:
            return self.text_projection(x[:, 0])
        tokens = self.text_projection(x)
        if select is None:
            return tokens[:, 0], tokens
        attention = first_row(*projected, last.num_attention_heads, attention_mask)
        words = words_of(input_ids, attention_mask)
        chosen, mask = most_attended_words(attention, words, select, self.text_length)
        return tokens[:, 0], tokens if return_dense else None, Selected(rows_at(tokens, chosen), mask)


@contextlib.contextmanager
def recorded(*layers: nn.Module) -> Iterator[list[Tensor]]:
    """The outputs of layers inside the context, in the order of `layers`, without gradient."""
    outputs = [torch.empty(0)] * len(layers)

    def record(number: int, output: Tensor) -> None:
        outputs[number] = output.detach()

    hooks = [
        layer.register_forward_hook(lambda _, __, output, number=number: record(number, output))
        for number, layer in enumerate(layers)
    ]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def first_row(query: Tensor, key: Tensor, heads: int, attention_mask: Tensor | None = None) -> Tensor:
    """(B, L) the attention of the first token, averaged over the heads, of queries and keys (B, L, width)."""
    query, key = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (query[:, :1], key))
    return head_row(query, key, attention_mask)


def blocks(encoder: nn.Module) -> nn.ModuleList:
    """Its name, `layer` or `layers`, depends on the version of `transformers` and on the tower."""
    return encoder.layers if hasattr(encoder, "layers") else encoder.layer
