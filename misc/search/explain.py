"""The image regions that the model's score depends on: gradient-weighted attention rollout.

The method is that of Chefer, Gur and Wolf, "Generic Attention-model Explainability for Interpreting Bi-Modal
and Encoder-Decoder Transformers" (ICCV 2021, arXiv 2103.15679), with their rules for self-attention.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from misc.search.encoder import Encoder
from options import UserError

COLOR_MAP, OPACITY = "inferno", 0.8  # brightness increases with relevance, for colour-blind readers too


class AttentionRecorder(TorchFunctionMode):
    """Computes attention inside the context step by step and records its weights, which fused attention never
    materialises.

    Attributes:
        weights: of each layer, (1, heads, Q, L) or (heads, Q, L); Q is L but in the last layer.
        largest: (1, K, E) what heads take the maximum of over K tokens, a tensor for each.
        selected: (K,) the positions of these tokens, if they were selected by attention.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[Tensor] = []
        self.largest: list[Tensor] = []
        self.selected: Tensor | None = None

    def __torch_function__(
        self,
        function: Callable[..., object],
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        if function is F.scaled_dot_product_attention:
            return self._attend(*args, **(kwargs or {}))
        if function is F.multi_head_attention_forward:
            return self._project_and_attend(*args, **(kwargs or {}))
        output = function(*args, **(kwargs or {}))
        if function is F.softmax:  # older versions of transformers compute the weights themselves
            self.weights.append(output)
        if function is Tensor.max:
            self.largest.append(args[0])
        if function is Tensor.topk:
            self.selected = output.indices[0]
        return output

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: None = None, **others: float | bool | None
    ) -> Tensor:
        """Attention of an image tower in evaluation mode, without mask or dropout."""
        assert attn_mask is None, "masked"
        assert not any(others.get(name) for name in ("is_causal", "dropout_p")), others
        scale = others.get("scale") or query.shape[-1] ** -0.5
        self.weights.append((scale * query @ key.transpose(-2, -1)).softmax(dim=-1))
        return self.weights[-1] @ value

    def _project_and_attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        width: int,
        heads: int,
        weight: Tensor,
        bias: Tensor,
        *others: object,
        **named: object,
    ) -> tuple[Tensor, None]:
        """What `nn.MultiheadAttention` computes in evaluation mode, without mask; (L, 1, width) each."""
        assert named.get("attn_mask") is None, "masked"
        *_, out_weight, out_bias = others
        parts = zip((query, key, value), weight.chunk(3), bias.chunk(3), strict=True)
        split = [F.linear(x[:, 0], w, b).unflatten(1, (heads, -1)).transpose(0, 1) for x, w, b in parts]
        x = self._attend(*split).transpose(0, 1).flatten(1)
        return F.linear(x, out_weight, out_bias)[:, None], None


def explain(encoder: Encoder, image: Image.Image, caption: str) -> np.ndarray:
    """Compute how much each pixel contributes to the score of an image and a caption.

    With s the cosine similarity, A the attention of a layer and G = ds/dA, R starts as the identity and each
    layer updates it: R <- R + mean_heads(max(0, G * A)) R. The class token's row of R holds the relevance
    of the patches, which is upsampled bilinearly. An attention pooling has a row of its own in its place, and
    a mean the mean of the rows. With token selection, the score reads K other rows as well: the last layer's
    updates of all rows are added up, and so are these rows of R before it, weighted by
    max(0, ds/dF * F) of what their token contributes to the maximum, F, as if that were an attention.

    Returns:
        (H, W) float32 at the size of the image, in [0, 1] with both ends attained; all 0 where no patch
        contributes. Pixels that the processor crops off are 0.

    Raises:
        UserError: the caption has no words.
    """
    if not encoder.tokenizer.clean(caption):
        raise UserError(f"There are no words in {caption!r:.40}: enter a description")
    text = encoder.encode_texts([caption])[0]
    relevance = patch_relevance(encoder, image, text)
    left, top, right, bottom = encoder.processor.seen_box(image)
    size = (bottom - top, right - left)
    heat = F.interpolate(relevance[None, None], size, mode="bilinear", align_corners=False)[0, 0]
    heat = (heat - heat.min()) / (heat.max() - heat.min()).clamp(min=1e-12)
    whole = np.zeros((image.height, image.width), np.float32)
    whole[top:bottom, left:right] = heat.numpy()
    return whole


def patch_relevance(encoder: Encoder, image: Image.Image, text: Tensor) -> Tensor:
    """The class token's row of R, as in `explain`, for a text feature (E,): (rows, columns) of patches."""
    pixels = encoder.processor(images=[image], return_tensors="pt")["pixel_values"].to(encoder.device)
    with torch.enable_grad(), AttentionRecorder() as recorder:
        feature = encoder.model.embed(pixels.requires_grad_())[0].float()
        score = F.cosine_similarity(feature, text.to(encoder.device), dim=0)
    lengths = {weights.shape[-1] for weights in recorder.weights}
    is_windowed = any(weights.ndim == 4 and len(weights) > 1 for weights in recorder.weights)
    if len(lengths) != 1 or is_windowed:
        raise UserError(
            "the image tower shows no attention over all of its patches in every layer, so that its features "
            "cannot be explained"
        )
    number = len(recorder.weights)
    read = recorder.weights + (recorder.largest if recorder.selected is not None else [])
    shares = [
        (values.detach() * gradient).float()
        for values, gradient in zip(read, torch.autograd.grad(score, read), strict=True)
    ]
    *below, last = [share.clamp(min=0).flatten(0, -3).mean(dim=0) for share in shares[:number]]
    relevance = torch.eye(last.shape[-1], device=encoder.device)
    for attended in below:
        relevance = relevance + attended @ relevance
    start = {"class": relevance[0], "attention": 0, "mean": relevance.mean(dim=0)}
    pooled = start[encoder.model.clip.pooling]
    row = pooled + last.sum(dim=0) @ relevance  # the gradient of a row that nothing reads is 0
    for share in shares[number:]:
        row = row + share[0].sum(dim=1).clamp(min=0) @ relevance[recorder.selected]
    rows, columns = encoder.model.clip.patch_grid
    return row[-rows * columns :].view(rows, columns).cpu()


def overlay(image: Image.Image, heat: np.ndarray) -> Image.Image:
    """Blend the image in grey with the colour map of `heat` (H, W) in [0, 1]."""
    from matplotlib import colormaps

    colors = 255 * colormaps[COLOR_MAP](heat)[..., :3]
    opacity = OPACITY * heat[..., None]
    grey = np.asarray(image.convert("L"), np.float32)[..., None]
    return Image.fromarray((grey * (1 - opacity) + colors * opacity).round().astype(np.uint8))
