"""A batch of thousands: its losses and gradients beside those of whole matrices, and what they hold."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from data.types import Batch
from model import objective
from model.objective import Sizes
from model.objectives import build_objectives
from model.tbps import TBPS
from options import ExperimentOptions
from tests.helpers.gradients import assert_same_gradients

LOSSES = ("nitc", "ritc", "citc", "ss", "ss_text", "sdm", "tal", "sigmoid")
WITH_HEADS = ("id", "cid", "tse", "grab")

# Prints by how many kB the peak of memory grows over a forward and a backward pass.
SCRIPT = """
import resource, sys
import torch
from model import objective
from tests.model.losses.test_large_batches import losses_and_gradients
torch.set_num_threads(1)
number, width, name, way, out = int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]
limit = objective.MAX_ENTRIES if way == "blocks" else 1 << 40
objective.MAX_ENTRIES = 64 * 16
losses_and_gradients(64, width, name)  # loads what a first pass loads
objective.MAX_ENTRIES = limit
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
torch.save(losses_and_gradients(number, width, name), out)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


class Scale(nn.Module):
    """What the losses read of the towers."""

    def __init__(self) -> None:
        super().__init__()
        self.visual, self.text, self.max_logit_scale = nn.Module(), nn.Module(), math.log(100)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.logit_bias = nn.Parameter(torch.tensor(-10.0))


def losses_and_gradients(number: int, width: int, name: str) -> list[Tensor]:
    """The loss of random pairs, two of each person, and its gradients: of features, head, scale and bias."""
    torch.manual_seed(0)
    experiment = ExperimentOptions(
        mvs_image=False, simclr_mlp=(None, width, None), tse_width=width, grab_width=width
    )
    objectives = build_objectives([name], experiment, Sizes(width, 10, number // 2, 10))
    model = TBPS(Scale(), objectives, {name: 1.0})
    people = torch.randn(number // 2, width).repeat_interleave(2, dim=0)

    def rows(*more: int) -> Tensor:
        return (
            people.view(number, *[1 for _ in more], width) + 2 * torch.randn(number, *more, width)
        ).requires_grad_()

    features = {name: rows() for name in sorted(model.inputs)}
    features |= {name: rows(3) for each in model.embedders for name in each.names(each.head_name)}
    ids = torch.arange(number) // 2
    losses = model.losses(model.gather(features, Batch({}, {}, ids, ids), 0.3))
    losses[name].backward()
    gradients = (tensor.grad for tensor in (*features.values(), *model.parameters()))
    return [losses[name].detach(), *(gradient for gradient in gradients if gradient is not None)]


def assert_equal(found: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert (one - other).abs().max() <= 1e-6 * other.abs().max()


@pytest.mark.parametrize("name", LOSSES + WITH_HEADS)
def test_losses_and_gradients_are_those_of_the_whole_matrix(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = losses_and_gradients(300, 64, name)
    monkeypatch.setattr(objective, "MAX_ENTRIES", 300 * 7)  # the last block has 6 rows
    found = losses_and_gradients(300, 64, name)
    if name in LOSSES:
        assert_equal(found, expected)
    else:  # some biases of heads have no gradient but rounding
        assert_same_gradients(
            *({str(i): each for i, each in enumerate(of)} for of in (found, expected)), 1e-6
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nitc", "tal"])  # a minute or more each
def test_memory_is_a_fifth_of_that_of_the_whole_matrix(name: str, tmp_path: Path) -> None:
    found, grown = {}, {}
    for way in ("blocks", "whole"):
        command = [sys.executable, "-c", SCRIPT, "8192", "512", name, way, str(tmp_path / way)]
        grown[way] = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        found[way] = torch.load(tmp_path / way, weights_only=True)
    assert_equal(found["blocks"], found["whole"])
    assert grown["blocks"] <= 0.2 * grown["whole"]
