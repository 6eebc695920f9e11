"""The model to export, the files that formats share, and the comparison that each format must pass."""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from data.synthetic.render import render_people
from misc.checkpoints.run_options import options_for
from model import backbone_of, build_model, with_hidden_settings
from model.protocol import Backbone, JsonObject, Processor, Tokenizer
from model.tbps import TBPS
from options import Options, UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """A model in evaluation mode, with three synthetic images of several sizes and three cleaned captions to
    compare features on: two words, a sentence, and one that exceeds the text length.

    Attributes:
        left_out: heads that take part in the features of the checkpoint, but not in those of `model`.
    """

    options: Options
    model: TBPS
    tokenizer: Tokenizer
    processor: Processor
    images: list[Image.Image]
    captions: list[str]
    left_out: tuple[str, ...] = ()

    @property
    def backbone(self) -> Backbone:
        """The registry entry of the backbone."""
        return backbone_of(self.options)

    def encode_text(self, captions: Sequence[str]) -> Tensor:
        """Encode B captions with the model itself; returns (B, E) features."""
        return self.model.embed(self.tokenizer(captions))

    def save_processors(self, folder: Path) -> None:
        """Write the files that `AutoTokenizer` and `AutoImageProcessor` of transformers load."""
        write_json(folder / "preprocessor_config.json", self.processor.settings())
        self.tokenizer.save(folder)

    def towers_alone(self) -> "Source":
        """The model without the heads that take part in its features, of which is warned."""
        heads = tuple(objective.head_name for objective in self.model.embedders)
        if heads:
            logger.warning(
                "this format cannot contain %s: the features are those of the towers alone, and the scores "
                "differ from those of --evaluate; safetensors and onnx contain all",
                ", ".join(heads),
            )
        return replace(self, model=TBPS(self.model.clip, {}, {}).eval(), left_out=heads)

    @torch.no_grad()
    def check(
        self,
        program: str,
        encode_image: Callable[[Tensor], Tensor],
        encode_text: Callable[[Sequence[str]], Tensor],
        tolerance: float = 1e-4,
    ) -> None:
        """Log the largest absolute difference of features that `program` computes from the exported files, by
        `encode_image`: (B, 3, H, W) -> (B, E) and `encode_text`: B captions -> (B, E), over batches of one
        short caption, of one that is cut, and of all three. Raises UserError if it exceeds the tolerance.
        """
        differences = []
        for rows in (slice(0, 1), slice(2, 3), slice(0, 3)):
            pixels = self.processor(images=self.images[rows], return_tensors="pt")["pixel_values"]
            differences.append(encode_image(pixels) - self.model.embed(pixels))
            captions = self.captions[rows]
            differences.append(encode_text(captions) - self.encode_text(captions))
        difference = max(difference.abs().max().item() for difference in differences)
        if not difference <= tolerance:  # NaN too
            raise UserError(
                f"export: features computed by {program} differ by {difference:.1e}, expected at most "
                f"{tolerance:.0e}; nothing was written. Try other package versions, or another --format"
            )
        logger.info("features computed by %s: largest difference %.1e", program, difference)


def write_json(path: Path, content: JsonObject) -> None:
    """Write indented JSON, non-ASCII characters unescaped."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load_source(checkpoint: Path, config: Path | None, overrides: Sequence[str]) -> Source:
    """Load the model of a checkpoint, with the options of `config` or, if None, those saved in it. Raises
    UserError if weights or options cannot be read or do not match, or there are no options.
    """
    options = options_for(checkpoint, config, overrides)
    model, tokenizer, processor = build_model(options, num_identities=0, weights=str(checkpoint))
    options = with_hidden_settings(options, model.clip)
    people = render_people(3)
    sentences = [tokenizer.clean(caption) for caption, _ in people]
    captions = ["a man", sentences[0], " ".join(sentences * tokenizer.text_length)]
    images = [image for _, image in people]
    return Source(options, model.eval().requires_grad_(False), tokenizer, processor, images, captions)
