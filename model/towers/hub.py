"""Towers of `transformers` models, with the features of their tokens."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.protocol import Selected, Selection
from model.towers.layers import head_matrix, head_row, rows_at
from model.towers.selection import most_attended_patches, most_attended_words, rollout_row, words_of


class ClassTokenVision(nn.Module):
    """Images (B, 3, H, W) -> features of their class token (B, D).

    Args:
        vision_model, projection: of a model with CLIP's image tower.
        image_size: (height, width) in pixels.
        positions: (1 + P, width) the position embeddings at this size, of the class token and the patches.
    """

    def __init__(
        self, vision_model: nn.Module, projection: nn.Linear, image_size: tuple[int, int], positions: Tensor
    ) -> None:
        super().__init__()
        self.vision_model, self.visual_projection = vision_model, projection
        self.image_size = image_size
        embeddings = vision_model.embeddings
        self.grid = (image_size[0] // embeddings.patch_size, image_size[1] // embeddings.patch_size)
        embeddings.position_embedding = nn.Embedding.from_pretrained(positions, freeze=False)

    def forward(
        self, pixel_values: Tensor, return_dense: bool = False, select: Selection | None = None
    ) -> Tensor | tuple[Tensor, ...]:
        """See `DualEncoder.encode_image`.

        The embeddings are computed here, since `transformers` only takes square images.
        """
        assert pixel_values.shape[-2:] == self.image_size, (tuple(pixel_values.shape), self.image_size)
        model, embeddings = self.vision_model, self.vision_model.embeddings
        patches = embeddings.patch_embedding(pixel_values).flatten(2).transpose(1, 2)
        class_token = embeddings.class_embedding.to(patches.dtype).expand(patches.shape[0], 1, -1)
        x = torch.cat([class_token, patches], dim=1) + embeddings.position_embedding.weight
        layers, heads = selecting_layers(blocks(model.encoder), select)
        with recorded(*layers) as projected:
            x = model.encoder(inputs_embeds=model.pre_layrnorm(x))[0]
        if not return_dense and select is None:
            return self.visual_projection(model.post_layernorm(x[:, 0]))
        tokens = self.visual_projection(model.post_layernorm(x))
        if select is None:
            return tokens[:, 0], tokens
        first = torch.zeros(x.shape[0], 1, dtype=torch.int64, device=x.device)
        chosen = most_attended_patches(attention_at(first, projected, heads, drops=True), select.share)
        return tokens[:, 0], tokens if return_dense else None, Selected(rows_at(tokens, chosen), None)

    def finish(self, x: Tensor) -> Tensor:
        """See `DualEncoder.shows_blocks`."""
        return self.visual_projection(self.vision_model.post_layernorm(x[:, 1:]))


class TextTower(nn.Module):
    """Token ids (B, L) -> features (B, D) of one of the tokens.

    Args:
        text_model: of a `transformers` model.
        projection: applied to the tokens; None: the head of `text_model`.
        text_length: the maximum number of tokens of a caption, start and end included.
        pooled: the token whose features are the caption's: the "first", with a mask; the "end" token, in a
            causal tower; the "last" position, in a tower without a mask, which sees the padding: captions are
            padded to `padded_length` with `pad_token_id`, whatever they come with, and have no start token.
    """

    def __init__(
        self,
        text_model: nn.Module,
        projection: nn.Linear | None,
        text_length: int,
        pooled: str = "first",
        padded_length: int = 0,
        pad_token_id: int = 0,
    ) -> None:
        super().__init__()
        self.text_model, self.text_projection = text_model, projection
        self.text_length, self.pooled = text_length, pooled
        self.padded_length, self.pad_token_id = padded_length, pad_token_id

    @property
    def transformer(self) -> nn.Module:
        """The part of `text_model` with the embeddings and the encoder."""
        return getattr(self.text_model, "roberta", self.text_model)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        return_dense: bool = False,
        select: Selection | None = None,
    ) -> Tensor | tuple[Tensor, ...]:
        """See `DualEncoder.encode_text`."""
        layers, heads = selecting_layers(blocks(self.transformer.encoder), select)
        ids, mask = input_ids, attention_mask if self.pooled == "first" else None
        if self.pooled == "last":
            assert ids.shape[1] <= self.padded_length, (ids.shape[1], self.padded_length)
            ids = ids.masked_fill(attention_mask == 0, self.pad_token_id)
            ids = F.pad(ids, (0, self.padded_length - ids.shape[1]), value=self.pad_token_id)
        with recorded(*layers) as projected:
            x = self.text_model(input_ids=ids, attention_mask=mask)[0]
        position = self._position(attention_mask)
        pooled = self._project(rows_at(x, position)[:, 0])
        if not return_dense and select is None:
            return pooled
        tokens = self._project(x[:, : input_ids.shape[1]])
        if select is None:
            return pooled, tokens
        seen = None if self.pooled == "last" else attention_mask
        row = attention_at(position, projected, heads, seen)
        words = self._words(input_ids, attention_mask)
        chosen, is_there = most_attended_words(
            row[:, : words.shape[1]], words, select.share, self.text_length
        )
        return pooled, tokens if return_dense else None, Selected(rows_at(tokens, chosen), is_there)

    def _position(self, attention_mask: Tensor) -> Tensor:
        """(B, 1) of the token whose features are the caption's."""
        end = attention_mask.sum(dim=1, keepdim=True) - 1
        fixed = {"first": 0, "last": self.padded_length - 1}
        return torch.full_like(end, fixed[self.pooled]) if self.pooled in fixed else end

    def _project(self, x: Tensor) -> Tensor:
        return self.text_model.head(x) if self.text_projection is None else self.text_projection(x)

    def finish(self, x: Tensor) -> Tensor:
        """See `DualEncoder.shows_blocks`; BERT's blocks end with their norm."""
        model = self.text_model
        if hasattr(model, "pre_LN"):  # AltCLIP
            return self._project(model.transformation(model.pre_LN(x)))
        return self._project(getattr(model, "final_layer_norm", nn.Identity())(x))

    def _words(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, L) the tokens that may be selected."""
        if self.pooled != "last":
            return words_of(input_ids, attention_mask)
        with_start = (F.pad(part, (1, 0), value=1) for part in (input_ids, attention_mask))
        return words_of(*with_start)[:, 1:]


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


def queries_and_keys(block: nn.Module) -> tuple[nn.Module, nn.Module, int]:
    """The layers of a block that project to queries and keys (B, L, width), and the number of its heads."""
    if hasattr(block, "self_attn"):
        return block.self_attn.q_proj, block.self_attn.k_proj, block.self_attn.num_heads
    attention = block.attention.self
    return attention.query, attention.key, attention.num_attention_heads


def selecting_layers(encoder: nn.ModuleList, select: Selection | None) -> tuple[list[nn.Module], int]:
    """The layers of the blocks that select tokens which project to queries and keys, block by block, and the
    number of their heads.
    """
    numbers = () if select is None else select.blocks or (-1,)
    of_blocks = [queries_and_keys(encoder[number]) for number in numbers]
    return [layer for query, key, _ in of_blocks for layer in (query, key)], queries_and_keys(encoder[-1])[2]


def attention_at(
    position: Tensor,
    projected: Sequence[Tensor],
    heads: int,
    attention_mask: Tensor | None = None,
    drops: bool = False,
) -> Tensor:
    """(B, L) the attention at `position` (B, 1), averaged over heads: of one block, or the rollout of two.

    Args:
        projected: the queries and keys (B, L, width) of a block, or of two.
        drops: as of `rollout_row`.
    """
    query, key, *others = projected
    if not others:
        return attention_row(rows_at(query, position), key, heads, attention_mask)
    seen = None if attention_mask is None else attention_mask[:, None].bool()
    split = [x.unflatten(2, (heads, -1)).transpose(1, 2) for x in projected]
    return rollout_row(head_matrix(*split[:2], seen), head_matrix(*split[2:], seen), position, drops)


def attention_row(query: Tensor, key: Tensor, heads: int, attention_mask: Tensor | None = None) -> Tensor:
    """(B, L) the attention of one query (B, 1, width) to keys (B, L, width), averaged over the heads."""
    query, key = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (query, key))
    return head_row(query, key, attention_mask)


def blocks(encoder: nn.Module) -> nn.ModuleList:
    """Its name, `layer` or `layers`, depends on the version of `transformers` and on the tower."""
    return encoder.layers if hasattr(encoder, "layers") else encoder.layer
