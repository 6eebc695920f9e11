"""SigLIP (Zhai et al. 2023, arXiv 2303.15343), and SigLIP 2 of fixed resolution (arXiv 2502.14786)."""

from torch import nn

from model.families.encoder import HubEncoder
from model.towers.hub import TextTower
from model.towers.pooling import PoolingVision

ENGLISH = 32_000  # words of SigLIP's first vocabulary; those of many languages are larger


class SigLIP(HubEncoder):
    """A `SiglipModel`: an attention pools the patches, and a caption's feature is read at the last position
    of a text tower without a mask, to which the padding is part of the caption.

    Captions were lower case in the training. SigLIP's own tokenizer removes punctuation besides; that of
    SigLIP 2, Gemma's, changes nothing.
    """

    transformers_class = "SiglipModel"
    pooling = "attention"
    vision_class: type[PoolingVision] = PoolingVision
    pads_captions = True
    cleaning = "lower"
    normalization = "half"

    def __init__(self, *arguments: object, **settings: object) -> None:
        super().__init__(*arguments, **settings)
        self.is_multilingual = self.vocab_size > ENGLISH

    @classmethod
    def towers(
        cls, model: nn.Module, image_size: tuple[int, int], text_length: int, pad_token_id: int
    ) -> tuple[nn.Module, nn.Module]:
        """See `HubEncoder.towers`."""
        positions = model.text_model.config.max_position_embeddings
        text = TextTower(model.text_model, None, text_length, "last", positions, pad_token_id)
        return cls.vision_class(model.vision_model, image_size), text
