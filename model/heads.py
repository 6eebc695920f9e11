"""Heads that are trained from scratch on top of the towers."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from misc.process import distributed
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


class PairClassifier(nn.Module):
    """Scores of the persons, and of no match, for pairs of embeddings (ITSELF, CID).

    Args:
        width: of an embedding.
        num_classes: C, with that of no match.
    """

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(2 * width, width), nn.LayerNorm(width), nn.GELU())
        self.classifier = identity_classifier(width, num_classes)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """(..., width) twice, whose order counts -> (..., C)."""
        return self.classifier(self.mlp(torch.cat([first, second], dim=-1)))


class CrossModalHead(nn.Module):
    """Predicts masked words: the caption's tokens attend to the image's, then to each other (paper, MLM).

    Args:
        width: of the tokens of both towers, their embedding's.
        depth: blocks after the cross-attention.
        vocab_size: number of words to choose from.
        word_std: standard deviation of the last layer's weights at the start; None: width^-1/2.
    """

    def __init__(self, width: int, depth: int, vocab_size: int, word_std: float | None = None) -> None:
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
        nn.init.normal_(self.fc.weight, std=word_std or width**-0.5)
        for linear in (self.dense, self.fc):
            nn.init.zeros_(linear.bias)

    def forward(
        self, text_tokens: Tensor, image_tokens: Tensor, attention_mask: Tensor | None, masked: Tensor
    ) -> Tensor:
        """Scores (M, vocab_size) of the words at the M masked positions, row by row.

        Args:
            text_tokens: (B, L, width) of the captions with masks, padding included.
            image_tokens: (B, 1 + P, width).
            attention_mask: (B, L), 0 on padding, which no token attends to; None: all tokens are read.
            masked: (M,) the masked positions in the flattened captions: row * L + column.
        """
        images = self.ln_pre_i(image_tokens)
        x, _ = self.cross_attn(self.ln_pre_t(text_tokens), images, images, need_weights=False)
        seen = None if attention_mask is None else attention_mask[:, None, None, :].bool()
        x = self.cross_modal_transformer(x, seen)
        x = self.ln_post(x.flatten(0, 1)[masked])  # the vocabulary is large: only masked positions are scored
        return self.fc(self.ln(self.gelu(self.dense(x))))

    def fast_parameters(self) -> list[nn.Parameter]:
        """Those that train at `schedule.ratio_factor` times the rate: all but the three norms."""
        slow = {id(p) for norm in (self.ln_pre_t, self.ln_pre_i, self.ln_post) for p in norm.parameters()}
        return [p for p in self.parameters() if id(p) not in slow]


class TokenNorm(nn.BatchNorm1d):
    """Batch normalisation over tokens, of all processes in training.

    Args:
        width: of a token.
        is_frozen: whether mean and variance stay as they are (0 and 1 at the start) in training too.
    """

    def __init__(self, width: int, is_frozen: bool) -> None:
        super().__init__(width)
        self.is_frozen = is_frozen

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        """(B, K, width) -> (B, K, width), fp32; tokens with 0 in `present` (B, K) do not count."""
        mean, variance = self.running_mean, self.running_var
        if self.training and not self.is_frozen:
            mean, variance = self._moments(x.float(), present[..., None].float())
        return (x - mean) * (variance + self.eps).rsqrt() * self.weight + self.bias

    def _moments(self, x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance (width,) each, with gradient; the running ones follow them."""
        sums = torch.cat([(weights * x).sum((0, 1)), weights.sum((0, 1))])
        total, count = _of_all_ranks(sums).split([len(sums) - 1, 1])
        mean = total / count
        squares = _of_all_ranks((weights * (x - mean).square()).sum((0, 1)))
        with torch.no_grad():
            unbiased = squares / (count - 1).clamp(min=1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(unbiased, self.momentum)
            self.num_batches_tracked += 1
        return mean, squares / count


def _of_all_ranks(sums: Tensor) -> Tensor:
    return distributed.gather_with_gradient(sums[None]).sum(dim=0)


class TokenSelection(nn.Module):
    """The tokens that were selected of an input -> its embedding (RDE, arXiv 2308.09911, TSE).

    f(x) = A x + M x, A linear, M a linear layer to half of the output's width, `TokenNorm`, ReLU and another;
    in each dimension the largest value of all tokens.

    Args:
        width, output: of the tokens and of the embedding.
        is_frozen: as of `TokenNorm`.
    """

    def __init__(self, width: int, output: int, is_frozen: bool) -> None:
        super().__init__()
        self.residual = nn.Linear(width, output)
        self.hidden, self.norm = nn.Linear(width, output // 2), TokenNorm(output // 2, is_frozen)
        self.output = nn.Linear(output // 2, output)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, K, width), normalised, zeros where there is no token -> (B, output)."""
        present = (tokens.detach() != 0).any(dim=2)  # ONNX would round the numbers to integers first
        x = self.residual(tokens) + self.output(self.norm(self.hidden(tokens), present).relu())
        return x.masked_fill(~present[..., None], -torch.inf).max(dim=1).values

    @staticmethod
    def normalised(tokens: Tensor, mask: Tensor | None) -> Tensor:
        """What `forward` takes, of tokens (B, K, width) and their mask (B, K)."""
        tokens = F.normalize(tokens.float(), dim=2)
        return tokens if mask is None else tokens * mask[..., None]
