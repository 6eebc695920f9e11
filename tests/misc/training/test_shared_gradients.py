"""Gradients of parts are averaged over the processes once a step, and meanwhile the last part goes on."""

from typing import Any

import pytest
import torch
from torch import Tensor

from misc.process import distributed
from misc.training import accumulation
from misc.training.accumulation import SharedGradients, accumulate
from tests.helpers.gloo import run_in_processes
from tests.helpers.gradients import CPU, SOFT_LABEL, assert_same_gradients, gradients, in_parts
from tests.helpers.tiny import ALL_OFF, NUM_ROWS, TOGETHER, tiny_batch, tiny_model

ALL = " ".join((*TOGETHER, "mvs_image"))
CASES = [ALL, "nitc", "nitc ss mvs_image", "sdm mlm id", "id cid grab", "tal tse rewrites"]
PARTS = (1, 2, 4)
BUCKET = 4000  # bytes: a tiny model has a dozen buckets


def steps_of_this_rank(case: str, num_parts: int) -> dict[str, Any]:
    """Of two steps: the means of separate gradients, those that are shared, and what was exchanged when."""
    batch = tiny_batch(distributed.own_share(NUM_ROWS))
    overrides = ALL_OFF | {f"experiment.{name}": True for name in case.split()}
    overrides |= {"experiment.id_on": "all", "experiment.tse_batchnorm": "trained"}
    model, other = tiny_model(overrides), tiny_model(overrides)
    begun: list[tuple[int, bool]] = []  # the bytes of each sum, and whether a backward pass is running

    def start_sum(values: Tensor) -> Any:
        begun.append((values.nbytes, shared._is_last))
        return torch.distributed.all_reduce(values, async_op=True).wait

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accumulation, "_BUCKET", BUCKET)
        patch.setattr(distributed, "start_sum", start_sum)
        shared = SharedGradients(model)
        results: dict[str, Any] = {"shared": [], "separate": [], "begun": begun}
        for _ in range(2):
            accumulate(model, batch, SOFT_LABEL, num_parts, lambda loss: loss, CPU, shared)
            results["shared"].append(gradients(model))
            found = in_parts(other, batch, num_parts)[1]
            results["separate"].append({n: distributed.mean_over_ranks(g) for n, g in found.items()})
            torch.optim.SGD(model.parameters(), lr=0.1).step()
            model.zero_grad(set_to_none=False)
            other.zero_grad(set_to_none=False)
            other.load_state_dict(model.state_dict())
    return results


def all_steps_of_this_rank() -> dict[str, dict[str, dict[str, Any]]]:
    return {case: {str(parts): steps_of_this_rank(case, parts) for parts in PARTS} for case in CASES}


@pytest.fixture(scope="module")
def both_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, dict[str, Any]]]]:
    return run_in_processes(all_steps_of_this_rank, 2, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("num_parts", PARTS)
@pytest.mark.parametrize("case", CASES)
def test_they_are_exchanged_once_a_step_during_the_backward_passes_of_the_last_part(
    case: str, num_parts: int, both_ranks: list[dict[str, dict[str, dict[str, Any]]]]
) -> None:
    for result in (rank[case][str(num_parts)] for rank in both_ranks):
        for found, wanted in zip(result["shared"], result["separate"], strict=True):
            assert_same_gradients(found, wanted, tolerance=1e-6)
        size = sum(gradient.nbytes for gradient in result["shared"][0].values())
        assert sum(nbytes for nbytes, _ in result["begun"]) == 2 * size
        assert len(result["begun"]) >= 6
        assert {is_running for _, is_running in result["begun"]} == {num_parts > 1}


@pytest.mark.parametrize(("case", "order"), [("nitc", ("visual", "text")), ("mlm ss", ("text", "visual"))])
def test_the_tower_whose_gradients_are_complete_first_is_exchanged_first(
    case: str, order: tuple[str, str]
) -> None:
    """With MLM, captions go through their tower in the pass of the first view, before the other views."""
    model = tiny_model(ALL_OFF | {f"experiment.{name}": True for name in case.split()})
    found = [id(p) for p in accumulation._in_order_of_completion(model)]
    assert sorted(found) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    first, second = (getattr(model.clip, tower).parameters() for tower in order)
    assert max(found.index(id(p)) for p in first if p.requires_grad) < min(
        found.index(id(p)) for p in second if p.requires_grad
    )
