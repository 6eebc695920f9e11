"""Two gloo processes against one process with the same samples."""

import dataclasses
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from misc.metrics import score_metrics
from misc.process import distributed
from misc.training.guards import NonFiniteGuard
from options import LOSSES, UserError
from tests.helpers.gloo import run_in_processes
from tests.helpers.tiny import NUM_ROWS, TOGETHER, tiny_batch, tiny_model

ODD = NUM_ROWS - 1
EVERYTHING = {f"experiment.{name}": True for name in (*TOGETHER, "mvs_image", "mvs_text")}
CASES = {name: {f"experiment.{other}": other == name for other in LOSSES} for name in LOSSES}
CASES["tse trained"] = CASES["tse"] | {"experiment.tse_batchnorm": "trained"}
CASES["grab"] |= {"experiment.grab_width": 1024}  # so that no gradient is large beside the bound
CASES["mlm irra"] = CASES["mlm"] | {"experiment.mlm_variant": "irra"}
CASES["everything"] = EVERYTHING
Result = dict[str, Any]


def losses_and_gradients(model: Any, rows: slice, num_samples: int | None = None) -> Result:
    """Of one step; losses are means over the ranks."""
    output = model(dataclasses.replace(tiny_batch(rows), num_samples=num_samples), 0.3)
    output.total.backward()
    inner = getattr(model, "module", model)
    return {
        "total": distributed.mean_over_ranks(output.total.detach()),
        "parts": {name: distributed.mean_over_ranks(part.detach()) for name, part in output.parts.items()},
        "report": output.report,
        "gradients": {name: p.grad for name, p in inner.named_parameters() if p.grad is not None},
    }


def steps_on_this_rank(num_rows: int = NUM_ROWS) -> dict[str, Result]:
    """Of an odd number of rows the second rank has one more."""
    half = num_rows // 2
    rows = slice(half, num_rows) if distributed.rank() else slice(0, half)
    number = num_rows if num_rows % 2 else None
    results = {}
    for case, settings in CASES.items():
        model = distributed.wrap(tiny_model(settings), torch.device("cpu"))
        losses_and_gradients(model, rows, number)
        model.zero_grad()
        # DDP speaks of unused parameters in a second step.
        results[case] = losses_and_gradients(model, rows, number)
    return results


def table(num_rows: int) -> Tensor:
    return torch.arange(3 * num_rows, dtype=torch.float32).view(num_rows, 3)


def gather_tables() -> dict[str, Any]:
    tables = {str(n): distributed.gather_interleaved(table(n)[distributed.rank() :: 2], n) for n in (1, 2, 7)}
    empty = score_metrics(lambda rows: torch.zeros(0, 2), torch.zeros(0).long(), torch.arange(2))
    return {
        "tables": tables,
        "objects": distributed.gather_objects(distributed.rank() * 10),
        "broadcast": distributed.broadcast_object(f"rank {distributed.rank()}"),
        "reports": distributed.gather_objects(distributed.first_to_report()),
        "empty": empty,
    }


def gathered_with_gradient() -> dict[str, Any]:
    """Rows of 5, of which this rank has 2 or 3, and the gradient of a sum of them that the ranks share."""
    weights, own = torch.arange(1.0, 16.0).view(5, 3), distributed.own_share(5)
    rows = table(5)[own].requires_grad_()
    found = distributed.gather_with_gradient(rows, 5)
    ((1 + distributed.rank()) * weights * found).sum().backward()
    return {
        "rows": found.detach(),
        "gradient": rows.grad,
        "numbers": distributed.gather_with_gradient(torch.arange(5)[own], 5),
        "even": distributed.gather_with_gradient(table(4)[distributed.own_share(4)], 4),
    }


def scattered_sums() -> Result:
    """As gloo comes by them, and by the one collective that NCCL has; None where this gloo has none."""
    values = (1 + distributed.rank()) * torch.arange(12.0).view(4, 3)
    sums = {"gloo": distributed._own_rows_of_sum(values), "nccl": None}
    try:
        dist.reduce_scatter_tensor(torch.empty(2, 3), values)
    except RuntimeError:  # gloo of older torch
        return sums
    with mock.patch.object(dist, "get_backend", return_value="nccl"):
        sums["nccl"] = distributed._own_rows_of_sum(values)
    return sums


def refused_step() -> dict[str, Any]:
    """What a guard says of a step that went wrong on rank 1, where no rank but 0 knows the checkpoints."""
    number = distributed.rank()
    loss = torch.tensor(float("nan") if number == 1 else 1.0)
    guard = NonFiniteGuard(
        0, lambda rows: [f"{number}-{row}.jpg" for row in rows], lambda: f"saved by rank {number}"
    )
    output = SimpleNamespace(parts={"ritc": loss}, total=loss)
    guard.watch("step 1", torch.tensor(True), output, torch.tensor(float("nan")), torch.arange(2))
    with mock.patch("misc.training.guards.logger.error") as said, pytest.raises(UserError) as refused:
        guard.check()
    return {"error": str(refused.value), "lists": [call.args[1] for call in said.call_args_list]}


def everything_on_this_rank() -> dict[str, Any]:
    steps = {str(num_rows): steps_on_this_rank(num_rows) for num_rows in (NUM_ROWS, ODD)}
    return {"steps": steps, "gathered": gather_tables(), "sums": scattered_sums()} | {
        "refused": refused_step(),
        "uneven": gathered_with_gradient(),
    }


@pytest.fixture(scope="module")
def both_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run_in_processes(everything_on_this_rank, 2, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("num_rows", [NUM_ROWS, ODD])
@pytest.mark.parametrize("case", CASES)
def test_two_ranks_have_the_losses_and_gradients_of_one_process(
    case: str, num_rows: int, both_ranks: list[dict[str, Any]]
) -> None:
    model = tiny_model(CASES[case])
    alone = losses_and_gradients(model, slice(num_rows))
    assert alone["gradients"].keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    for result in (rank["steps"][str(num_rows)][case] for rank in both_ranks):
        torch.testing.assert_close(result["total"], alone["total"], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(result["parts"], alone["parts"], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(result["report"], alone["report"])
        assert result["gradients"].keys() == alone["gradients"].keys()
        for name, gradient in alone["gradients"].items():
            atol = 1e-4 * gradient.abs().max().item() + 1e-7
            torch.testing.assert_close(result["gradients"][name], gradient, rtol=0, atol=atol, msg=name)


@pytest.mark.parametrize("backend", ["gloo", "nccl"])
def test_a_rank_gets_its_rows_of_the_sum(backend: str, both_ranks: list[dict[str, Any]]) -> None:
    found = [rank["sums"][backend] for rank in both_ranks]
    if found[0] is None:
        pytest.skip("gloo of this torch has no reduce-scatter to try it with")
    torch.testing.assert_close(torch.cat(found), 3 * torch.arange(12.0).view(4, 3))


def test_parts_of_different_sizes_are_gathered_with_gradient(both_ranks: list[dict[str, Any]]) -> None:
    found = [rank["uneven"] for rank in both_ranks]
    for result in found:
        torch.testing.assert_close(result["rows"], table(5))
        torch.testing.assert_close(result["even"], table(4))
        assert result["numbers"].tolist() == [0, 1, 2, 3, 4]
    assert [len(result["gradient"]) for result in found] == [2, 3]
    gradients = torch.cat([result["gradient"] for result in found])
    torch.testing.assert_close(gradients, (1 + 2) * torch.arange(1.0, 16.0).view(5, 3))


def test_tables_objects_and_decisions_are_the_same_on_all_ranks(both_ranks: list[dict[str, Any]]) -> None:
    for result in (rank["gathered"] for rank in both_ranks):
        for name, got in result["tables"].items():
            torch.testing.assert_close(got, table(int(name)))
        assert result["objects"] == [0, 10]
        assert result["broadcast"] == "rank 0"
        assert sum(result["reports"]) == 1
        assert result["empty"].shape == (0, 5)


def test_all_ranks_refuse_a_step_in_the_same_words_and_rank_0_lists_its_images(
    both_ranks: list[dict[str, Any]],
) -> None:
    first, second = (rank["refused"] for rank in both_ranks)
    assert first["error"] == second["error"]
    assert "saved by rank 0" in first["error"]
    assert (first["lists"], second["lists"]) == (["1-0.jpg, 1-1.jpg"], [])
