"""Two gloo processes against one process with the same samples."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from gloo import run_in_processes
from torch import Tensor

from data.loaders import Batch
from misc import distributed
from misc.metrics import query_metrics
from model.clip import build_clip
from model.tbps import TBPS

WEIGHTS = {"nitc": 1.0, "ritc": 0.7, "citc": 0.5, "ss": 0.4}
VIEWS = ("view1", "view2", "simclr1", "simclr2")
NUM_ROWS = 8


def tiny_model(weights: dict[str, float] = WEIGHTS, use_gather: bool = True) -> TBPS:
    torch.manual_seed(0)
    sizes = {"patch_size": 8, "image_width": 16, "image_layers": 1, "image_heads": 2}
    sizes |= {"text_width": 16, "text_layers": 1, "text_heads": 2, "embed_dim": 8}
    clip, _, _ = build_clip(None, image_size=(16, 8), text_length=12, **sizes)
    return TBPS(
        clip, weights, simclr_mlp=(None, 12, None), mvs_image="nitc" in weights, use_gather=use_gather
    )


def batch(rows: slice = slice(None), views: tuple[str, ...] = VIEWS) -> Batch:
    generator = torch.Generator().manual_seed(1)
    images = {view: torch.randn(NUM_ROWS, 3, 16, 8, generator=generator)[rows] for view in views}
    ids = torch.randint(1, 49000, (NUM_ROWS, 10), generator=generator)
    ids[:, 0], ids[:, -1] = 49406, 49407
    tokens = {"input_ids": ids[rows], "attention_mask": torch.ones_like(ids)[rows]}
    persons = torch.tensor([0, 1, 2, 1, 0, 3, 1, 4])  # the same person on both ranks, and twice on one
    return Batch(images, tokens, persons[rows], torch.arange(NUM_ROWS)[rows])


def losses_and_gradients(model: Any, part: Batch) -> dict[str, Any]:
    output = model(part, 0.3)
    output.total.backward()
    inner = getattr(model, "module", model)
    return {
        "total": output.total.detach(),
        "parts": {name: value.detach() for name, value in output.parts.items()},
        "gradients": {name: p.grad for name, p in inner.named_parameters() if p.grad is not None},
    }


def step_on_this_rank(weights: dict[str, float], use_gather: bool) -> dict[str, Any]:
    half = NUM_ROWS // 2
    rows = slice(distributed.rank() * half, (distributed.rank() + 1) * half)
    model = distributed.wrap(tiny_model(weights, use_gather), torch.device("cpu"))
    result = losses_and_gradients(model, batch(rows))
    result["mean"] = distributed.mean_over_ranks(result["total"])
    result["part_means"] = {
        name: distributed.mean_over_ranks(value) for name, value in result["parts"].items()
    }
    return result


@pytest.fixture(scope="module")
def both_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run_in_processes(step_on_this_rank, 2, tmp_path_factory.mktemp("ranks"), WEIGHTS, True)


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return losses_and_gradients(tiny_model(), batch())


def test_the_mean_loss_of_two_ranks_is_that_of_one_process(
    both_ranks: list[dict[str, Any]], alone: dict[str, Any]
) -> None:
    assert alone["parts"].keys() == WEIGHTS.keys()
    for rank in both_ranks:
        torch.testing.assert_close(rank["mean"], alone["total"], rtol=1e-5, atol=1e-6)
        for name, value in alone["parts"].items():
            torch.testing.assert_close(rank["part_means"][name], value, rtol=1e-5, atol=1e-6)


def test_the_gradients_of_two_ranks_are_those_of_one_process(
    both_ranks: list[dict[str, Any]], alone: dict[str, Any]
) -> None:
    trained = {name for name, p in tiny_model().named_parameters() if p.requires_grad}
    assert alone["gradients"].keys() == trained
    for rank in both_ranks:
        assert rank["gradients"].keys() == trained
        for name, gradient in alone["gradients"].items():
            torch.testing.assert_close(rank["gradients"][name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_without_the_gather_the_gradients_differ(tmp_path: Path, alone: dict[str, Any]) -> None:
    ranks = run_in_processes(step_on_this_rank, 2, tmp_path, WEIGHTS, False)
    gradient, other = alone["gradients"]["clip.visual.proj"], ranks[0]["gradients"]["clip.visual.proj"]
    assert (gradient - other).abs().max() > 1e-3 * gradient.abs().max()


@pytest.mark.parametrize("name", list(WEIGHTS))
def test_every_parameter_that_trains_has_a_gradient_from_a_loss_alone(name: str) -> None:
    model = tiny_model({name: 1.0})
    views = ("simclr1", "simclr2") if name == "ss" else ("view1", "view2") if name == "nitc" else ("view1",)
    output = model(batch(views=views), 0.3)
    output.total.backward()
    assert output.parts.keys() == {name}
    for parameter_name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, parameter_name


def test_each_tower_runs_once_whatever_the_number_of_views(monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = tiny_model(), []
    for tower in ("visual", "text"):
        module = getattr(model.clip, tower)
        module.register_forward_hook(
            lambda m, inputs, output, tower=tower: calls.append((tower, len(inputs[0])))
        )
    model(batch(), 0.3)
    assert sorted(calls) == [("text", NUM_ROWS), ("visual", 4 * NUM_ROWS)]


def test_the_scale_is_clamped_to_a_hundred() -> None:
    model = tiny_model({"nitc": 1.0})
    with torch.no_grad():
        model.clip.logit_scale.fill_(7.0)
    output = model(batch(views=("view1", "view2")), 0.0)
    assert output.report["logit_scale"].item() == pytest.approx(100, rel=1e-5)
    assert model.clip.logit_scale.exp().item() == pytest.approx(100, rel=1e-5)


def test_the_order_of_rows_in_a_batch_does_not_matter() -> None:
    whole, order = batch(), torch.tensor([3, 0, 7, 1, 6, 2, 5, 4])
    shuffled = replace(
        whole,
        images={view: pixels[order] for view, pixels in whole.images.items()},
        tokens={name: values[order] for name, values in whole.tokens.items()},
        person_ids=whole.person_ids[order],
    )
    model = tiny_model()
    torch.testing.assert_close(model(shuffled, 0.3).total, model(whole, 0.3).total)


def table(num_rows: int) -> Tensor:
    return torch.arange(3 * num_rows, dtype=torch.float32).view(num_rows, 3)


def gather_tables() -> dict[str, Any]:
    tables = {str(n): distributed.gather_interleaved(table(n)[distributed.rank() :: 2], n) for n in (1, 2, 7)}
    empty = query_metrics(torch.zeros(0, 3), torch.ones(2, 3), torch.zeros(0).long(), torch.arange(2))
    return {
        "tables": tables,
        "objects": distributed.gather_objects(distributed.rank() * 10),
        "broadcast": distributed.broadcast_object(f"rank {distributed.rank()}"),
        "reports": distributed.gather_objects(distributed.first_to_report()),
        "empty": empty,
    }


def test_tables_objects_and_decisions_are_the_same_on_all_ranks(tmp_path: Path) -> None:
    for result in run_in_processes(gather_tables, 2, tmp_path):
        for name, got in result["tables"].items():
            torch.testing.assert_close(got, table(int(name)))
        assert result["objects"] == [0, 10]
        assert result["broadcast"] == "rank 0"
        assert sum(result["reports"]) == 1
        assert result["empty"].shape == (0, 5)
