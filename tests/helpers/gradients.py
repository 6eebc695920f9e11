"""One training step on a whole batch or in parts, and how the gradients of two steps compare."""

import torch
from torch import Tensor, nn

from data.types import Batch
from misc.training.accumulation import accumulate
from model.tbps import TBPS, LossOutput

SOFT_LABEL, CPU = 0.3, torch.device("cpu")


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the gradient of each parameter that has one."""
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def whole(model: TBPS, batch: Batch) -> tuple[LossOutput, dict[str, Tensor]]:
    """The losses and gradients of one step on the whole batch."""
    output = model(batch, SOFT_LABEL)
    output.total.backward()
    return output, gradients(model)


def in_parts(
    model: TBPS, batch: Batch, num_parts: int, factor: float = 1.0
) -> tuple[LossOutput, dict[str, Tensor]]:
    """The same from `num_parts` parts, one at a time; `factor` scales the loss before each backward pass."""
    output = accumulate(model, batch, SOFT_LABEL, num_parts, lambda loss: factor * loss, CPU)
    return output, gradients(model)


def assert_same_gradients(
    found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 5e-5
) -> None:
    """Equal to `tolerance` times the largest entry of all. That is of the embeddings of the tokens, which are
    some 0.02: the layer norm behind them magnifies the rounding of fp32 fifty times, to 1.6e-5 on some CPUs.
    """
    assert found.keys() == expected.keys()
    largest = max(tensor.abs().max().item() for tensor in expected.values())
    for name, tensor in expected.items():
        difference = (found[name] - tensor).abs().max().item()
        assert difference <= tolerance * largest, name
