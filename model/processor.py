"""The image processor: the transform of evaluation, and the statistics that training shares."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from model.protocol import JsonObject

NORMALIZATIONS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}

INTERPOLATIONS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


class ImageProcessor:
    """PIL images -> `{"pixel_values": (B, 3, H, W)}`, called as the processors of `transformers` are.

    RGB, resized straight to `image_size` (height, width) without a crop, anti-aliased, scaled to [0, 1], then
    normalised by channel with `image_mean` and `image_std`.

    Attributes:
        interpolation: a name of `INTERPOLATIONS`.
        view_size: (height, width) of the training views that `finish` takes.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        image_mean: Sequence[float],
        image_std: Sequence[float],
        interpolation: str = "bicubic",
    ) -> None:
        self.image_size = self.view_size = tuple(image_size)
        self.image_mean, self.image_std = tuple(image_mean), tuple(image_std)
        self.interpolation = interpolation

    def __call__(self, images: Sequence[Image.Image], return_tensors: str = "pt") -> dict[str, Tensor]:
        assert return_tensors == "pt", "only PyTorch tensors are supported"
        return {"pixel_values": torch.stack([self.transform(image) for image in images])}

    def finish(self, views: Sequence[Tensor]) -> Tensor:
        """Augmented images, (3, *view_size) uint8 each -> (B, 3, H, W) uint8, for `normalise`."""
        # NumPy, since torch.stack takes three times as long with channels that are not contiguous.
        return torch.from_numpy(np.stack([np.ascontiguousarray(view) for view in views]))

    def normalise(self, pixels: Tensor) -> Tensor:
        """The output of `finish`, on any device -> (B, 3, H, W) fp32, as of `__call__`."""
        values = pixels.float()
        # Numbers, since copying tensors to the device would synchronise it.
        for channel, (mean, std) in enumerate(zip(self.image_mean, self.image_std, strict=True)):
            values[:, channel].sub_(255 * mean).mul_(1 / (255 * std))
        return values

    def seen_box(self, image: Image.Image) -> tuple[int, int, int, int]:
        """All of the image: (left, top, right, bottom)."""
        return (0, 0, image.width, image.height)

    def settings(self) -> JsonObject:
        """The content of a `preprocessor_config.json` for `AutoImageProcessor` of transformers."""
        height, width = self.image_size
        return {
            # ViT's, since CLIP's of transformers 4.35 cannot resize without a crop.
            "image_processor_type": "ViTImageProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "size": {"height": height, "width": width},
            "resample": INTERPOLATIONS[self.interpolation].value,
            "do_center_crop": False,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": self.image_mean,
            "image_std": self.image_std,
        }

    def transform(self, image: Image.Image) -> Tensor:
        """One image of any size and mode -> (3, H, W), fp32."""
        height, width = self.image_size
        resized = image.convert("RGB").resize((width, height), INTERPOLATIONS[self.interpolation])
        return self.normalise(torch.from_numpy(np.array(resized)).permute(2, 0, 1).contiguous()[None])[0]
