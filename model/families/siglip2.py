"""SigLIP 2 NaFlex (Tschannen et al. 2025, arXiv 2502.14786): SigLIP for images of any shape."""

import math
from typing import TYPE_CHECKING

from model.families.siglip import SigLIP
from model.towers.pooling import NaFlexVision

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class NaFlex(SigLIP):
    """A `Siglip2Model`, whose image tower was trained on grids of many shapes; persons are 24x8 patches."""

    transformers_class = "Siglip2Model"
    vision_class = NaFlexVision
    interpolation = "bilinear"

    @staticmethod
    def native_image_size(config: "PretrainedConfig") -> tuple[int, int]:
        """The square of the most patches."""
        return (math.isqrt(config.vision_config.num_patches) * config.vision_config.patch_size,) * 2
