"""The paper's losses as pure functions: float64 loops, numbers worked out by hand, closed forms.

Gradients, and what TBPS makes of the functions, are in test_loss_gradients.py.
"""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from model.losses import citc_loss, id_loss, identity_targets, mlm_loss, nitc_loss, ritc_loss, ss_loss
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


@pytest.mark.parametrize("soft_label", [0.0, 0.3, 0.5])
def test_nitc_equals_the_loop_over_rows(features: tuple[Tensor, Tensor], soft_label: float) -> None:
    logits, q = 20 * features[0] @ features[1].T, references.targets(IDS)
    loss = nitc_loss(logits, torch.tensor(q), soft_label)
    assert loss.item() == pytest.approx(references.nitc(logits.numpy(), q, soft_label), rel=1e-10)


def test_no_gradient_flows_through_the_soft_label(features: tuple[Tensor, Tensor]) -> None:
    logits = (20 * features[0] @ features[1].T).requires_grad_()
    q = torch.tensor(references.targets(IDS))
    nitc_loss(logits, q, 0.5).backward()
    p = logits.detach().softmax(dim=1)
    target = 0.5 * q + 0.5 * p  # cross-entropy against a constant target has the gradient (P - T) / B
    torch.testing.assert_close(logits.grad, (p - target) / len(IDS))


def test_ritc_equals_the_loop_over_rows(features: tuple[Tensor, Tensor]) -> None:
    logits, q = 20 * features[0] @ features[1].T, references.targets(IDS)
    loss = ritc_loss(logits, torch.tensor(q), 0.01)
    assert loss.item() == pytest.approx(references.kl_to_targets(logits.numpy(), q, 0.01), rel=1e-10)


def test_ritc_is_kl_of_p_from_q_and_not_the_other_way_round() -> None:
    """P = (3/4, 1/4), Q = (1, 0), eps = 1/100, by hand:

    KL(P || Q+eps) = 3/4 ln(0.75/1.01) + 1/4 ln(0.25/0.01) = -0.223224 + 0.804719 = 0.581495
    KL(Q || P)     = ln(1/0.75)                             =                       0.287682
    """
    logits, q = matrix([[math.log(3.0), 0.0]]), matrix([[1.0, 0.0]])
    assert ritc_loss(logits, q, 0.01).item() == pytest.approx(0.581495, abs=1e-6)
    assert nitc_loss(logits, q).item() == pytest.approx(0.287682, abs=2e-6)


def test_citc_equals_the_double_loop(features: tuple[Tensor, Tensor]) -> None:
    images, texts = features
    loss = citc_loss(images, texts, images, texts, 0.25, 0.5)
    assert loss.item() == pytest.approx(references.citc(images.numpy(), texts.numpy(), 0.25, 0.5), rel=1e-10)


def test_citc_by_hand() -> None:
    """Images (1, 0), (0, 1), captions (1, 0), (0.8, 0.6): the products off the diagonal are 0 and 0.8 within
    the modalities, and 0.8 and 0 across them, so each mean is 2 * 0.8^2 / 4 = 0.32.
    """
    images, texts = matrix([[1.0, 0.0], [0.0, 1.0]]), matrix([[1.0, 0.0], [0.8, 0.6]])
    assert citc_loss(images, texts, images, texts, 1.0, 0.0).item() == pytest.approx(0.32)
    assert citc_loss(images, texts, images, texts, 0.0, 1.0).item() == pytest.approx(0.32)
    assert citc_loss(images, texts, images, texts).item() == pytest.approx(0.16)


def test_ss_equals_the_loop_over_all_views(features: tuple[Tensor, Tensor]) -> None:
    first, second = features
    loss = ss_loss(first, second, first, second, offset=0, temperature=0.1)
    assert loss.item() == pytest.approx(references.ss(first.numpy(), second.numpy(), 0.1), rel=1e-10)


def test_mlm_by_hand() -> None:
    """-ln(3/4) - ln(1/2) = 0.287682 + 0.693147 = 0.980829, over the number of masked tokens it is told."""
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


def test_the_mean_over_blocks_of_rows_is_the_loss_of_the_whole_batch(features: tuple[Tensor, Tensor]) -> None:
    images, texts = features
    targets = torch.tensor(references.targets(IDS))
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


def test_a_batch_of_one_row_has_nothing_to_tell_apart() -> None:
    image, text = F.normalize(
        torch.randn(2, 1, 8, generator=torch.Generator().manual_seed(0)).double(), dim=2
    )
    q = targets_of([1])
    assert nitc_loss(image @ text.T, q, 0.5).item() == 0
    assert ritc_loss(image @ text.T, q, 0.01).item() == pytest.approx(-math.log(1.01))
    assert citc_loss(image, text, image, text).item() == pytest.approx(0)
    assert ss_loss(image, text, image, text, 0).item() == pytest.approx(0)  # the partner is the only choice
