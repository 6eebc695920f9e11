"""What is exported, what goes along with every format, and the comparison that each one must pass."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from data.synthetic.render import render_people
from misc.checkpoints.run_options import options_for
from model import build_model
from options import Options, UserError

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """A model in evaluation mode, with three drawn people and captions of them to try it on.

    Attributes:
        images: PIL images, of several sizes.
        captions: cleaned; two words, a sentence, and one that is longer than the text length.
    """

    options: Options
    clip: nn.Module
    tokenizer: Any
    processor: Any
    images: list[Image.Image]
    captions: list[str]

    @property
    def is_altclip(self) -> bool:
        """Whether the towers are AltCLIP's."""
        return self.options.model.backbone == "altclip"

    def square_side(self, advice: str) -> int:
        """The side of the square image; raises UserError, with the advice, where it is none."""
        height, width = self.processor.image_size
        if height != width:
            raise UserError(
                f"data.image_size: a square is expected for this format, not {height}, {width}; {advice}"
            )
        return height

    @torch.no_grad()
    def largest_difference(
        self, encode_image: Callable[[Tensor], Tensor], encode_text: Callable[[Sequence[str]], Tensor]
    ) -> float:
        """Of any feature from ours, over batches of one short caption, of one full one and of all three.

        Args:
            encode_image: (B, 3, H, W) -> (B, D).
            encode_text: B captions -> (B, D).
        """
        differences = []
        for rows in (slice(0, 1), slice(2, 3), slice(0, 3)):
            pixels = self.processor(images=self.images[rows], return_tensors="pt")["pixel_values"]
            tokens = self.tokenizer(self.captions[rows])
            differences += [
                encode_image(pixels) - self.clip.encode_image(pixels),
                encode_text(self.captions[rows]) - self.clip.encode_text(tokens),
            ]
        return max(difference.abs().max().item() for difference in differences)

    def check(
        self,
        by: str,
        encode_image: Callable[[Tensor], Tensor],
        encode_text: Callable[[Sequence[str]], Tensor],
        tolerance: float,
    ) -> None:
        """Say how far what was written is from ours; raises UserError where that is beyond the tolerance."""
        difference = self.largest_difference(encode_image, encode_text)
        if not difference <= tolerance:  # NaN too
            raise UserError(
                f"export: features by {by} differ from ours by {difference:.1e}, {tolerance:.0e} at most is "
                "expected, so nothing was written; try other versions of the packages, or another --format"
            )
        LOGGER.info("features by %s: largest difference from ours %.1e", by, difference)


def load_source(checkpoint: Path, config: Path | None, overrides: Sequence[str]) -> Source:
    """The model of a checkpoint, by the options saved in it or, where `config` is given, by those.

    Raises:
        UserError: weights or options that cannot be read, or that do not go together; no options.
    """
    options = options_for(checkpoint, config, overrides)
    model, tokenizer, processor = build_model(options, num_identities=0, weights=str(checkpoint))
    people = render_people(3)
    sentences = [tokenizer.clean(caption) for caption, _ in people]
    captions = ["a man", sentences[0], " ".join(sentences * options.experiment.text_length)]
    images = [image for _, image in people]
    clip = model.clip.eval().requires_grad_(False)
    return Source(options, clip, tokenizer, processor, images, captions)
