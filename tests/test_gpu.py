"""What only a GPU can show: precisions, fused AdamW, accumulation, compiled towers, pinned batches, NCCL."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_accumulate import assert_same, gradients
from tiny import NUM_ROWS, tiny_batch, tiny_model
from tiny_config import write_tiny
from torch import Tensor
from whole_runs import content, read_metrics

from data.annotations import load_data
from data.loaders import build_loaders
from main import main
from misc.optim import build_optimizer
from misc.runtime import pick_precision
from model import build_model
from model.tbps import TBPS, LossOutput
from options import load_options

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
GPU = torch.device("cuda")
EVERY_LOSS = {f"experiment.{name}": True for name in ("mlm", "id", "sdm", "tal", "mvs_text", "ss_text")}


def step(model: TBPS, device: torch.device, num_parts: int = 1) -> tuple[LossOutput, dict[str, Tensor]]:
    """Losses and gradients of the tiny batch on a device, brought to the CPU."""
    model, batch = model.to(device), tiny_batch()
    if num_parts == 1:
        output = model(batch.to(device), 0.3)
        output.total.backward()
    else:
        output = model.accumulate(batch, 0.3, num_parts, lambda loss: loss, device)
    return output, {name: gradient.cpu() for name, gradient in gradients(model).items()}


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("tf32", 2e-2)])
def test_losses_and_gradients_are_those_of_the_cpu(precision: str, tolerance: float) -> None:
    output, wanted = step(tiny_model(EVERY_LOSS), torch.device("cpu"))
    assert pick_precision(precision, GPU) == torch.float32
    again, found = step(tiny_model(EVERY_LOSS), GPU)
    assert again.total.item() == pytest.approx(output.total.item(), rel=tolerance)
    assert_same(found, wanted, tolerance)


def test_a_batch_in_parts_has_the_gradients_of_the_whole() -> None:
    pick_precision("fp32", GPU)
    _, wanted = step(tiny_model(EVERY_LOSS), GPU)
    _, found = step(tiny_model(EVERY_LOSS), GPU, num_parts=3)
    assert_same(found, wanted)


def test_dropout_in_parts_is_a_matter_of_the_seed_alone() -> None:
    results = []
    for seed in (5, 5, 6):
        model = tiny_model({"experiment.dropout": 0.3}).to(GPU)
        torch.cuda.manual_seed(seed)
        results.append(step(model, GPU, num_parts=3)[1])
    assert_same(results[1], results[0])
    with pytest.raises(AssertionError):
        assert_same(results[2], results[0])


def test_compiled_towers_have_the_gradients_of_plain_ones() -> None:
    pick_precision("fp32", GPU)
    _, wanted = step(tiny_model({}), GPU)
    _, found = step(tiny_model({"model.compile": True}), GPU)
    assert_same(found, wanted, 1e-4)


def test_the_fused_optimiser_passes_over_a_step_that_is_not_finite() -> None:
    model = tiny_model({}).to(GPU)
    optimizer = build_optimizer(model, 0.02)
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
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
def test_a_run_trains_and_saves(
    precision: str, changes: tuple[str, ...], people: Path, tmp_path: Path
) -> None:
    config = write_tiny(tmp_path / "tiny.yaml", people, tmp_path / "run")
    assert main(["--config", str(config), "misc.device=cuda", f"misc.precision={precision}", *changes]) == 0
    losses = [line["loss"] for line in read_metrics(tmp_path / "run") if line["kind"] == "train"]
    assert all(map(math.isfinite, losses))
    saved = content(tmp_path / "run" / "checkpoint_last.pth")
    assert bool(saved["scaler"]) == (precision == "fp16")
    figures = json.loads((tmp_path / "run" / "results.json").read_text())
    assert 0 <= figures["average"]["t2i"]["R1"] <= 100


def test_batches_wait_in_page_locked_memory(people: Path, tmp_path: Path) -> None:
    config = write_tiny(tmp_path / "tiny.yaml", people, tmp_path / "run")
    options = load_options(config, ["misc.device=cuda"])
    splits = load_data(options)
    _, tokenizer, processor = build_model(options, splits.num_identities)
    loaders = build_loaders(options, splits, tokenizer, processor)
    loaders.train_sampler.set_epoch(0)
    batch = next(iter(loaders.train))
    assert batch.person_ids.is_pinned()
    assert batch.tokens["input_ids"].is_pinned()


@pytest.mark.parametrize("num_gpus", [1, 2])
def test_processes_on_nccl_train_one_model(num_gpus: int, people: Path, tmp_path: Path) -> None:
    """A group of one gathers and scatters, too; two have the first loss of one with the same global batch."""
    if torch.cuda.device_count() < num_gpus:
        pytest.skip(f"needs {num_gpus} GPUs")
    losses = []
    for world, rows in ((1, 2 * NUM_ROWS), (num_gpus, 2 * NUM_ROWS // num_gpus)):
        out = tmp_path / f"run-{len(losses)}"
        config = write_tiny(tmp_path / "tiny.yaml", people, out)
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={world}"]
        arguments = ["main.py", "--config", str(config), "misc.device=cuda", "misc.precision=fp32"]
        arguments += [f"data.batch_size={rows}", "experiment.dropout=0", "schedule.epoch=1"]
        if not losses:
            launcher = []
        run = subprocess.run([sys.executable, *launcher, *arguments], capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        losses.append([line["loss"] for line in read_metrics(out) if line["kind"] == "train"])
    assert losses[1][0] == pytest.approx(losses[0][0], rel=1e-3)
