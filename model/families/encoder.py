"""`HubEncoder`: what the families of `transformers` models have in common."""

import math
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

from model.clip import LOGIT_BIAS
from model.protocol import DualEncoder, Lockable
from model.towers.hub import blocks

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class HubEncoder(DualEncoder):
    """The towers of a model of `transformers`; its features equal `get_image_features` and
    `get_text_features` of the library.

    A family is a subclass that says `towers`, and, where it differs, what its weights expect.

    Args:
        model: of the class `transformers_class`.
        image_size: (height, width) in pixels.
        text_length: tokens of a caption at most, start and end included.
        pad_token_id: the id that the tokenizer pads with.
        logit_bias: whether there is a learned bias, for the sigmoid loss; it starts from the weights' own.

    Attributes:
        cleaning, interpolation, normalization: of captions and images, as in `config.data.Preparation`, where
            the files with the weights do not tell.
        native_text_length: tokens of a caption in their training; None: as many as there are positions.
    """

    selects_tokens = shows_blocks = True
    transformers_class: str
    cleaning: ClassVar[str] = "whitespace"
    interpolation: ClassVar[str] = "bicubic"
    normalization: ClassVar[str] = "clip"
    native_text_length: ClassVar[int | None] = None

    def __init__(
        self,
        model: nn.Module,
        image_size: tuple[int, int],
        text_length: int,
        *,
        pad_token_id: int = 0,
        logit_bias: bool = False,
    ) -> None:
        super().__init__()
        self.visual, self.text = self.towers(model, image_size, text_length, pad_token_id)
        self.logit_scale = nn.Parameter(model.logit_scale.detach().clone().reshape(()))
        self.max_logit_scale = max(math.log(100), self.logit_scale.item())
        bias = getattr(model, "logit_bias", torch.tensor(LOGIT_BIAS)).detach().clone().reshape(())
        self.logit_bias = nn.Parameter(bias) if logit_bias else 0.0
        self.embed_dim = (self.text.text_projection or self.text.text_model.head).out_features
        self.patch_grid = self.visual.grid
        self.vocab_size = model.text_model.get_input_embeddings().num_embeddings

    @staticmethod
    def towers(
        model: nn.Module, image_size: tuple[int, int], text_length: int, pad_token_id: int
    ) -> tuple[nn.Module, nn.Module]:
        """The image and the text tower, with the attributes of `ClassTokenVision` and `TextTower`."""
        raise NotImplementedError

    @staticmethod
    def native_image_size(config: "PretrainedConfig") -> tuple[int, int]:
        """(height, width) of the images that the weights were trained on."""
        return (config.vision_config.image_size,) * 2

    def lockable(self) -> Lockable:
        """See `DualEncoder.lockable`."""
        vision, text = self.visual.vision_model, self.text.transformer
        norms = [vision.pre_layrnorm] if hasattr(vision, "pre_layrnorm") else []
        return Lockable(
            vision.embeddings.patch_embedding,
            (vision.embeddings, *norms),
            blocks(vision.encoder),
            (text.embeddings,),
            blocks(text.encoder),
        )
