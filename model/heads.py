"""Heads that are trained from scratch on top of the towers."""

from torch import Tensor, nn

from model.towers.layers import LayerNorm, QuickGELU, Transformer


def simclr_head(input_dim: int, hidden_dim: int, output_dim: int) -> nn.Sequential:
    """The projection of SimCLR: embedding -> the space in which two views are contrasted."""
    return nn.Sequential(nn.Linear(input_dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, output_dim))


def identity_classifier(embed_dim: int, num_identities: int) -> nn.Linear:
    """Scores of the persons of the training split, initially almost equal."""
    classifier = nn.Linear(embed_dim, num_identities)
    nn.init.normal_(classifier.weight, std=0.001)
    nn.init.zeros_(classifier.bias)
    return classifier


class CrossModalHead(nn.Module):
    """Predicts masked words: the caption's tokens attend to the image's, then to each other (paper, MLM).

    Args:
        width: of the tokens of both towers, their embedding's.
        depth: blocks after the cross-attention.
        vocab_size: number of words to choose from.
    """

    def __init__(self, width: int, depth: int, vocab_size: int) -> None:
        super().__init__()
        heads = 1 if width % 64 else width // 64
        self.ln_pre_t, self.ln_pre_i, self.ln_post = LayerNorm(width), LayerNorm(width), LayerNorm(width)
        self.cross_attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.cross_modal_transformer = Transformer(width, depth, heads)
        self.dense, self.gelu, self.ln = nn.Linear(width, width), QuickGELU(), LayerNorm(width)
        self.fc = nn.Linear(width, vocab_size)
        nn.init.normal_(self.cross_attn.in_proj_weight, std=width**-0.5)
        nn.init.normal_(self.cross_attn.out_proj.weight, std=width**-0.5 * (2 * max(1, depth)) ** -0.5)
        nn.init.normal_(self.dense.weight, std=(2 * width) ** -0.5)
        nn.init.normal_(self.fc.weight, std=width**-0.5)
        for linear in (self.dense, self.fc):
            nn.init.zeros_(linear.bias)

    def forward(
        self, text_tokens: Tensor, image_tokens: Tensor, attention_mask: Tensor, masked: Tensor
    ) -> Tensor:
        """Scores (M, vocab_size) of the words at the M masked positions, row by row.

        Args:
            text_tokens: (B, L, width) of the captions with masks, padding included.
            image_tokens: (B, 1 + P, width).
            attention_mask: (B, L), 0 on padding, which no token attends to.
            masked: (M,) the masked positions in the flattened captions: row * L + column.
        """
        images = self.ln_pre_i(image_tokens)
        x, _ = self.cross_attn(self.ln_pre_t(text_tokens), images, images, need_weights=False)
        x = self.cross_modal_transformer(x, attention_mask[:, None, None, :].bool())
        x = self.ln_post(x.flatten(0, 1)[masked])  # the vocabulary is large: only masked positions are scored
        return self.fc(self.ln(self.gelu(self.dense(x))))

    def fast_parameters(self) -> list[nn.Parameter]:
        """Those that train at `schedule.ratio_factor` times the rate: all but the three norms."""
        slow = {id(p) for norm in (self.ln_pre_t, self.ln_pre_i, self.ln_post) for p in norm.parameters()}
        return [p for p in self.parameters() if id(p) not in slow]
