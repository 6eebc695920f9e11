"""SigLIP 2 NaFlex (Tschannen et al. 2025, arXiv 2502.14786): SigLIP for images of any shape."""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from model.families.siglip import SigLIP
from model.towers.pooling import NaFlexVision

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class NaFlex(SigLIP):
    """A `Siglip2Model`, whose image tower was trained on grids of many shapes; persons are 24x8 patches."""

    transformers_class = "Siglip2Model"
    vision_class = NaFlexVision
    takes_patches = True
    interpolation = "bilinear"

    def transformers_images(self, pixel_values: Tensor) -> dict[str, Tensor]:
        """See `DualEncoder.transformers_images`: their patches (B, P, 3 p p), all of them there."""
        patches = self.visual.patches(pixel_values)
        shapes = torch.tensor([self.patch_grid] * len(patches), device=patches.device)
        mask = torch.ones(patches.shape[:2], dtype=torch.int64, device=patches.device)
        return {"pixel_values": patches, "pixel_attention_mask": mask, "spatial_shapes": shapes}

    @staticmethod
    def native_image_size(config: "PretrainedConfig") -> tuple[int, int]:
        """The square of the most patches."""
        return (math.isqrt(config.vision_config.num_patches) * config.vision_config.patch_size,) * 2
