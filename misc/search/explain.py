"""Where the image tower looked for a sentence: gradient-weighted attention rollout.

The method is that of Chefer, Gur and Wolf, "Generic Attention-model Explainability for Interpreting Bi-Modal
and Encoder-Decoder Transformers" (ICCV 2021, arXiv 2103.15679), by their rules for self-attention.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from options import UserError

if TYPE_CHECKING:
    from misc.search.encoder import Encoder

COLOR_MAP, OPACITY = "inferno", 0.8  # light is where it looked, for colour-blind eyes too


class AttentionRecorder(TorchFunctionMode):
    """While it is entered, attention is computed in steps that keep its weights, in `weights`, by layer.

    Fused attention never forms them. Without the recorder nothing is slower: the towers know nothing of it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[Tensor] = []  # (1, heads, L, L), or (heads, L, L), each

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function is F.scaled_dot_product_attention:
            return self._attend(*args, **(kwargs or {}))
        output = function(*args, **(kwargs or {}))
        if function is F.softmax:  # older transformers form the weights themselves
            self.weights.append(output)
        return output

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: None = None, **others: Any
    ) -> Tensor:
        """Of an image tower in evaluation mode: no mask, no dropout."""
        assert attn_mask is None, "masked"
        assert not any(others.get(name) for name in ("is_causal", "dropout_p")), others
        scale = others.get("scale") or query.shape[-1] ** -0.5
        self.weights.append((scale * query @ key.transpose(-2, -1)).softmax(dim=-1))
        return self.weights[-1] @ value


def explain(encoder: "Encoder", image: Image.Image, caption: str) -> np.ndarray:
    """How much each place of the image speaks for the sentence: (H, W) float32 of the image's own size.

    0 is the least and 1 the most of this image; all 0 where no place speaks for it. With s the cosine of
    image and sentence, A a layer's attention and G its gradient ds/dA, R starts as the identity and every
    layer adds to it: R <- R + (mean over heads of max(0, G * A)) R. The class token's row of R holds the
    patches, which are interpolated bilinearly. What AltCLIP's own preprocessing crops off is 0.

    Raises:
        UserError: a sentence without words.
    """
    if not encoder.tokenizer.clean(caption):
        raise UserError(f"There are no words in {caption!r:.40}: nothing can be looked for")
    text = encoder.encode_texts([caption])[0]
    relevance = patch_relevance(encoder, image, text)
    box = _seen_box(encoder.processor, image)
    size = (box[3] - box[1], box[2] - box[0])
    heat = F.interpolate(relevance[None, None], size, mode="bilinear", align_corners=False)[0, 0]
    heat = (heat - heat.min()) / (heat.max() - heat.min()).clamp(min=1e-12)
    whole = np.zeros((image.height, image.width), np.float32)
    whole[box[1] : box[3], box[0] : box[2]] = heat.numpy()
    return whole


def patch_relevance(encoder: "Encoder", image: Image.Image, text: Tensor) -> Tensor:
    """R's row of the class token, as in `explain`, for a text feature (D,): (rows, columns) of patches."""
    clip = encoder.clip
    device = next(clip.parameters()).device
    pixels = encoder.processor(images=[image], return_tensors="pt")["pixel_values"].to(device)
    with torch.enable_grad(), AttentionRecorder() as recorder:
        feature = clip.encode_image(pixels.requires_grad_())[0].float()
        score = F.cosine_similarity(feature, text.to(device), dim=0)
    gradients = torch.autograd.grad(score, recorder.weights)
    relevance = torch.eye(recorder.weights[0].shape[-1], device=device)
    for weights, gradient in zip(recorder.weights, gradients, strict=True):
        attended = (weights.detach() * gradient).clamp(min=0).flatten(0, -3).float().mean(dim=0)
        relevance = relevance + attended @ relevance
    height, width = encoder.processor.image_size
    patch = round((height * width / (len(relevance) - 1)) ** 0.5)
    return relevance[0, 1:].view(height // patch, width // patch).cpu()


def overlay(image: Image.Image, heat: np.ndarray) -> Image.Image:
    """The image in grey under the colours of `heat` (H, W) in [0, 1]: the brighter, the more it counted."""
    from matplotlib import colormaps

    colors = 255 * colormaps[COLOR_MAP](heat)[..., :3]
    share = OPACITY * heat[..., None]
    grey = np.asarray(image.convert("L"), np.float32)[..., None]
    return Image.fromarray((grey * (1 - share) + colors * share).round().astype(np.uint8))


def _seen_box(processor: Any, image: Image.Image) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of what the tower sees: all, or AltCLIP's crop of the centre."""
    if processor.view_size is not None:
        return (0, 0, image.width, image.height)
    scale = min(image.size) / processor.processor.size["shortest_edge"]
    height, width = (
        min(side, round(scale * seen))
        for side, seen in zip((image.height, image.width), processor.image_size, strict=True)
    )
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return (left, top, left + width, top + height)
