"""MetaCLIP 2 (Chuang et al. 2025, arXiv 2507.22062): CLIP's towers over the vocabulary of XLM-V."""

from torch import nn

from model.families.encoder import HubEncoder
from model.towers.hub import ClassTokenVision, TextTower
from model.towers.pooling import resized_positions


class MetaCLIP2(HubEncoder):
    """A `MetaClip2Model`, for captions in many languages."""

    transformers_class = "MetaClip2Model"
    is_multilingual = True

    @staticmethod
    def towers(
        model: nn.Module, image_size: tuple[int, int], text_length: int, pad_token_id: int
    ) -> tuple[nn.Module, nn.Module]:
        """See `HubEncoder.towers`: features of the class token, and of the end token of a causal tower."""
        positions = resized_positions(model.vision_model.embeddings, image_size)
        visual = ClassTokenVision(model.vision_model, model.visual_projection, image_size, positions)
        return visual, TextTower(model.text_model, model.text_projection, text_length, pooled="end")
