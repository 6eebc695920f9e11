"""How badly the tokens of a caption fit its image, for noise-aware masking (NAM, arXiv 2405.04940)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.types import Batch
from model.losses import token_mismatch
from model.mlm import IGNORED
from model.protocol import DualEncoder

Outputs = list[Tensor]  # of a block, call by call


class Mismatch:
    """The mismatch of all tokens of the captions of a batch: `token_mismatch` of the tokens of both towers
    after a block, through the last norm and the projection.

    Of the images they are those of the step. The captions of a step are masked, so the whole ones go through
    the text tower once more, without gradient or dropout.

    Args:
        block: its number in both towers, from 0 or, below 0, from the end.
        text_length: the most tokens of a caption.
    """

    def __init__(self, clip: DualEncoder, block: int, text_length: int) -> None:
        parts = clip.lockable()
        self.clip, self.text_length = clip, text_length
        self.image_block, self.text_block = parts.image_blocks[block], parts.text_blocks[block]
        self._found: list[Tensor] = []

    @contextmanager
    def watching(self, batch: Batch) -> Iterator[None]:
        """Adds the mismatch of a batch, or of the next part of one, whose first images are encoded inside."""
        with _recorded(self.image_block) as outputs:
            yield
        images = torch.cat(outputs)[: len(batch.mlm_labels)]  # those of other views come after
        with torch.no_grad():
            self._found.append(self._of(images, batch))
        torch.clear_autocast_cache()  # its copies of the weights were made without gradient

    def _of(self, images: Tensor, batch: Batch) -> Tensor:
        """(B, text_length) fp32, 0 on padding."""
        ids = batch.tokens["input_ids"]
        whole = batch.tokens | {"input_ids": torch.where(batch.mlm_labels == IGNORED, ids, batch.mlm_labels)}
        was_training = self.clip.text.training
        self.clip.text.eval()
        with _recorded(self.text_block) as outputs:
            self.clip.encode_text(whole)
        self.clip.text.train(was_training)
        words = self.clip.text.finish(outputs[0])[:, : ids.shape[1]]  # a tower may pad
        found = token_mismatch(words, self.clip.visual.finish(images)) * whole["attention_mask"]
        return F.pad(found, (0, self.text_length - found.shape[1]))

    def take(self) -> Tensor:
        """(B, text_length) of the rows since the last call."""
        found, self._found = torch.cat(self._found), []
        return found


@contextmanager
def _recorded(block: nn.Module) -> Iterator[Outputs]:
    """What a block returns inside, without gradient."""
    outputs: Outputs = []
    hook = block.register_forward_hook(partial(_record, outputs))
    try:
        yield outputs
    finally:
        hook.remove()


def _record(outputs: Outputs, _: nn.Module, __: object, output: Tensor | Sequence[Tensor]) -> None:
    outputs.append((output if isinstance(output, Tensor) else output[0]).detach())
