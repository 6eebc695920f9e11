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
from torch import Tensor

from misc.seed import random_state, restore_random_state

if TYPE_CHECKING:
    from model.tbps import TBPS, LossOutput


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

    The gradients are those of this process: the caller averages them over the processes. Both passes of a
    part draw the same dropout. MLM needs the tokens of a part, but not those of the others: it is formed part
    by part, and divided by the masked tokens of the whole.

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
    report, num_masked = model.begin_step(batch)
    states, cached = [], []
    with torch.no_grad():
        for share in shares:
            states.append(random_state(device))
            cached.append(model.encode(_part(batch, share, device), dense=False)[0])
    torch.clear_autocast_cache()  # its copies of the weights were made without gradient
    features = {name: torch.cat([rows[name] for rows in cached]).requires_grad_() for name in cached[0]}
    losses = model.compare(features, batch.person_ids.to(device), soft_label)
    if losses:
        scale(torch.stack(list(losses.values())).sum()).backward()
    losses = {name: loss.detach() for name, loss in losses.items()}

    for share, state in zip(shares, states, strict=True):
        part, later = _part(batch, share, device), random_state(device)
        restore_random_state(state, device)
        pooled, tokens = model.encode(part)
        restore_random_state(later, device)
        outputs, gradients = [], []
        for name, rows in features.items():
            if rows.grad is not None and pooled[name].requires_grad:
                outputs.append(pooled[name])
                gradients.append(rows.grad[share])
        if num_masked is not None:
            loss = model.masked_language(part, tokens, num_masked)
            losses["mlm"] = losses.get("mlm", 0) + loss.detach()
            outputs.append(scale(loss))
            gradients.append(None)
        torch.autograd.backward(outputs, gradients)
    return model.output(losses, report)


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
