"""Gradient accumulation with cached features: a batch in parts, and the gradient of the whole.

The scheme is GradCache (Gao et al. 2021, arXiv 2101.06983). A contrastive loss sees all rows at once, so
the losses of parts do not add up to it. But it sees them through their features alone, which are small: those
of all parts are made without gradient, the loss of the whole is formed on them once, and each part goes
through the towers again to take its features' gradients back to the parameters.
"""

import dataclasses
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from misc.process.seed import random_state, restore_random_state

if TYPE_CHECKING:
    from model.tbps import TBPS, Features, LossOutput


def accumulate(
    model: "TBPS",
    batch: Any,
    soft_label: float,
    num_parts: int,
    scale: Callable[[Tensor], Tensor],
    device: torch.device,
) -> "LossOutput":
    """`model(batch, soft_label)` and its backward pass in the memory of a part: adds to the gradient of every
    trained parameter what the whole batch would, and returns the losses without graph.

    The gradients are those of this process: the caller averages them over the processes. Of a part, one view
    at a time is in memory, or its captions. Both passes draw the same dropout. MLM needs the tokens of a
    part, but not those of the others: it is formed part by part, and divided by the masked tokens of the
    whole.

    Args:
        batch: B rows, as `TBPS.forward` has them, on any device: the parts are moved one at a time.
        num_parts: of B // num_parts rows, or one more, each; at most B.
        scale: what a loss goes through before its backward pass: `GradScaler.scale`.
        device: the model's.
    """
    size = len(batch.person_ids)
    assert num_parts <= size, (num_parts, size)
    bounds = [size * number // num_parts for number in range(num_parts + 1)]
    shares = list(itertools.starmap(slice, itertools.pairwise(bounds)))
    _make_gradients(model)
    report, num_masked = model.begin_step(batch)
    passes = [[view] for view in model.image_views] + ([model.texts] if model.texts else [])
    features, states = _cache_features(model, batch, shares, passes, device)
    losses = model.compare(features, batch.person_ids.to(device), soft_label)
    if losses:
        total = scale(torch.stack(list(losses.values())).sum())
        with torch.autocast(device.type, enabled=False):  # products of a backward pass would else follow it
            total.backward()
    losses = {name: loss.detach() for name, loss in losses.items()}

    replayed = iter(states)
    for share in shares:
        part = _part(batch, share, device)
        for names in passes:
            later = random_state(device)
            restore_random_state(next(replayed), device)
            pooled, tokens = model.encode(part, names)
            restore_random_state(later, device)
            wanted = [
                name for name in names if features[name].grad is not None and pooled[name].requires_grad
            ]
            outputs = [pooled[name] for name in wanted]
            gradients = [features[name].grad[share] for name in wanted]
            if tokens is not None:
                loss = model.masked_language(part, tokens, num_masked)
                losses["mlm"] = losses.get("mlm", 0) + loss.detach()
                outputs.append(scale(loss))
                gradients.append(None)
            with torch.autocast(device.type, enabled=False):
                torch.autograd.backward(outputs, gradients)
    return model.output(losses, report)


def _cache_features(
    model: "TBPS", batch: Any, shares: list[slice], passes: list[list[str]], device: torch.device
) -> tuple["Features", list[dict[str, Tensor]]]:
    """The features of all rows, leaves of a graph to come; and the random state before each pass."""
    cached: list[Features] = []
    states = []
    with torch.no_grad():
        for share in shares:
            part = _part(batch, share, device)
            cached.append({})
            for names in passes:
                states.append(random_state(device))
                cached[-1] |= model.encode(part, names, dense=False)[0]
    torch.clear_autocast_cache()  # its copies of the weights were made without gradient
    return {name: torch.cat([rows[name] for rows in cached]).requires_grad_() for name in cached[0]}, states


def _make_gradients(model: nn.Module) -> None:
    """All gradients, before anything else: made in the midst of a part, they would leave holes between them
    that the next part does not fit into.
    """
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


def _part(batch: Any, rows: slice, device: torch.device) -> Any:
    """These rows on the device, their captions cut to the longest of them; what is not of rows stays."""
    part, changed = batch.map(lambda tensor: tensor[rows]), {}
    for name in ("tokens", "tokens2", "masked_tokens"):
        if (tokens := getattr(part, name)) is not None:
            longest = int(tokens["attention_mask"].sum(dim=1).max())
            changed[name] = {key: tensor[:, :longest] for key, tensor in tokens.items()}
            if name == "masked_tokens":
                changed["mlm_labels"] = part.mlm_labels[:, :longest]
    return dataclasses.replace(part, **changed).to(device, non_blocking=True)
