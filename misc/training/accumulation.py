"""Gradient accumulation with cached features: a batch in parts, and the gradient of the whole batch.

The scheme is GradCache (Gao et al. 2021, arXiv 2101.06983). A contrastive loss sees all rows at once, so
the losses of parts do not add up to it. But it sees them through their features alone, which are small: those
of all parts are made without gradient, the loss of the whole is formed on them once, and each part goes
through the towers again to take its features' gradients back to the parameters.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor, nn

from data.types import Batch
from misc.process import distributed
from misc.process.launch import share
from misc.process.seed import random_state, restore_random_state
from model.objective import Pairs, Rows
from model.tbps import TBPS, LossOutput

_BUCKET = 2**25  # bytes of gradients in one all-reduce, about as in DistributedDataParallel


def accumulate(
    model: TBPS,
    batch: Batch,
    soft_label: float,
    num_parts: int,
    scale: Callable[[Tensor], Tensor],
    device: torch.device,
    shared: "SharedGradients | None" = None,
) -> LossOutput:
    """`model(batch, soft_label)` and its backward pass in the memory of a part: adds to the gradient of every
    trained parameter what the whole batch would, and returns the losses without graph.

    Of a part, one view at a time is in memory, or its captions. Both passes draw the same dropout. The
    objectives on tokens are computed part by part, and divided by the counts of the whole batch.

    Args:
        batch: B rows, as `TBPS.forward` has them, on any device: the parts are moved one at a time.
        num_parts: of B // num_parts rows, or one more, each; at most B.
        scale: what a loss goes through before its backward pass: `GradScaler.scale`.
        device: the model's.
        shared: makes means over the processes of the gradients, once; None: they are those of this process.
    """
    parts, passes = _plan(model, len(batch.person_ids), num_parts)
    for parameter in model.parameters():  # allocated in a part they would leave holes too small for the next
        if parameter.requires_grad and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    counts = model.begin_step(batch)
    features, states = _cache_features(model, batch, parts, passes, device)
    losses = model.losses(_gather(model, features, batch, soft_label, device))
    if losses:
        _backward([scale(torch.stack(list(losses.values())).sum())], [None], device)
    losses = {name: loss.detach() for name, loss in losses.items()}

    replayed = iter(states)
    for number, rows in enumerate(parts):
        if shared:
            shared.begin_part(number, len(parts))
        part = _part(batch, rows, device)
        for names in passes:
            later = random_state(device)
            restore_random_state(next(replayed), device)
            encoded, tokens = model.encode(part, names)
            restore_random_state(later, device)
            outputs, gradients = [], []
            for name, output in encoded.items():
                if features[name].grad is not None and output.requires_grad:
                    outputs.append(output)
                    gradients.append(features[name].grad[rows])
            if tokens:
                for name, loss in model.token_losses(part, tokens, counts).items():
                    losses[name] = losses.get(name, 0) + loss.detach()
                    outputs.append(scale(loss))
                    gradients.append(None)
            _backward(outputs, gradients, device)
    if shared:
        shared.finish()
    return model.output(losses, counts)


def encode_in_parts(model: TBPS, batch: Batch, num_parts: int, device: torch.device) -> Pairs:
    """What the losses of a batch contrast, without graph and without rewritten captions, in the memory of a
    part, of one row at least.
    """
    parts, passes = _plan(model, len(batch.person_ids), min(num_parts, len(batch.person_ids)))
    passes = [[name for name in names if name != "rewritten"] for names in passes]
    features, _ = _cache_features(model, batch, parts, passes, device)
    return _gather(model, features, batch, 0.0, device)


def _plan(model: TBPS, size: int, num_parts: int) -> tuple[list[slice], list[list[str]]]:
    """The rows of the parts, and the inputs that each pass of a part encodes."""
    assert num_parts <= size, (num_parts, size)
    return [share(size, number, num_parts) for number in range(num_parts)], model.passes()


def _gather(model: TBPS, features: Rows, batch: Batch, soft_label: float, device: torch.device) -> Pairs:
    of_rows = {name: getattr(batch, name) for name in ("person_ids", "weights")}
    moved = {name: rows if rows is None else rows.to(device) for name, rows in of_rows.items()}
    return model.gather(features, dataclasses.replace(batch, **moved), soft_label)


def _backward(outputs: list[Tensor], gradients: list[Tensor | None], device: torch.device) -> None:
    with torch.autocast(device.type, enabled=False):  # the products of a backward pass would follow it
        if outputs:
            torch.autograd.backward(outputs, gradients)


def _cache_features(
    model: TBPS, batch: Batch, parts: list[slice], passes: list[list[str]], device: torch.device
) -> tuple[Rows, list[dict[str, Tensor]]]:
    """The features of all rows, leaves of a new graph; and the random state before each pass."""
    cached: list[Rows] = []
    states = []
    with torch.no_grad():
        for rows in parts:
            part = _part(batch, rows, device)
            cached.append({})
            for names in passes:
                states.append(random_state(device))
                cached[-1] |= model.encode(part, names, keep_tokens=False)[0]
    torch.clear_autocast_cache()  # its copies of the weights were made without gradient
    return {name: torch.cat([rows[name] for rows in cached]).requires_grad_() for name in cached[0]}, states


def _part(batch: Batch, rows: slice, device: torch.device) -> Batch:
    """These rows on the device, their captions cut to the longest of them."""
    part, changed = batch.map(lambda tensor: tensor[rows]), {}
    of_labels = "tokens" if part.masked_tokens is None else "masked_tokens"
    for name in ("tokens", "tokens2", "rewritten", "masked_tokens"):
        if (tokens := getattr(part, name)) is not None:
            longest = int(tokens["attention_mask"].sum(dim=1).max())
            changed[name] = {key: tensor[:, :longest] for key, tensor in tokens.items()}
            if name == of_labels and part.mlm_labels is not None:
                changed["mlm_labels"] = part.mlm_labels[:, :longest]
    return dataclasses.replace(part, **changed).to(device, non_blocking=True)


class SharedGradients:
    """The gradients of a model, averaged over the processes while the last part is in its backward passes.

    They are views of buckets. The sum of a bucket over the processes begins once the last part has added to
    each of its gradients as often as the first one did, and after those of the buckets before it, so that all
    processes have one order; what remains, as of a batch in one part, follows at the end.
    """

    def __init__(self, model: TBPS) -> None:
        self._buckets: list[list[nn.Parameter]] = [[]]
        for parameter in _in_order_of_completion(model):
            if sum(p.nbytes for p in (*self._buckets[-1], parameter)) > _BUCKET and self._buckets[-1]:
                self._buckets.append([])
            self._buckets[-1].append(parameter)
        self._flat = [_with_gradients_in_one(bucket) for bucket in self._buckets]
        self._views = {p: p.grad for bucket in self._buckets for p in bucket}
        self._waits: list[Callable[[], object]] = []  # for the buckets that are begun
        self._added, self._expected = Counter[nn.Parameter](), Counter[nn.Parameter]()
        self._is_last = False
        for parameter in self._views:
            parameter.register_post_accumulate_grad_hook(self._add)

    def begin_part(self, number: int, num_parts: int) -> None:
        """Before the first pass with gradient of each part, counted from 0."""
        if number == 1:
            self._expected = Counter(self._added)
        self._added.clear()
        self._is_last = 0 < number == num_parts - 1
        self._begin_complete()

    def _add(self, parameter: nn.Parameter) -> None:
        self._added[parameter] += 1
        if self._is_last:
            assert self._added[parameter] <= self._expected[parameter], "a part adds more than the first one"
            self._begin_complete()

    def _begin_complete(self) -> None:
        while self._is_last and len(self._waits) < len(self._buckets):
            if any(self._added[p] < self._expected[p] for p in self._buckets[len(self._waits)]):
                return
            self._begin_next()

    def _begin_next(self) -> None:
        self._waits.append(distributed.start_sum(self._flat[len(self._waits)]))

    def finish(self) -> None:
        """After the last part: wait until all gradients are means."""
        self._is_last = False
        assert all(p.grad is view for p, view in self._views.items()), "a gradient is not in its bucket"
        while len(self._waits) < len(self._buckets):
            self._begin_next()
        for wait, flat in zip(self._waits, self._flat, strict=True):
            wait()
            flat.div_(distributed.world_size())
        self._waits.clear()


def _in_order_of_completion(model: TBPS) -> list[nn.Parameter]:
    """What is trained: of the heads, of the tower that the last pass does not reach, of the other one."""
    ends_with_texts = bool(set(model.passes()[-1]) & set(model.texts))
    towers = [model.clip.visual, model.clip.text]
    ranks = {id(p): 1 + (i == ends_with_texts) for i, tower in enumerate(towers) for p in tower.parameters()}
    last_first = [p for p in model.parameters() if p.requires_grad][::-1]
    return sorted(last_first, key=lambda p: ranks.get(id(p), 0))


def _with_gradients_in_one(parameters: list[nn.Parameter]) -> Tensor:
    """A flat tensor of zeros, parts of which are the gradients of the parameters from now on."""
    flat = torch.cat([torch.zeros_like(p).flatten() for p in parameters])
    for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = part.view_as(parameter)
    return flat
