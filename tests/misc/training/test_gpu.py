"""What only a GPU can show: precisions, fused AdamW, accumulation, compiled towers, pinned batches, NCCL."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from data.annotations import load_data
from data.loaders import build_loaders
from main import main
from misc.process import distributed
from misc.process.device import start_device
from misc.training.accumulation import accumulate
from misc.training.optimizer import build_optimizer
from model import build_model
from options import LOSSES, ScheduleOptions, load_options
from tests.helpers.gradients import gradients
from tests.helpers.tiny import ALL_OFF, NUM_ROWS, tiny_batch, tiny_model
from tests.helpers.tiny_config import write_tiny
from tests.helpers.whole_runs import content, losses

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
    pytest.mark.filterwarnings("ignore:.torch.cpu.amp.autocast:FutureWarning"),  # torch 2.4, its checkpoint
]
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
SMOOTH = ("nitc", "ritc", "citc", "ss", "mvs_image")  # no loss of a temperature of a fiftieth among them


def step(
    losses: tuple[str, ...], device: torch.device, dtype: torch.dtype = torch.float32, **how: Any
) -> dict[str, Tensor]:
    """The gradients of `losses` on the tiny batch, brought to the CPU; `how`: num_parts, compile, dropout."""
    settings = ALL_OFF | {f"experiment.{name}": True for name in losses}
    settings |= {"model.compile": how.get("compile", False), "experiment.dropout": how.get("dropout", 0)}
    model, batch = tiny_model(settings).to(device), tiny_batch()
    torch.manual_seed(how.get("seed", 1))
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        if "num_parts" in how:
            accumulate(model, batch, 0.3, how["num_parts"], lambda loss: loss, device)
        else:
            output = model(batch.to(device), 0.3)
    if "num_parts" not in how:
        output.total.backward()
    return {name: gradient.cpu() for name, gradient in gradients(model).items()}


def assert_near(found: dict[str, Tensor], wanted: dict[str, Tensor], tolerance: float) -> None:
    """Each gradient by itself; a hair of the largest for those that are zero but for rounding."""
    assert found.keys() == wanted.keys()
    largest = max(gradient.norm() for gradient in wanted.values())
    for name, gradient in wanted.items():
        assert (found[name] - gradient).norm() <= tolerance * (gradient.norm() + 0.01 * largest), name


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_in_fp32_are_those_of_the_cpu(loss: str) -> None:
    assert start_device("cuda", "fp32")[1] == torch.float32
    assert_near(step((loss,), GPU), step((loss,), CPU), 1e-3)


@pytest.mark.parametrize("how", [{}, {"num_parts": 3}, {"compile": True}], ids=["whole", "parts", "compiled"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradients_in_half_precision_are_near(dtype: torch.dtype, how: dict[str, Any]) -> None:
    assert_near(step(SMOOTH, GPU, dtype, **how), step(SMOOTH, CPU), 0.15)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_batch_in_parts_has_the_gradients_of_the_whole(loss: str) -> None:
    start_device("cuda", "fp32")
    assert_near(step((loss,), GPU, num_parts=3), step((loss,), GPU), 1e-4)


def test_dropout_in_parts_is_a_matter_of_the_seed_alone() -> None:
    first, again, other = (step(("nitc",), GPU, num_parts=3, dropout=0.3, seed=seed) for seed in (5, 5, 6))
    assert_near(again, first, 1e-5)
    with pytest.raises(AssertionError):
        assert_near(other, first, 1e-2)


def test_compiled_towers_have_the_gradients_of_plain_ones() -> None:
    start_device("cuda", "fp32")
    assert_near(step(SMOOTH, GPU, compile=True), step(SMOOTH, GPU), 1e-3)


@pytest.mark.parametrize("kind", ["adamw", "adam"])
def test_the_fused_optimiser_passes_over_a_step_that_is_not_finite(kind: str) -> None:
    model = tiny_model({}).to(GPU)
    optimizer = build_optimizer(model, ScheduleOptions(optimizer=kind))
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    before = [p.detach().clone() for p in model.parameters()]
    for was_bad in (1.0, 0.0):
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
        optimizer.found_inf = torch.tensor(was_bad, device=GPU)
        optimizer.step()
        changed = [not torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True)]
        assert any(changed) == (was_bad == 0)


@pytest.mark.parametrize("changes", [(), ("schedule.accumulate=4",), ("model.grad_checkpointing=true",)])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_run_learns_and_saves(
    precision: str, changes: tuple[str, ...], people: Path, tmp_path: Path
) -> None:
    config = write_tiny(tmp_path / "tiny.yaml", people, tmp_path / "run")
    changes += ("misc.device=cuda", f"misc.precision={precision}", "schedule.epoch=12", "log.print_period=1")
    assert main(["--config", str(config), *changes]) == 0
    found = losses(tmp_path / "run")
    assert all(loss > 0 for loss in found[-4:]), "steps were skipped to the end"
    assert sum(found[-4:]) / 4 < 0.98 * max(found)
    saved = content(tmp_path / "run" / "checkpoint_last.pth")
    assert bool(saved["scaler"]) == (precision == "fp16")


def test_batches_wait_in_page_locked_memory(people: Path, tmp_path: Path) -> None:
    config = write_tiny(tmp_path / "tiny.yaml", people, tmp_path / "run")
    options = load_options(config, ["misc.device=cuda"])
    splits = load_data(options)
    model, tokenizer, processor = build_model(options, splits.num_identities)
    loaders = build_loaders(options, splits, tokenizer, processor, model.inputs)
    loaders.train_sampler.set_epoch(0)
    batch = next(iter(loaders.train))
    seen: list[bool] = []
    batch.map(lambda tensor: seen.append(tensor.is_pinned()) or tensor)
    assert len(seen) >= 5, "a view, two of tokens, persons and indices"
    assert all(seen)


@pytest.fixture
def _alone_on_nccl() -> Iterator[None]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{sock.getsockname()[1]}"
    dist.init_process_group("nccl", init_method=address, world_size=1, rank=0)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("_alone_on_nccl")
def test_collectives_of_a_group_of_one_on_nccl() -> None:
    rows = torch.arange(12.0, device=GPU).view(4, 3).requires_grad_()
    every = distributed.gather_with_gradient(rows)
    assert torch.equal(every, rows)
    every.square().sum().backward()
    assert torch.equal(rows.grad, 2 * rows)
    vote = distributed.Vote()
    vote.cast(2)
    assert vote.result() == 2
    model = tiny_model({}).to(GPU)
    distributed.wrap(model, GPU)(tiny_batch().to(GPU), 0.3).total.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_processes_on_nccl_have_the_first_loss_of_one(people: Path, tmp_path: Path) -> None:
    found = []
    for world in (1, 2):
        out = tmp_path / f"run-{world}"
        config = write_tiny(tmp_path / "tiny.yaml", people, out)
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={world}"]
        arguments = ["main.py", "--config", str(config), "misc.device=cuda", "misc.precision=fp32"]
        arguments += [f"data.batch_size={2 * NUM_ROWS // world}", "experiment.dropout=0", "schedule.epoch=1"]
        run = subprocess.run([sys.executable, *launcher, *arguments], capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        found.append(losses(out)[0])
    assert found[1] == pytest.approx(found[0], rel=1e-3)
