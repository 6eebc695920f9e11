"""Every loss against a slow float64 reference that loops over rows, and numbers worked out by hand."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from model.losses import citc_loss, identity_targets, nitc_loss, ritc_loss, ss_loss


def reference_softmax(row: np.ndarray) -> np.ndarray:
    exponentials = np.exp(row - row.max())
    return exponentials / exponentials.sum()


def reference_targets(ids: list[int]) -> np.ndarray:
    rows = [[1.0 if a == b else 0.0 for b in ids] for a in ids]
    return np.array([[value / sum(row) for value in row] for row in rows])


def reference_nitc(logits: np.ndarray, q: np.ndarray, a: float) -> float:
    losses = []
    for row, q_row in zip(logits, q, strict=True):
        p = reference_softmax(row)
        losses.append(-sum(((1 - a) * qj + a * pj) * math.log(pj) for qj, pj in zip(q_row, p, strict=True)))
    return float(np.mean(losses))


def reference_ritc(logits: np.ndarray, q: np.ndarray, eps: float) -> float:
    losses = []
    for row, q_row in zip(logits, q, strict=True):
        p = reference_softmax(row)
        losses.append(sum(pj * (math.log(pj) - math.log(qj + eps)) for pj, qj in zip(p, q_row, strict=True)))
    return float(np.mean(losses))


def reference_citc(images: np.ndarray, texts: np.ndarray, l1: float, l2: float) -> float:
    n, total = len(images), 0.0
    for i in range(n):
        for j in range(n):
            total += l1 * (images[i] @ images[j] - texts[i] @ texts[j]) ** 2
            total += l2 * (images[i] @ texts[j] - texts[i] @ images[j]) ** 2
    return total / n**2


def reference_ss(first: np.ndarray, second: np.ndarray, temperature: float) -> float:
    views, n = np.concatenate([first, second]), len(first)
    losses = []
    for i in range(2 * n):
        partner = (i + n) % (2 * n)
        denominator = sum(math.exp(views[i] @ views[k] / temperature) for k in range(2 * n) if k != i)
        losses.append(-math.log(math.exp(views[i] @ views[partner] / temperature) / denominator))
    return float(np.mean(losses))


IDS = [3, 5, 3, 9, 9, 9, 1, 5]


@pytest.fixture
def features() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images, texts = torch.randn(2, len(IDS), 16, generator=generator).double()
    return F.normalize(images, dim=1), F.normalize(texts, dim=1)


def test_targets_share_a_row_among_all_images_of_the_person() -> None:
    targets = identity_targets(torch.tensor(IDS), torch.tensor(IDS))
    np.testing.assert_allclose(targets.numpy(), reference_targets(IDS), rtol=1e-6)


@pytest.mark.parametrize("soft_label", [0.0, 0.3, 0.5])
def test_nitc_equals_the_loop_over_rows(features: tuple[Tensor, Tensor], soft_label: float) -> None:
    logits = 20 * features[0] @ features[1].T
    q = reference_targets(IDS)
    loss = nitc_loss(logits, torch.tensor(q), soft_label)
    assert loss.item() == pytest.approx(reference_nitc(logits.numpy(), q, soft_label), rel=1e-10)


def test_no_gradient_flows_through_the_soft_label(features: tuple[Tensor, Tensor]) -> None:
    logits = (20 * features[0] @ features[1].T).requires_grad_()
    q = torch.tensor(reference_targets(IDS))
    nitc_loss(logits, q, 0.5).backward()
    p = logits.detach().softmax(dim=1)
    target = 0.5 * q + 0.5 * p  # cross-entropy against a constant target has the gradient (P - T) / B
    torch.testing.assert_close(logits.grad, (p - target) / len(IDS))


def test_ritc_equals_the_loop_over_rows(features: tuple[Tensor, Tensor]) -> None:
    logits = 20 * features[0] @ features[1].T
    q = reference_targets(IDS)
    loss = ritc_loss(logits, torch.tensor(q), 0.01)
    assert loss.item() == pytest.approx(reference_ritc(logits.numpy(), q, 0.01), rel=1e-10)


def test_ritc_is_kl_of_p_from_q_and_not_the_other_way_round() -> None:
    """P = (3/4, 1/4), Q = (1, 0), eps = 1/100, by hand:

    KL(P || Q+eps) = 3/4 ln(0.75/1.01) + 1/4 ln(0.25/0.01) = -0.223224 + 0.804719 = 0.581495
    KL(Q || P)     = ln(1/0.75)                             =                       0.287682
    """
    logits = torch.tensor([[math.log(3.0), 0.0]], dtype=torch.float64)
    q = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    assert ritc_loss(logits, q, 0.01).item() == pytest.approx(0.581495, abs=1e-6)
    assert nitc_loss(logits, q).item() == pytest.approx(0.287682, abs=2e-6)


def test_citc_equals_the_double_loop(features: tuple[Tensor, Tensor]) -> None:
    images, texts = features
    loss = citc_loss(images, texts, images, texts, 0.25, 0.5)
    assert loss.item() == pytest.approx(reference_citc(images.numpy(), texts.numpy(), 0.25, 0.5), rel=1e-10)


def test_ss_equals_the_loop_over_all_views(features: tuple[Tensor, Tensor]) -> None:
    first, second = features
    loss = ss_loss(first, second, first, second, offset=0, temperature=0.1)
    assert loss.item() == pytest.approx(reference_ss(first.numpy(), second.numpy(), 0.1), rel=1e-10)


def test_the_mean_over_blocks_of_rows_is_the_loss_of_the_whole_batch(features: tuple[Tensor, Tensor]) -> None:
    images, texts = features
    targets = torch.tensor(reference_targets(IDS))
    blocks = [slice(0, 4), slice(4, 8)]
    pairs = [
        (
            nitc_loss(images @ texts.T, targets, 0.5),
            [nitc_loss(images[b] @ texts.T, targets[b], 0.5) for b in blocks],
        ),
        (ritc_loss(images @ texts.T, targets), [ritc_loss(images[b] @ texts.T, targets[b]) for b in blocks]),
        (
            citc_loss(images, texts, images, texts),
            [citc_loss(images[b], texts[b], images, texts) for b in blocks],
        ),
        (
            ss_loss(images, texts, images, texts, 0),
            [ss_loss(images[b], texts[b], images, texts, b.start) for b in blocks],
        ),
    ]
    for whole, parts in pairs:
        torch.testing.assert_close(torch.stack(parts).mean(), whole)


def test_a_perfect_match_has_next_to_no_loss() -> None:
    logits = 100 * torch.eye(4, dtype=torch.float64)
    q = torch.eye(4, dtype=torch.float64)
    assert nitc_loss(logits, q).item() == pytest.approx(0, abs=1e-12)
    assert ritc_loss(logits, q, 0.01).item() == pytest.approx(
        -math.log(1.01), abs=1e-12
    )  # KL against 1 + eps


def test_one_person_alone_in_the_batch_asks_for_a_uniform_row() -> None:
    q = identity_targets(torch.tensor([7, 7, 7, 7]), torch.tensor([7, 7, 7, 7])).double()
    logits = torch.zeros(4, 4, dtype=torch.float64)
    assert nitc_loss(logits, q).item() == pytest.approx(math.log(4))
    assert ritc_loss(logits, q, 0.01).item() == pytest.approx(math.log(0.25 / 0.26))


def test_a_batch_of_one_row_is_finite() -> None:
    row = F.normalize(torch.ones(1, 8), dim=1)
    q = identity_targets(torch.tensor([1]), torch.tensor([1]))
    for loss in (nitc_loss(row @ row.T, q, 0.5), ritc_loss(row @ row.T, q), citc_loss(row, row, row, row)):
        assert math.isfinite(loss.item())
    assert ss_loss(row, row, row, row, 0).item() == pytest.approx(0)  # the partner is the only choice
