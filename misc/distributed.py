"""The one file that knows of other processes. All of it is right for a world of one, without torchrun."""

import os
import time
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def rank() -> int:
    """This process's number in the world, from torchrun's environment (0 without it)."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """This process's number on its machine: the index of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def world_size() -> int:
    """The number of processes on all machines."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this is the process that decides, logs and writes."""
    return rank() == 0


def start(device: torch.device, backend: str = "auto", timeout_minutes: float = 30.0) -> None:
    """Join the process group that torchrun's environment names; nothing to join in a world of one.

    Args:
        backend: "nccl", "gloo", or "auto": nccl for a GPU, gloo for a CPU.
        timeout_minutes: a collective that waits longer than this for another process ends the run.
    """
    if world_size() == 1 or dist.is_initialized():
        return
    if backend == "auto":
        backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(
        backend,
        timeout=timedelta(minutes=timeout_minutes),
        device_id=device if backend == "nccl" else None,
    )


def stop() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def first_to_report() -> bool:
    """Whether this process is the first of the world to ask: it alone prints the error that ends them all.

    A mistake found on every rank is said once, one found on a single rank is said by that rank. Before the
    group exists every machine's first process speaks: only what all of them see alike can fail by then.
    """
    if not dist.is_initialized():
        return local_rank() == 0
    if dist.distributed_c10d._get_default_store().add("error reported", 1) == 1:
        return True
    time.sleep(2.0)  # torchrun ends the others when one leaves: the first must have spoken by then
    return False


def wait_for_all() -> None:
    """Return once every rank has called this."""
    if dist.is_initialized():
        dist.barrier()


def wrap(model: nn.Module, device: torch.device) -> nn.Module:
    """The model as each process trains it: gradients averaged over the world (itself in a world of one)."""
    if not dist.is_initialized():
        return model
    device_ids = [device.index] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=device_ids, gradient_as_bucket_view=True)


def _rows_of_all(rows: Tensor) -> list[Tensor]:
    """The tensors of all ranks in rank order; their shapes must be equal."""
    parts = [
        torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())
    ]
    dist.all_gather(parts, rows.contiguous())
    return parts


class _GatherWithGradient(torch.autograd.Function):
    """All rows of all ranks; backward sums over the ranks what each of them wants from the local rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        return torch.cat(_rows_of_all(rows))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]


def gather_with_gradient(rows: Tensor) -> Tensor:
    """(B, ...) of each rank -> (W*B, ...) in rank order on all ranks, with gradient to every rank's rows.

    With losses averaged over local rows and gradients averaged over ranks, as DistributedDataParallel does,
    the result is exactly the gradient of one process that holds all W*B rows. B must be equal on all ranks.
    """
    return _GatherWithGradient.apply(rows) if dist.is_initialized() else rows


@torch.no_grad()
def gather_interleaved(rows: Tensor, total: int) -> Tensor:
    """Rows r, r+W, r+2W, ... of a table of `total` rows from each rank r -> the whole table, on all ranks."""
    if not dist.is_initialized():
        return rows
    longest = -(-total // dist.get_world_size())
    padded = rows.new_zeros(longest, *rows.shape[1:])
    padded[: len(rows)] = rows
    return torch.stack(_rows_of_all(padded), dim=1).flatten(0, 1)[:total]


@torch.no_grad()
def mean_over_ranks(values: Tensor) -> Tensor:
    """The elementwise mean of a tensor over all ranks."""
    if not dist.is_initialized():
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def broadcast_object(value: Any) -> Any:
    """What rank 0 holds, on every rank: rank 0 decides, the others follow."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gather_objects(value: Any) -> list[Any]:
    """The values of all ranks in rank order, on every rank."""
    if not dist.is_initialized():
        return [value]
    box: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(box, value)
    return box
