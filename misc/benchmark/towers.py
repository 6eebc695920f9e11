"""The sizes of a model's towers that determine its arithmetic, read from the modules of any backbone."""

from torch import nn

from misc.benchmark.flops import Tower
from model.protocol import DualEncoder


def towers(clip: DualEncoder, length: int) -> tuple[Tower, Tower]:
    """The image tower and the text tower, for captions of `length` tokens."""
    patches = next(module for module in clip.visual.modules() if isinstance(module, nn.Conv2d))
    rows, columns = clip.patch_grid
    image = _tower(clip.visual, 1 + rows * columns, patches.weight[0].numel(), patches.weight.requires_grad)
    return image, _tower(clip.text, length)


def _tower(tower: nn.Module, tokens: int, patch: int = 0, patch_trained: bool = False) -> Tower:
    """The blocks are the longest list of modules; matrices outside them embed or project the pooled token."""
    blocks = max((module for module in tower.modules() if isinstance(module, nn.ModuleList)), key=len)
    inside = {id(parameter) for parameter in blocks.parameters()}
    matrices = {n: p for n, p in tower.named_parameters() if p.ndim == 2 and id(p) not in inside}
    below = {name for name in matrices if "embedding" in name}
    widest = max((m for m in blocks[0].modules() if isinstance(m, nn.Linear)), key=lambda m: m.out_features)
    return Tower(
        tokens,
        width=widest.in_features,
        mlp=widest.out_features,
        projection=sum(matrices[name].numel() for name in matrices.keys() - below),
        trained=[any(p.requires_grad for p in block.parameters()) for block in blocks],
        causal=any(getattr(module, "causal", False) for module in blocks.modules()),
        patch=patch,
        patch_trained=patch_trained,
        below_trained=any(matrices[name].requires_grad for name in below),
    )
