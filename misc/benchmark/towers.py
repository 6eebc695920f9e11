"""The sizes of a model's towers, as its arithmetic is counted, read off the modules."""

from torch import nn

from misc.benchmark.flops import Tower
from model.altclip_adapter import AltCLIP


def towers(clip: nn.Module, image_size: tuple[int, int], length: int) -> tuple[Tower, Tower]:
    """The image and the text tower, for images of `image_size` and captions of `length` tokens."""
    if isinstance(clip, AltCLIP):
        vision, text = clip.visual.vision_model, clip.text.text_model
        patches, projection = vision.embeddings.patch_embedding, clip.visual.visual_projection.weight.numel()
        image = _tower(_blocks(vision.encoder), vision.pre_layrnorm, patches, image_size, projection)
        projection = text.transformation.weight.numel() + clip.text.text_projection.weight.numel()
        return image, _text(_blocks(text.roberta.encoder), text.roberta.embeddings, length, projection)
    visual, text = clip.visual, clip.text
    image = _tower(visual.transformer.resblocks, visual.ln_pre, visual.conv1, image_size, visual.proj.numel())
    blocks, projection = text.transformer.resblocks, text.text_projection.numel()
    return image, _text(blocks, text.token_embedding, length, projection, causal=True)


def _tower(
    blocks: nn.ModuleList, below: nn.Module, patches: nn.Conv2d, image_size: tuple[int, int], projection: int
) -> Tower:
    height, width = patches.kernel_size
    return Tower(
        1 + (image_size[0] // height) * (image_size[1] // width),
        *_widths(blocks[0]),
        projection,
        [_trains(block) for block in blocks],
        patch=patches.in_channels * height * width,
        patch_trained=_trains(patches),
        below_trained=_trains(below),
    )


def _text(
    blocks: nn.ModuleList, below: nn.Module, length: int, projection: int, causal: bool = False
) -> Tower:
    trained = [_trains(block) for block in blocks]
    return Tower(length, *_widths(blocks[0]), projection, trained, causal, below_trained=_trains(below))


def _blocks(encoder: nn.Module) -> nn.ModuleList:
    return next(module for module in encoder.children() if isinstance(module, nn.ModuleList))


def _widths(block: nn.Module) -> tuple[int, int]:
    """(width, mlp): the widest linear layer is the MLP's first."""
    widest = max((m for m in block.modules() if isinstance(m, nn.Linear)), key=lambda m: m.out_features)
    return widest.in_features, widest.out_features


def _trains(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())
