"""Chinese-CLIP (Yang et al. 2022, arXiv 2211.01335): CLIP's image tower, and BERT for Chinese."""

from torch import nn

from model.families.encoder import HubEncoder
from model.towers.hub import ClassTokenVision, TextTower
from model.towers.pooling import resized_positions


class ChineseCLIP(HubEncoder):
    """A `ChineseCLIPModel`. Its tokenizer makes lower case of captions; they were trained at 52 tokens."""

    transformers_class = "ChineseCLIPModel"
    native_text_length = 52

    @staticmethod
    def towers(
        model: nn.Module, image_size: tuple[int, int], text_length: int, pad_token_id: int
    ) -> tuple[nn.Module, nn.Module]:
        """See `HubEncoder.towers`: both features are those of the first token."""
        positions = resized_positions(model.vision_model.embeddings, image_size)
        visual = ClassTokenVision(model.vision_model, model.visual_projection, image_size, positions)
        return visual, TextTower(model.text_model, model.text_projection, text_length, pooled="first")
