"""Slow, obvious references of the losses: float64 numpy, loops over rows, no autograd.

A loss that treats a part of itself as a constant takes that part as an argument of its own (`frozen`, the
same value), so that `finite_differences` moves what is not constant and nothing else.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

Array = np.ndarray
IGNORED = -100


def normalised(rows: Array) -> Array:
    return np.array([row / math.sqrt(row @ row) for row in rows])


def softmax(row: Array) -> Array:
    exponentials = np.exp(row - row.max())
    return exponentials / exponentials.sum()


def cross_entropy(row: Array, label: int) -> float:
    return -math.log(softmax(row)[label])


def mlp(rows: Array, w1: Array, b1: Array, w2: Array, b2: Array) -> Array:
    return np.maximum(rows @ w1.T + b1, 0) @ w2.T + b2


def targets(ids: Sequence[int]) -> Array:
    rows = [[1.0 if a == b else 0.0 for b in ids] for a in ids]
    return np.array([[value / sum(row) for value in row] for row in rows])


def nitc(logits: Array, q: Array, a: float = 0.0, frozen: Array | None = None) -> float:
    losses = []
    for row, own, q_row in zip(logits, logits if frozen is None else frozen, q, strict=True):
        target = (1 - a) * q_row + a * softmax(own)
        losses.append(-target @ np.log(softmax(row)))
    return float(np.mean(losses))


def kl_to_targets(logits: Array, q: Array, eps: float) -> float:
    """KL(P || Q + eps), the mean over rows: R-ITC, and SDM at scale 50."""
    losses = []
    for row, q_row in zip(logits, q, strict=True):
        p = softmax(row)
        losses.append(p @ (np.log(p) - np.log(q_row + eps)))
    return float(np.mean(losses))


def citc(images: Array, texts: Array, lambda1: float, lambda2: float) -> float:
    n, total = len(images), 0.0
    for i in range(n):
        for j in range(n):
            total += lambda1 * (images[i] @ images[j] - texts[i] @ texts[j]) ** 2
            total += lambda2 * (images[i] @ texts[j] - texts[i] @ images[j]) ** 2
    return total / n**2


def ss(first: Array, second: Array, temperature: float) -> float:
    views, n = np.concatenate([first, second]), len(first)
    losses = []
    for i in range(2 * n):
        partner = (i + n) % (2 * n)
        denominator = sum(math.exp(views[i] @ views[k] / temperature) for k in range(2 * n) if k != i)
        losses.append(-math.log(math.exp(views[i] @ views[partner] / temperature) / denominator))
    return float(np.mean(losses))


def mlm(logits: Array, labels: Array) -> float:
    """logits (B, L, V), labels (B, L): the mean over the masked positions, 0 where there is none."""
    masked = [(b, i) for b, i in np.ndindex(*labels.shape) if labels[b, i] != IGNORED]
    return sum(cross_entropy(logits[at], labels[at]) for at in masked) / max(1, len(masked))


def identity(image_logits: Array, text_logits: Array, ids: Sequence[int]) -> float:
    losses = [
        cross_entropy(row, label)
        for logits in (image_logits, text_logits)
        for row, label in zip(logits, ids, strict=True)
    ]
    return float(np.mean(losses))


def cid(images: Array, texts: Array, ids: Sequence[int], no_match: int, layers: Sequence[Array]) -> float:
    """Features that are not normalised; `layers` as of `pair_scores`."""
    c = normalised(images) @ normalised(texts).T
    pairs = []
    for i, own in enumerate(ids):
        others = [j for j, person in enumerate(ids) if person != own]
        pairs.append((i, i, own))
        if others:
            pairs.append((max(others, key=lambda j: c[j, i]), i, no_match))
            pairs.append((i, max(others, key=lambda j: c[i, j]), no_match))
    losses = []
    for image, text, label in pairs:
        for both in ([images[image], texts[text]], [texts[text], images[image]]):
            losses.append(cross_entropy(pair_scores(np.concatenate(both), *layers), label))
    return float(np.mean(losses))


def pair_scores(row: Array, w1: Array, b1: Array, gain: Array, shift: Array, w2: Array, b2: Array) -> Array:
    """Linear, LayerNorm, GELU, linear."""
    x = w1 @ row + b1
    x = (x - x.mean()) / math.sqrt(x.var() + 1e-5) * gain + shift
    return w2 @ np.array([value * (1 + math.erf(value / math.sqrt(2))) / 2 for value in x]) + b2


def tal_hinges(
    cosines: Array, ids: Sequence[int], margin: float = 0.1, tau: float = 0.015, frozen: Array | None = None
) -> list[float]:
    """What TAL cuts off at 0, for each row that has a negative."""
    hinges = []
    for i, (row, own) in enumerate(zip(cosines, cosines if frozen is None else frozen, strict=True)):
        positives = [j for j in range(len(ids)) if ids[j] == ids[i]]
        negatives = [j for j in range(len(ids)) if ids[j] != ids[i]]
        if negatives:
            near = row[positives] @ softmax(own[positives] / tau)
            far = tau * math.log(sum(math.exp(row[j] / tau) for j in negatives))
            hinges.append(margin - near + far)
    return hinges


def tal(cosines: Array, ids: Sequence[int], frozen: Array | None = None) -> float:
    """The sum over rows."""
    return sum(max(0.0, hinge) for hinge in tal_hinges(cosines, ids, frozen=frozen))


def sigmoid(logits: Array, ids: Sequence[int]) -> float:
    total = 0.0
    for i, j in np.ndindex(*logits.shape):
        z = 1 if ids[i] == ids[j] else -1
        total += math.log1p(math.exp(-z * logits[i, j]))
    return total / len(ids)


def finite_differences(function: Callable[[], float], values: Array, step: float = 1e-5) -> Array:
    """The gradient of `function()` with respect to `values`, which it reads; central differences."""
    gradient = np.zeros_like(values)
    for at in np.ndindex(*values.shape):
        middle = values[at]
        values[at] = middle + step
        above = function()
        values[at] = middle - step
        below = function()
        values[at] = middle
        gradient[at] = (above - below) / (2 * step)
    return gradient
