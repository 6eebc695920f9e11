"""The arithmetic that a training step requires, computed from shapes.

Counted are the matrix products: 2 m n k for (m, k) @ (k, n), and twice that for its backward pass, one
product for the weight's gradient and one for the input's. Not counted: norms, softmaxes, activations, the
optimiser, and the similarities of the losses (less than 0.01 % of a step at a batch of 320). What is computed
twice (checkpointing, accumulation, the attention that selects tokens) and results that are not used (padding,
scores hidden by the causal mask, outputs of the last block that nothing reads) are not required: they lower
the share of the peak that a step reaches.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Tower:
    """The sizes of a transformer that determine its matrix products."""

    tokens: int  # of an image (the class token, the patches) or caption (the longest of its batch)
    width: int  # of the blocks
    mlp: int  # the width inside the MLPs
    projection: int  # elements of the matrices that project the tokens that are read after the blocks
    trained: Sequence[bool]  # for each block, from the first to the last: its weights
    causal: bool = False  # a token attends to itself and those before it only
    patch: int = 0  # elements of a patch, 3 p^2; 0 for captions, whose embedding is a look-up
    patch_trained: bool = False  # the patch embedding
    below_trained: bool = True  # anything else below the blocks: positions, words
    # Tokens that are read after the blocks: the pooled one, those that are selected, or all. In the last
    # block they alone require a query, an output and the MLP, and all tokens keys and values.
    outputs: int = 1
    nominal: bool = False  # compute the last block for all tokens, as is conventional

    @property
    def embedding(self) -> int:
        """FLOPs of the patch embedding, forward: all tokens but the class token."""
        return 2 * (self.tokens - 1) * self.patch * self.width

    def blocks(self) -> list[tuple[int, int]]:
        """FLOPs of each block, forward: (its products with weights, its attention over all heads)."""
        scores = self.tokens * (self.tokens + 1) // 2 if self.causal else self.tokens**2
        whole = (self.tokens, scores)  # outputs, attention scores
        is_whole = self.nominal or self.outputs == self.tokens
        last = whole if is_whole else (self.outputs, self.outputs * self.tokens)
        keys_and_values = 2 * self.tokens * self.width * 2 * self.width
        per_output = 2 * self.width * (2 * self.width + 2 * self.mlp)
        return [
            (keys_and_values + num_outputs * per_output, 2 * 2 * num_scores * self.width)
            for num_outputs, num_scores in [whole] * (len(self.trained) - 1) + [last]
        ]

    def forward(self) -> int:
        """FLOPs of one image or caption."""
        return self.embedding + sum(map(sum, self.blocks())) + 2 * self.outputs * self.projection

    def backward(self) -> int:
        """FLOPs of one image or caption: gradients of trained weights, and of inputs that depend on some."""
        total = self.embedding if self.patch_trained else 0  # once: pixels need no gradient
        needs_grad = self.patch_trained or self.below_trained
        for trained, (linear, attention) in zip(self.trained, self.blocks(), strict=True):
            if trained:
                total += 2 * (linear + attention)
            elif needs_grad:
                total += linear + 2 * attention  # only the inputs' gradients
            needs_grad = needs_grad or trained
        return total + 2 * 2 * self.outputs * self.projection


def cross_modal(width: int, words: int, patches: int, depth: int) -> int:
    """FLOPs of the cross-modal part of MLM for one caption, forward: words attend to patches, then to each
    other in `depth` blocks.
    """
    attention = 2 * 2 * words * width * (width + patches) + 2 * patches * width * 2 * width
    return attention + depth * (2 * words * width * 12 * width + 2 * 2 * words * words * width)


def step_flops(image: Tower, text: Tower, batch_size: int, views: int, heads: float) -> float:
    """FLOPs of a training step, forward and backward: `views` images per sample, its caption once, and
    `heads`, the FLOPs of all heads per sample, forward.
    """
    images = views * (image.forward() + image.backward())
    return batch_size * (images + text.forward() + text.backward() + 3 * heads)


def computed_flops(work: Callable[[], object]) -> int:
    """FLOPs of the products and convolutions that `work` computes, required or not, by doing it once."""
    with FlopCounterMode(display=False, custom_mapping=COUNTS) as counter:
        work()
    return counter.get_total_flops()


def convolution_backward_flops(
    gradient: Sequence[int], image: Sequence[int], weight: Sequence[int], *others: object, **named: object
) -> int:
    """As many as forward for each gradient that is asked for; torch's own count ignores groups."""
    output_mask = next(part for part in reversed(others) if isinstance(part, list) and len(part) == 3)
    return 2 * math.prod(gradient) * math.prod(weight[1:]) * sum(output_mask[:2])


COUNTS = {torch.ops.aten.convolution_backward: convolution_backward_flops}
