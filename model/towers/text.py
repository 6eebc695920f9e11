"""CLIP's text tower: a causal transformer whose feature is that of the end-of-text token."""

import torch
from torch import Tensor, nn

from model.protocol import Selected, Selection
from model.towers.layers import LayerNorm, Transformer, rows_at
from model.towers.selection import most_attended_words, words_of


class TextTransformer(nn.Module):
    """Token ids (B, L) -> features at the end-of-text token (B, embed_dim).

    Args:
        text_length: the maximum number of tokens of a caption, start and end included.
        dropout: on the attention weights, in training mode only.
        activation: of the MLPs, a name of `ACTIVATIONS`.
    """

    def __init__(
        self,
        text_length: int,
        vocab_size: int,
        width: int,
        layers: int,
        heads: int,
        embed_dim: int,
        dropout: float = 0.0,
        activation: str = "quick_gelu",
    ) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.positional_embedding = nn.Parameter(0.01 * torch.randn(text_length, width))
        self.transformer = Transformer(width, layers, heads, dropout, causal=True, activation=activation)
        self.ln_final = LayerNorm(width)
        self.text_projection = nn.Parameter(width**-0.5 * torch.randn(width, embed_dim))
        nn.init.normal_(self.token_embedding.weight, std=0.02)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        return_dense: bool = False,
        select: Selection | None = None,
    ) -> Tensor | tuple[Tensor, ...]:
        """See `DualEncoder.encode_text`: features (B, embed_dim) of the end-of-text token.

        Args:
            input_ids: (B, L) int64, padded on the right; L at most the text length.
            attention_mask: (B, L), 1 up to and with the end-of-text token, 0 after it.

        Padding needs no mask: it comes last, and no token attends to later ones. Trimming changes no feature.
        """
        length, text_length = input_ids.shape[1], len(self.positional_embedding)
        assert length <= text_length, (length, text_length)
        x = self.token_embedding(input_ids) + self.positional_embedding[:length]
        end = attention_mask.sum(dim=1, keepdim=True) - 1
        if select is None:
            x = self.transformer(x, positions=None if return_dense else end)
            tokens = self.ln_final(x) @ self.text_projection
            return (rows_at(tokens, end)[:, 0], tokens) if return_dense else tokens[:, 0]
        x, attention = self.transformer.before_last(x, end, select.blocks)
        words = words_of(input_ids, attention_mask)
        chosen, mask = most_attended_words(attention, words, select.share, text_length)
        x, chosen = self.transformer.last(x, end, chosen, return_dense)
        tokens = self.ln_final(x) @ self.text_projection
        pooled = rows_at(tokens, end)[:, 0] if return_dense else tokens[:, 0]
        return pooled, tokens if return_dense else None, Selected(rows_at(tokens, chosen), mask)

    def finish(self, x: Tensor) -> Tensor:
        """See `DualEncoder.shows_blocks`."""
        return self.ln_final(x) @ self.text_projection
