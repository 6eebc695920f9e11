"""The sizes of towers and heads that determine their arithmetic, read from the modules of any backbone."""

from dataclasses import replace

from torch import nn

from data.types import Batch
from misc.benchmark.flops import Tower, cross_modal
from model.altclip_adapter import AltCLIP
from model.classification import CID, ID
from model.clip import CLIP
from model.mlm import IGNORED, MLM
from model.objectives import TSE, SimCLR
from model.protocol import DualEncoder
from model.tbps import TBPS
from model.towers.selection import number_of


def are_known(clip: DualEncoder) -> bool:
    """Whether their sizes tell their arithmetic; of towers of other libraries it is counted as it is done."""
    return isinstance(clip, CLIP | AltCLIP)


def towers(clip: DualEncoder, length: int) -> tuple[Tower, Tower]:
    """The image tower and the text tower, for captions of `length` tokens."""
    patches = next(module for module in clip.visual.modules() if isinstance(module, nn.Conv2d))
    rows, columns = clip.patch_grid
    image = _tower(clip.visual, 1 + rows * columns, patches.weight[0].numel(), patches.weight.requires_grad)
    return image, _tower(clip.text, length)


def step_towers(model: TBPS, length: int, text_length: int) -> tuple[Tower, Tower]:
    """The towers in a training step on captions of `length` tokens, with the tokens that its losses read.

    Where an objective on tokens is on, view1 is taken to be the only view.
    """
    padded = [objective.pad_to or 0 for objective in model.token_objectives.values()]
    image, text = towers(model.clip, max([length, *padded]))
    selections = [objective.select_at(model.step) for objective in model.embedders]
    for share in (selection.share for selection in selections if selection):
        words = min(number_of(share, text_length - 2), length - 2)
        image = replace(image, outputs=1 + number_of(share, image.tokens - 1))
        text = replace(text, outputs=1 + words)
    if "view1" in model.dense:
        image = replace(image, outputs=image.tokens)
    return image, replace(text, outputs=text.tokens) if "tokens" in model.dense else text


def head_flops(model: TBPS, image: Tower, text: Tower, batch: Batch) -> float:
    """FLOPs of all heads per sample, forward; `image` and `text` as of `step_towers`."""
    total = 0.0
    for objective in model.objectives.values():
        if isinstance(objective, SimCLR | ID):
            total += 2 * 2 * _elements(objective.head)
        elif isinstance(objective, CID):  # three pairs, in both orders
            total += 6 * 2 * _elements(objective.head)
        elif isinstance(objective, TSE):
            for head, tower in zip(objective.head.values(), (image, text), strict=True):
                total += 2 * (tower.outputs - 1) * _elements(head)
        elif isinstance(objective, MLM):
            head, masked = objective.head, (batch.mlm_labels != IGNORED).sum().item() / len(batch.indices)
            depth = len(head.cross_modal_transformer.resblocks)
            total += cross_modal(head.dense.in_features, text.tokens, image.tokens, depth)
            total += 2 * masked * (head.dense.weight.numel() + head.fc.weight.numel())
    return total


def _elements(head: nn.Module) -> int:
    return sum(parameter.numel() for parameter in head.parameters() if parameter.ndim > 1)


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
