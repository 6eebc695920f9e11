"""The one file that uses torch.distributed. Every function also works in a world of one, without torchrun."""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn.parallel import DistributedDataParallel

from misc.process.failures import chain, may_be_of_a_collective
from misc.process.heartbeat import Heartbeat
from misc.process.joining import agree_on_attempt, check_backends
from misc.process.launch import Launch, is_reporter, share
from options import UserError

T = TypeVar("T")
_HEARTBEAT: list[Heartbeat] = []  # of this process, while it is in a group
_TIMEOUT: list[timedelta] = []  # of that group


def rank() -> int:
    """This process's number in the world, from torchrun's environment (0 without it)."""
    return Launch.read().rank


def world_size() -> int:
    """The number of processes on all machines."""
    return Launch.read().world_size


def is_main() -> bool:
    """Whether this is the process that decides, logs and writes."""
    return rank() == 0


def start(device: torch.device, backend: str = "auto", timeout_minutes: float = 30.0) -> None:
    """Join the process group that torchrun's environment variables describe; a no-op in a world of one.

    Args:
        backend: "nccl", "gloo", or "auto": nccl for a GPU, gloo for a CPU.
        timeout_minutes: a collective that waits longer than this for another process ends the run.

    Raises:
        UserError: the processes did not all connect, or the backend needs a GPU that one does not have.
    """
    if backend == "nccl" and (device.type != "cuda" or not dist.is_nccl_available()):
        reason = "has no NCCL" if device.type == "cuda" else "computes on the CPU"
        raise UserError(
            f"distributed.backend=nccl: it connects NVIDIA GPUs, and this process {reason}; use auto, or gloo"
        )
    if world_size() == 1 or dist.is_initialized():
        return
    if backend == "auto":
        backend = "nccl" if device.type == "cuda" and dist.is_nccl_available() else "gloo"
    launch = Launch.read()
    try:
        _join(launch, device, backend, timedelta(minutes=timeout_minutes))
    except (dist.DistNetworkError, dist.DistStoreError, TimeoutError) as error:
        raise UserError(
            f"process {launch.rank} of {launch.world_size} cannot join the others at {launch.address}, "
            f"port {launch.port} ({str(error).splitlines()[0]}): check that the port is free and open and "
            "that all processes run"
        ) from error
    except dist.DistBackendError as error:
        if "Duplicate GPU" not in str(error):
            raise
        raise UserError(
            "several processes of one machine compute on the same GPU, which NCCL does not support: start as "
            "many as it has GPUs, with LOCAL_RANK set for each, or let each see a GPU of its own"
        ) from error


def _join(launch: Launch, device: torch.device, backend: str, timeout: timedelta) -> None:
    place = launch.address, launch.port
    is_server = launch.rank == 0 and not launch.is_served
    shared = dist.TCPStore(*place, None, is_server, timeout, multi_tenant=True)
    attempt = agree_on_attempt(shared, launch, timeout)
    check_backends(dist.PrefixStore(attempt, shared), launch, backend)
    store, device_id = dist.PrefixStore(attempt, shared), device if backend == "nccl" else None
    dist.init_process_group(
        backend,
        timeout=timeout,
        store=store,
        rank=launch.rank,
        world_size=launch.world_size,
        device_id=device_id,
    )
    store = dist.PrefixStore(attempt, dist.TCPStore(*place, wait_for_workers=False))
    heartbeat = Heartbeat(store, launch.rank, launch.world_size)
    heartbeat.start()
    _HEARTBEAT.append(heartbeat)
    _TIMEOUT.append(timeout)


def stop() -> None:
    """Leave the process group."""
    while _HEARTBEAT:
        _HEARTBEAT.pop().stop()
        _TIMEOUT.pop()
    if dist.is_initialized():
        dist.destroy_process_group()


def first_to_report(error: BaseException | None = None) -> bool:
    """Whether this process is the first one to call this: it alone prints the error that ends the run.

    Of processes that end together it is rank 0, which has decided that they do. Before the group exists, it
    is the first process of each machine: until then errors occur on all processes.
    """
    if not _HEARTBEAT:
        return is_reporter(error)
    if _HEARTBEAT[0].is_first():
        return True
    time.sleep(2.0)  # torchrun kills the others when one exits: the first must have printed by then
    return False


def announce_end() -> None:
    """Tell the other processes that this one ends the run, before it does."""
    if _HEARTBEAT:
        _HEARTBEAT[0].announce_end()


def cause_of(error: BaseException) -> str | None:
    """The process whose end made a collective raise `error`, in a sentence; None: it is our own."""
    is_collective = any(isinstance(e, dist.DistError) or may_be_of_a_collective(e) for e in chain(error))
    return _HEARTBEAT[0].await_cause() if _HEARTBEAT and is_collective else None


def missing_process() -> str | None:
    """A process that is gone without notice, in a sentence; None where the others end as this one does."""
    return _HEARTBEAT[0].await_others() if _HEARTBEAT else None


def wait_for_all() -> None:
    """Return once every rank has called this."""
    if dist.is_initialized():
        dist.barrier()


def wrap(model: nn.Module, device: torch.device) -> nn.Module:
    """The model as each process trains it: gradients averaged over the world (itself in a world of one)."""
    if not dist.is_initialized():
        return model
    settings = {"gradient_as_bucket_view": True, "broadcast_buffers": False}  # buffers are alike on all ranks
    return DistributedDataParallel(model, [device.index] if device.type == "cuda" else None, **settings)


@torch.no_grad()
def broadcast_model(model: nn.Module) -> None:
    """Give all ranks the parameters and buffers of rank 0.

    Raises:
        UserError: the model of a rank has others, or of other shapes.
    """
    if not dist.is_initialized():
        return
    tensors = [*model.named_parameters(), *model.named_buffers()]
    shapes = gather_objects([(name, tuple(tensor.shape), tensor.dtype) for name, tensor in tensors])
    for number, of_rank in enumerate(shapes):
        if different := {name for name, *_ in set(of_rank) ^ set(shapes[0])}:
            raise UserError(
                f"the model of process {number} differs from that of process 0 in '{min(different)}': all "
                "machines need the same code, options and weights"
            )
    for _, tensor in tensors:
        values = tensor.contiguous()
        dist.broadcast(values, src=0)
        tensor.copy_(values)


class Vote:
    """The maximum of a number over the ranks, exchanged in the background between `cast` and `result`.

    It has a gloo group of its own, and so never synchronises with a GPU.
    """

    def __init__(self) -> None:
        timeout = _TIMEOUT[0] if _TIMEOUT else None
        self._group = dist.new_group(timeout=timeout, backend="gloo") if dist.is_initialized() else None

    def cast(self, number: int) -> None:
        """Send this rank's number."""
        self._number = torch.tensor(number)
        if self._group:
            self._work = dist.all_reduce(self._number, dist.ReduceOp.MAX, self._group, async_op=True)

    def result(self) -> int:
        """The maximum, the same on all ranks; waits for it where needed."""
        if self._group:
            self._work.wait()
        return int(self._number)


def _rows_of_all(rows: Tensor) -> list[Tensor]:
    """The tensors of all ranks in rank order; their shapes must be equal."""
    rows = rows.contiguous()
    parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, rows)
    return parts


class _GatherWithGradient(torch.autograd.Function):
    """All rows of all ranks; backward sums the gradients of all ranks with respect to the local rows."""

    @staticmethod
    def forward(ctx: FunctionCtx, rows: Tensor) -> Tensor:
        return torch.cat(_rows_of_all(rows))

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        return _own_rows_of_sum(gradient)


def _own_rows_of_sum(values: Tensor) -> Tensor:
    """This rank's rows of the sum over the ranks of (W*B, ...). Gloo of older torch has no reduce-scatter."""
    if dist.get_backend() != "nccl":
        total = values.contiguous().clone()
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]
    own = values.new_empty(len(values) // dist.get_world_size(), *values.shape[1:])
    dist.reduce_scatter_tensor(own, values.contiguous())
    return own


def own_share(num_samples: int) -> slice:
    """The samples of this rank, where all ranks share them in order and as evenly as possible."""
    return share(num_samples, rank(), world_size())


def gather_with_gradient(rows: Tensor, num_samples: int | None = None) -> Tensor:
    """(B, ...) of each rank -> (N, ...) in rank order on all ranks, with gradient to every rank's rows.

    With losses that are sums over the local rows times W / N, and gradients averaged over ranks as
    DistributedDataParallel does, the result is exactly the gradient of one process that holds all N rows.

    Args:
        num_samples: N, of which this rank has `own_share`; None: N = W*B, and B is equal on all ranks.
    """
    if not dist.is_initialized():
        return rows
    if num_samples is None or num_samples % world_size() == 0:
        return _GatherWithGradient.apply(rows)
    if num_samples < world_size():  # this rank has them all
        return rows
    own = own_share(num_samples)
    assert len(rows) == own.stop - own.start, (len(rows), own)
    shares = [share(num_samples, number, world_size()) for number in range(world_size())]
    longest = -(-num_samples // world_size())
    padding = rows.new_zeros(longest - len(rows), *rows.shape[1:])
    parts = _GatherWithGradient.apply(torch.cat([rows, padding])).split(longest)
    return torch.cat([part[: s.stop - s.start] for part, s in zip(parts, shares, strict=True)])


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


def start_sum(values: Tensor) -> Callable[[], object]:
    """Begin to sum a tensor over all ranks in place, in the background; what is returned waits for it."""
    return dist.all_reduce(values, async_op=True).wait


def broadcast_object(value: T) -> T:
    """Rank 0's value, on every rank."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gather_objects(value: T) -> list[T]:
    """The values of all ranks in rank order, on every rank."""
    if not dist.is_initialized():
        return [value]
    box = [value] * dist.get_world_size()
    dist.all_gather_object(box, value)
    return box
