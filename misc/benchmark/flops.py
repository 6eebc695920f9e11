"""The arithmetic that a training step needs, counted from shapes alone.

Counted are the matrix products: 2 m n k for (m, k) @ (k, n), and twice that for its backward pass, one
product for the weight's gradient and one for the input's. Not counted: norms, softmaxes, activations, the
optimiser, the heads of MLM and ID, and the similarities of the losses (at a batch of 320 less than 0.01 % of
a step). What is computed twice (checkpointing, accumulation) or in vain (padding to the text length, scores
that the causal mask hides, outputs of the last block that nothing reads) is not needed: it lowers the share
of the peak that a step reaches.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Tower:
    """A transformer as its matrix products see it.

    Attributes:
        tokens: of one image (the class token, the patches) or caption (as long as the longest of its batch).
        width, mlp: of the blocks, and inside their MLPs.
        projection: numbers in the matrices that the one pooled token goes through after the blocks.
        trained: for each block, the first one first, whether its weights train.
        causal: a token sees itself and those before it alone.
        patch: numbers in a patch, 3 p^2; 0 for captions, whose embedding is a look-up.
        patch_trained: whether the patch embedding's weights train.
        below_trained: whether anything else below the blocks trains: positions, class token, norm, words.
        whole: count the last block of all tokens, as is the custom, though the pooled one alone is read. It
            needs the keys and values of all tokens; its own query, output and MLP are enough.
    """

    tokens: int
    width: int
    mlp: int
    projection: int
    trained: Sequence[bool]
    causal: bool = False
    patch: int = 0
    patch_trained: bool = False
    below_trained: bool = True
    whole: bool = False

    @property
    def embedding(self) -> int:
        """The patch embedding, forward: of all tokens but the class token."""
        return 2 * (self.tokens - 1) * self.patch * self.width

    def blocks(self) -> list[tuple[int, int]]:
        """For each block, forward: FLOPs of its products with weights, and of attention over all heads."""
        seen = self.tokens * (self.tokens + 1) // 2 if self.causal else self.tokens**2
        one = self._block(self.tokens, seen)
        last = one if self.whole else self._block(1, self.tokens)
        return [one] * (len(self.trained) - 1) + [last]

    def _block(self, read: int, seen: int) -> tuple[int, int]:
        """Of a block whose output is read at so many tokens, which see so many of each other in total."""
        keys_and_values = 2 * self.tokens * self.width * 2 * self.width
        others = 2 * read * self.width * (2 * self.width + 2 * self.mlp)
        return keys_and_values + others, 2 * 2 * seen * self.width

    def forward(self) -> int:
        """FLOPs of one image or caption."""
        return self.embedding + sum(map(sum, self.blocks())) + 2 * self.projection

    def backward(self) -> int:
        """FLOPs of one image or caption: of what trains, and of what lies above something that trains."""
        total = self.embedding if self.patch_trained else 0  # pixels need no gradient, so once, not twice
        learns = self.patch_trained or self.below_trained
        for trained, (linear, attention) in zip(self.trained, self.blocks(), strict=True):
            if trained:
                total += 2 * (linear + attention)
            elif learns:
                total += linear + 2 * attention  # the inputs' gradients alone
            learns = learns or trained
        return total + 2 * 2 * self.projection


def step_flops(image: Tower, text: Tower, batch_size: int, views: int, simclr_head: int) -> int:
    """FLOPs of a training step: forward and backward of both towers, and of the SimCLR head on two views.

    Args:
        views: of each sample, through the image tower; its caption goes through the text tower once.
        simclr_head: numbers in the head's two matrices; 0 where SS is off.
    """
    images = views * (image.forward() + image.backward())
    return batch_size * (images + text.forward() + text.backward() + 2 * 3 * 2 * simclr_head)
