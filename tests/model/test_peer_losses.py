"""The peers' losses as pure functions: float64 loops, numbers worked out by hand, closed forms."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from model.losses import identity_targets, sdm_loss, sigmoid_loss, tal_loss
from tests.helpers import references

IDS = torch.tensor([3, 5, 3, 9, 9, 9, 1, 5])
TAU_LN2 = 0.015 * math.log(2)


@pytest.fixture
def cosines() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    images, texts = F.normalize(torch.randn(2, len(IDS), 6, generator=generator).double(), dim=2)
    return images @ texts.T


def matrix(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def positives_of(ids: Tensor) -> Tensor:
    return ids[:, None] == ids


def test_sdm_equals_the_loop_over_rows(cosines: Tensor) -> None:
    q = references.targets(IDS.tolist())
    reference = references.kl_to_targets(50 * cosines.numpy(), q, 1e-8)
    assert sdm_loss(cosines, torch.tensor(q)).item() == pytest.approx(reference, rel=1e-10)


def test_sdm_by_hand() -> None:
    """50 c = (ln 3, 0), so P = (3/4, 1/4); Q = (1, 0), eps = 1e-8:

    KL(P || Q+eps) = 3/4 ln(3/4) + 1/4 ln(0.25e8) = -0.215762 + 4.258597 = 4.042835
    """
    loss = sdm_loss(matrix([[math.log(3.0) / 50, 0.0]]), matrix([[1.0, 0.0]]))
    assert loss.item() == pytest.approx(4.042835, abs=1e-6)


def test_tal_equals_the_loop_over_rows(cosines: Tensor) -> None:
    hinges = references.tal_hinges(cosines.numpy(), IDS.tolist())
    assert min(hinges) < 0 < max(hinges), "rows on both sides of the hinge"
    reference = references.tal(cosines.numpy(), IDS.tolist())
    assert tal_loss(cosines, positives_of(IDS)).item() == pytest.approx(reference, rel=1e-10)


def test_tal_of_one_negative_is_the_triplet_loss() -> None:
    """tau log exp(c / tau) = c. Row 0: 0.1 - 0.5 + 0.45 = 0.05; row 1: 0.1 - 0.9 + 0.3 < 0."""
    c = matrix([[0.5, 0.45], [0.3, 0.9]]).requires_grad_()
    loss = tal_loss(c, torch.eye(2).bool())
    loss.backward()
    assert loss.item() == pytest.approx(0.05)
    torch.testing.assert_close(c.grad, matrix([[-1, 1], [0, 0]]))


def test_tal_by_hand_on_three_pairs() -> None:
    """Row 0: two equal negatives, 0.1 - 0.6 + 0.6 + tau ln 2 = 0.110397.

    Row 1: positives at 0.5 and 0.5 - tau ln 3 have the shares 3/4 and 1/4, together 0.5 - 1/4 * 0.016479 =
    0.495880; one negative at 0.42: 0.1 - 0.495880 + 0.42 = 0.024120.
    Row 2: at 0.1 - 0.9 + ... nothing is left to learn.
    """
    c = matrix([[0.6, 0.6, 0.6], [0.5, 0.5 - 0.015 * math.log(3), 0.42], [0.1, 0.2, 0.9]]).requires_grad_()
    loss = tal_loss(c, torch.tensor([[1, 0, 0], [1, 1, 0], [0, 0, 1]]).bool())
    loss.backward()
    assert loss.item() == pytest.approx(0.110397 + 0.024120, abs=1e-6)
    torch.testing.assert_close(c.grad, matrix([[-1, 0.5, 0.5], [-0.75, -0.25, 1], [0, 0, 0]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_row_without_negatives_adds_nothing_to_tal_and_has_no_gradient(dtype: torch.dtype) -> None:
    c = torch.tensor([[-1.0, 0.9, 1.0], [0.7, 0.5, 0.3]], dtype=dtype, requires_grad=True)
    loss = tal_loss(c, torch.tensor([[True, True, True], [False, True, False]]))
    loss.backward()
    hinge = 0.1 - 0.5 + 0.7  # the negative at 0.3 is far from the hardest one
    assert loss.item() == pytest.approx(hinge, abs=1e-6)
    assert not c.grad[0].any()
    assert torch.isfinite(c.grad).all()


def test_tal_at_the_ends_of_the_cosines_is_exact_in_fp32() -> None:
    c = torch.tensor([[-1.0, 1.0, 1.0], [1.0, -1.0, -1.0]])
    loss = tal_loss(c, torch.tensor([[1, 0, 0], [1, 0, 0]]).bool())
    assert loss.item() == pytest.approx(2.1 + TAU_LN2, rel=1e-5)


def test_sigmoid_equals_the_double_loop(cosines: Tensor) -> None:
    logits = 10 * cosines - 3
    reference = references.sigmoid(logits.numpy(), IDS.tolist())
    assert sigmoid_loss(logits, positives_of(IDS)).item() == pytest.approx(reference, rel=1e-10)


def test_sigmoid_by_hand() -> None:
    """Row 0: -ln sigmoid(2) - ln sigmoid(1) = 0.126928 + 0.313262; row 1: 2 ln 2 = 1.386294; their mean."""
    logits = matrix([[2.0, -1.0], [0.0, 0.0]])
    assert sigmoid_loss(logits, torch.eye(2).bool()).item() == pytest.approx(0.913242, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sigmoid_of_a_hopeless_pair_is_its_distance_and_not_infinite(dtype: torch.dtype) -> None:
    logits = torch.tensor([[-200.0, 200.0]], dtype=dtype)
    assert sigmoid_loss(logits, torch.tensor([[True, False]])).item() == pytest.approx(400)


def test_blocks_of_rows_have_the_loss_of_the_whole_batch(cosines: Tensor) -> None:
    """The mean of the blocks; for TAL, a sum, their sum."""
    q, positives = torch.tensor(references.targets(IDS.tolist())), positives_of(IDS)
    blocks = (slice(0, 4), slice(4, 8))
    sdm = torch.stack([sdm_loss(cosines[b], q[b]) for b in blocks]).mean()
    tal = torch.stack([tal_loss(cosines[b], positives[b]) for b in blocks]).sum()
    sigmoid = torch.stack([sigmoid_loss(cosines[b], positives[b]) for b in blocks]).mean()
    torch.testing.assert_close(sdm, sdm_loss(cosines, q))
    torch.testing.assert_close(tal, tal_loss(cosines, positives))
    torch.testing.assert_close(sigmoid, sigmoid_loss(cosines, positives))


def test_a_perfect_match_has_the_least_loss() -> None:
    cosines, alone = torch.eye(4).double(), torch.eye(4).bool()
    assert sdm_loss(cosines, cosines).item() == pytest.approx(0, abs=1e-7)
    assert tal_loss(cosines, alone).item() == 0
    assert sigmoid_loss(100 * cosines - 50, alone).item() == pytest.approx(0, abs=1e-12)


def test_one_person_alone_in_the_batch_has_no_negative() -> None:
    ids = torch.tensor([7, 7, 7, 7])
    q, positives, zeros = identity_targets(ids, ids).double(), positives_of(ids), torch.zeros(4, 4).double()
    assert sdm_loss(zeros, q).item() == pytest.approx(math.log(0.25 / (0.25 + 1e-8)))
    assert tal_loss(zeros, positives).item() == 0
    assert sigmoid_loss(zeros, positives).item() == pytest.approx(4 * math.log(2))


def test_a_batch_of_one_row_has_nothing_to_tell_apart() -> None:
    cosine, one = matrix([[0.3]]), torch.ones(1, 1)
    assert sdm_loss(cosine, one.double()).item() == pytest.approx(-1e-8, abs=1e-12)
    assert tal_loss(cosine, one.bool()).item() == 0
    assert sigmoid_loss(10 * cosine, one.bool()).item() == pytest.approx(math.log1p(math.exp(-3)))
