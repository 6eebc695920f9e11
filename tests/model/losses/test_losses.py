"""The losses as pure functions: numbers worked out by hand, and closed forms at the edges.

Loops over rows, finite differences and several processes are in test_loss_gradients.py.
"""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from model.losses import (
    citc_loss,
    id_loss,
    identity_targets,
    mlm_loss,
    nitc_loss,
    ritc_loss,
    sdm_loss,
    sigmoid_loss,
    ss_loss,
    tal_loss,
)
from tests.helpers import references

IDS = [3, 5, 3, 9, 9, 9, 1, 5]
SAME = [7, 7, 7, 7]


@pytest.fixture
def features() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images, texts = torch.randn(2, len(IDS), 16, generator=generator).double()
    return F.normalize(images, dim=1), F.normalize(texts, dim=1)


def targets_of(ids: list[int]) -> Tensor:
    return identity_targets(torch.tensor(ids), torch.tensor(ids)).double()


def matrix(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def test_targets_share_a_row_among_all_images_of_the_person() -> None:
    torch.testing.assert_close(targets_of(IDS), torch.tensor(references.targets(IDS)), rtol=1e-6, atol=0)


def test_no_gradient_flows_through_the_soft_label(features: tuple[Tensor, Tensor]) -> None:
    logits = (20 * features[0] @ features[1].T).requires_grad_()
    q = torch.tensor(references.targets(IDS))
    nitc_loss(logits, q, 0.5).backward()
    p = logits.detach().softmax(dim=1)
    target = 0.5 * q + 0.5 * p  # cross-entropy against a constant target has the gradient (P - T) / B
    torch.testing.assert_close(logits.grad, (p - target) / len(IDS))


def test_ritc_is_kl_of_p_from_q_and_not_the_other_way_round() -> None:
    """P = (3/4, 1/4), Q = (1, 0), eps = 1/100, by hand:

    KL(P || Q+eps) = 3/4 ln(0.75/1.01) + 1/4 ln(0.25/0.01) = -0.223224 + 0.804719 = 0.581495
    KL(Q || P)     = ln(1/0.75)                             =                       0.287682
    """
    logits, q = matrix([[math.log(3.0), 0.0]]), matrix([[1.0, 0.0]])
    assert ritc_loss(logits, q, 0.01).item() == pytest.approx(0.581495, abs=1e-6)
    assert nitc_loss(logits, q).item() == pytest.approx(0.287682, abs=2e-6)


def test_citc_by_hand() -> None:
    """Images (1, 0), (0, 1), captions (1, 0), (0.8, 0.6): the products off the diagonal are 0 and 0.8 within
    the modalities, and 0.8 and 0 across them, so each mean is 2 * 0.8^2 / 4 = 0.32.
    """
    images, texts = matrix([[1.0, 0.0], [0.0, 1.0]]), matrix([[1.0, 0.0], [0.8, 0.6]])
    assert citc_loss(images, texts, images, texts, 1.0, 0.0).item() == pytest.approx(0.32)
    assert citc_loss(images, texts, images, texts, 0.0, 1.0).item() == pytest.approx(0.32)
    assert citc_loss(images, texts, images, texts).item() == pytest.approx(0.16)


def test_mlm_by_hand() -> None:
    """-ln(3/4) - ln(1/2) = 0.287682 + 0.693147 = 0.980829, over the number of masked tokens."""
    logits, labels = matrix([[math.log(3.0), 0.0], [5.0, 5.0]]), torch.tensor([0, 1])
    assert mlm_loss(logits, labels, torch.tensor(2.0)).item() == pytest.approx(0.490415, abs=1e-6)
    assert mlm_loss(logits, labels, torch.tensor(3.5)).item() == pytest.approx(0.280237, abs=1e-6)


@pytest.mark.parametrize("num_masked", [0.0, 2.5])
def test_mlm_of_no_masked_token_is_zero_with_finite_gradients(num_masked: float) -> None:
    """None anywhere; and none on this rank while another has some."""
    words = torch.randn(3, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = mlm_loss(words[:0], torch.zeros(0, dtype=torch.int64), torch.tensor(num_masked))
    loss.backward()
    assert loss.item() == 0
    assert not words.grad.any()


def test_id_by_hand() -> None:
    """Person 0: -ln(3/4) = 0.287682 from the image and -ln(1/2) = 0.693147 from the caption; person 1:
    -ln(1/4) = 1.386294 and -ln(1/2). The mean of the four is 0.765068.
    """
    image_logits, text_logits = matrix([[math.log(3.0), 0.0], [math.log(3.0), 0.0]]), matrix([[2.0, 2.0]] * 2)
    loss = id_loss(image_logits, text_logits, torch.tensor([0, 1]))
    assert loss.item() == pytest.approx(0.765068, abs=1e-6)


def test_a_perfect_match_has_the_least_loss() -> None:
    logits, q, people = 100 * torch.eye(4).double(), torch.eye(4).double(), torch.arange(4)
    assert nitc_loss(logits, q).item() == pytest.approx(0, abs=1e-12)
    assert ritc_loss(logits, q, 0.01).item() == pytest.approx(-math.log(1.01))  # KL against 1 + eps
    rows = torch.eye(4).double()
    assert citc_loss(rows, rows, rows, rows).item() == 0
    # The partner at cosine 1, the six others at 0.
    assert ss_loss(rows, rows, rows, rows, 0, 0.1).item() == pytest.approx(math.log(1 + 6 * math.exp(-10)))
    assert mlm_loss(logits, people, torch.tensor(4.0)).item() == pytest.approx(0, abs=1e-12)
    assert id_loss(logits, logits, people).item() == pytest.approx(0, abs=1e-12)
    assert sdm_loss(q, q).item() == pytest.approx(0, abs=1e-7)
    assert tal_loss(q, q.bool()).sum().item() == 0
    assert sigmoid_loss(100 * q - 50, q.bool()).item() == pytest.approx(0, abs=1e-12)


def test_one_person_alone_in_the_batch_asks_for_a_uniform_row() -> None:
    q, zeros = targets_of(SAME), torch.zeros(4, 4, dtype=torch.float64)
    assert nitc_loss(zeros, q).item() == pytest.approx(math.log(4))
    assert ritc_loss(zeros, q, 0.01).item() == pytest.approx(math.log(0.25 / 0.26))
    assert id_loss(zeros, zeros, torch.zeros(4).long()).item() == pytest.approx(math.log(4))
    # No row can do better than the uniform one.
    generator = torch.Generator().manual_seed(0)
    uneven = torch.randn(4, 4, generator=generator).double()
    assert nitc_loss(uneven, q) > nitc_loss(zeros, q)
    assert ritc_loss(uneven, q) > ritc_loss(zeros, q)
    assert sdm_loss(zeros, q).item() == pytest.approx(math.log(0.25 / (0.25 + 1e-8)))
    assert tal_loss(zeros, q.bool()).sum().item() == 0  # no negatives
    assert sigmoid_loss(zeros, q.bool()).item() == pytest.approx(4 * math.log(2))


def test_a_batch_of_one_row_has_nothing_to_tell_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    image, text = F.normalize(torch.randn(2, 1, 8, generator=generator).double(), dim=2)
    q, cosine = targets_of([1]), matrix([[0.3]])
    assert nitc_loss(image @ text.T, q, 0.5).item() == 0
    assert ritc_loss(image @ text.T, q, 0.01).item() == pytest.approx(-math.log(1.01))
    assert citc_loss(image, text, image, text).item() == pytest.approx(0)
    assert ss_loss(image, text, image, text, 0).item() == pytest.approx(0)  # the partner is the only choice
    assert sdm_loss(cosine, q).item() == pytest.approx(-1e-8, abs=1e-12)
    assert tal_loss(cosine, q.bool()).sum().item() == 0
    assert sigmoid_loss(10 * cosine, q.bool()).item() == pytest.approx(math.log1p(math.exp(-3)))


TAU_LN2 = 0.015 * math.log(2)


def test_sdm_by_hand() -> None:
    """50 c = (ln 3, 0), so P = (3/4, 1/4); Q = (1, 0), eps = 1e-8:

    KL(P || Q+eps) = 3/4 ln(3/4) + 1/4 ln(0.25e8) = -0.215762 + 4.258597 = 4.042835
    """
    loss = sdm_loss(matrix([[math.log(3.0) / 50, 0.0]]), matrix([[1.0, 0.0]]))
    assert loss.item() == pytest.approx(4.042835, abs=1e-6)


def test_tal_of_one_negative_is_the_triplet_loss() -> None:
    """tau log exp(c / tau) = c. Row 0: 0.1 - 0.5 + 0.45 = 0.05; row 1: 0.1 - 0.9 + 0.3 < 0."""
    c = matrix([[0.5, 0.45], [0.3, 0.9]]).requires_grad_()
    loss = tal_loss(c, torch.eye(2).bool()).sum()
    loss.backward()
    assert loss.item() == pytest.approx(0.05)
    torch.testing.assert_close(c.grad, matrix([[-1, 1], [0, 0]]))


def test_tal_by_hand_on_three_pairs() -> None:
    """Row 0: two equal negatives, 0.1 - 0.6 + 0.6 + tau ln 2 = 0.110397.

    Row 1: positives at 0.5 and 0.5 - tau ln 3 have the shares 3/4 and 1/4, together 0.5 - 1/4 * 0.016479 =
    0.495880; one negative at 0.42: 0.1 - 0.495880 + 0.42 = 0.024120.
    Row 2: at 0.1 - 0.9 + ... < 0: no loss.
    """
    c = matrix([[0.6, 0.6, 0.6], [0.5, 0.5 - 0.015 * math.log(3), 0.42], [0.1, 0.2, 0.9]]).requires_grad_()
    loss = tal_loss(c, torch.tensor([[1, 0, 0], [1, 1, 0], [0, 0, 1]]).bool()).sum()
    loss.backward()
    assert loss.item() == pytest.approx(0.110397 + 0.024120, abs=1e-6)
    torch.testing.assert_close(c.grad, matrix([[-1, 0.5, 0.5], [-0.75, -0.25, 1], [0, 0, 0]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_row_without_negatives_adds_nothing_to_tal_and_has_no_gradient(dtype: torch.dtype) -> None:
    c = torch.tensor([[-1.0, 0.9, 1.0], [0.7, 0.5, 0.3]], dtype=dtype, requires_grad=True)
    loss = tal_loss(c, torch.tensor([[True, True, True], [False, True, False]])).sum()
    loss.backward()
    hinge = 0.1 - 0.5 + 0.7  # the negative at 0.3 is far from the hardest one
    assert loss.item() == pytest.approx(hinge, abs=1e-6)
    assert not c.grad[0].any()
    assert torch.isfinite(c.grad).all()


def test_tal_at_the_ends_of_the_cosines_is_exact_in_fp32() -> None:
    c = torch.tensor([[-1.0, 1.0, 1.0], [1.0, -1.0, -1.0]])
    loss = tal_loss(c, torch.tensor([[1, 0, 0], [1, 0, 0]]).bool()).sum()
    assert loss.item() == pytest.approx(2.1 + TAU_LN2, rel=1e-5)


def test_sigmoid_by_hand() -> None:
    """Row 0: -ln sigmoid(2) - ln sigmoid(1) = 0.126928 + 0.313262; row 1: 2 ln 2 = 1.386294; their mean."""
    logits = matrix([[2.0, -1.0], [0.0, 0.0]])
    assert sigmoid_loss(logits, torch.eye(2).bool()).item() == pytest.approx(0.913242, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sigmoid_of_a_hopeless_pair_is_its_distance_and_not_infinite(dtype: torch.dtype) -> None:
    logits = torch.tensor([[-200.0, 200.0]], dtype=dtype)
    assert sigmoid_loss(logits, torch.tensor([[True, False]])).item() == pytest.approx(400)
