"""What an exception means: out of memory anywhere in its text, a collective that failed; and who says so."""

import errno
import io
import logging
import signal
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from misc.process import distributed, heartbeat, runtime
from misc.process.failures import as_user_error
from misc.process.heartbeat import Heartbeat
from misc.process.logs import log_to, start_logging, stop_logging
from misc.process.signals import StopSignals
from misc.training.engine import Trainer
from tests.helpers.gloo import run_in_processes
from tests.helpers.whole_runs import assert_mentions, status_and_error

PINNING = """Caught {0} in pin memory thread for device 0.
Original Traceback (most recent call last):
  File "torch/utils/data/_utils/pin_memory.py", line 41, in do_one_step
    data = pin_memory(data, device)
{0}: {1}
"""
NCCL = """NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.cpp:94, unhandled cuda error
ncclUnhandledCudaError: Call to CUDA function failed."""


def caused(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


def while_handling(error: BaseException, context: BaseException, is_hidden: bool = False) -> BaseException:
    error.__context__, error.__suppress_context__ = context, is_hidden
    return error


OUT_OF_MEMORY = [
    RuntimeError(PINNING.format("RuntimeError", "CUDA error: out of memory")),
    torch.cuda.OutOfMemoryError(
        PINNING.format("OutOfMemoryError", "CUDA out of memory. Tried to allocate 2.00 GiB.")
    ),
    RuntimeError("Unable to find a valid engine\ncuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("a call failed:\n  cusolver error: CUSOLVER_STATUS_ALLOC_FAILED"),
    RuntimeError("Error in a kernel\n\ncudaErrorMemoryAllocation: out of memory"),
    RuntimeError("HIP error: hipErrorOutOfMemory\nHIP kernel errors might be reported later"),
    dist.DistBackendError(f"{NCCL}\nLast error:\nCuda failure 2 'out of memory'"),
    dist.DistBackendError(f"{NCCL}\nLast error:\nCuda failure 'out of memory'"),
    dist.DistBackendError(NCCL),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 64 bytes."),
    RuntimeError("unable to mmap 8 bytes from file </torch_1>: Cannot allocate memory (12)"),
    RuntimeError("std::bad_alloc"),
    MemoryError(),
    MemoryError("Unable to allocate 3 GiB for an array"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    caused(RuntimeError("the backward pass failed"), torch.cuda.OutOfMemoryError("CUDA out of memory.")),
    while_handling(KeyError("grad"), MemoryError()),
    caused(ValueError("a"), while_handling(RuntimeError("b"), RuntimeError("c\nCUDA error: out of memory"))),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=range(len(OUT_OF_MEMORY)))
def test_memory_that_is_exhausted_is_recognised_anywhere(error: BaseException) -> None:
    line = as_user_error(error)
    assert line is not None
    assert_mentions(line, "out of memory (", "schedule.accumulate", "data.test_batch_size")
    assert "\n" not in line


def circular() -> BaseException:
    first, second = RuntimeError("a"), RuntimeError("b")
    first.__context__, second.__context__ = second, first
    return first


BUGS = [
    FileNotFoundError(errno.ENOENT, "No such file or directory", "out of memory.json"),
    KeyError("out of memory"),
    ValueError("CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    dist.DistBackendError(
        f"{NCCL}\nLast error:\nCuda failure 700 'an illegal memory access was encountered'"
    ),
    while_handling(RuntimeError("a bug"), MemoryError(), is_hidden=True),
    circular(),
]


@pytest.mark.parametrize("error", BUGS, ids=range(len(BUGS)))
def test_other_errors_are_not_of_memory(error: BaseException) -> None:
    assert as_user_error(error) is None


class Watched:
    """A heartbeat that is only asked."""

    def __init__(self) -> None:
        self.has_waited = False

    def await_cause(self) -> str:
        self.has_waited = True
        return "process 1 ended the run"


@pytest.mark.parametrize(
    ("error", "is_collective"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "bookstore.json"), False),
        (KeyError("peer_group"), False),
        (ValueError("the socket's connection to the store of gloo and nccl"), False),
        (OSError(errno.ECONNRESET, "Connection reset by peer"), False),
        (RuntimeError("Error(s) in loading state_dict: restored keys of peers"), False),
        (torch.cuda.OutOfMemoryError("out of memory while NCCL"), False),
        (
            RuntimeError(
                "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer"
            ),
            True,
        ),
        (RuntimeError("Connection reset by peer"), True),
        (RuntimeError("NCCL communicator was aborted on rank 0."), True),
        (dist.DistBackendError("NCCL error"), True),
        (dist.DistStoreError("wait timeout after 1000ms"), True),
        (dist.DistNetworkError("Broken pipe"), True),
        (while_handling(KeyError("a"), dist.DistNetworkError("Broken pipe")), True),
    ],
)
def test_only_what_a_collective_raises_waits_for_the_others(
    error: BaseException, is_collective: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched()
    monkeypatch.setattr(distributed, "_HEARTBEAT", [watched])
    assert (distributed.cause_of(error) is not None) == is_collective
    assert watched.has_waited == is_collective


def test_rank_0_reports_the_end_that_it_has_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "HEAD_START", 600.0)
    store, said = dist.HashStore(), {}
    second = threading.Thread(target=lambda: said.update({1: Heartbeat(store, 1, 2).is_first()}))
    second.start()  # the other rank comes first
    time.sleep(0.2)
    assert not said
    assert Heartbeat(store, 0, 2).is_first()
    second.join()
    assert said == {1: False}


def test_another_rank_reports_an_end_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "HEAD_START", 0.1)
    store = dist.HashStore()
    assert Heartbeat(store, 1, 2).is_first()
    assert not Heartbeat(store, 0, 2).is_first()


def stopped(arguments: list[str]) -> tuple[int, str]:
    """What a run says of a signal that rank 1 alone receives in its third step."""
    original = Trainer.train_step

    def train_step(self: Trainer, *given: object) -> None:
        if distributed.rank() == 1 and self.step == 2:
            signal.raise_signal(signal.SIGTERM)
        original(self, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "train_step", train_step)
        return status_and_error(arguments)


def test_a_signal_to_one_process_is_named_whichever_reports_it(config: Path, tmp_path: Path) -> None:
    arguments = ["--config", str(config), "data.batch_size=4", "schedule.epoch=50"]
    first, second = run_in_processes(stopped, 2, tmp_path, arguments)
    assert first[0] == second[0] == 75
    (line,) = (first[1] + second[1]).splitlines()
    assert line.startswith("stopped by SIGTERM after step ")


class Handler(logging.StreamHandler):
    """Of a program that uses ours."""

    is_open = True

    def close(self) -> None:
        self.is_open = False
        super().close()


def test_the_handlers_of_a_run_are_closed_and_those_of_others_kept(tmp_path: Path) -> None:
    stop_logging()  # of a run in this process before
    root, other = logging.getLogger(), Handler(io.StringIO())
    root.addHandler(other)
    before = list(root.handlers)
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        start_logging()
        logging.getLogger("misc").warning("early in %s", name)
        log_to(tmp_path / name)
        opened = [handler for handler in root.handlers if isinstance(handler, logging.FileHandler)]
        stream = opened[-1].stream
    start_logging()
    assert stream.closed
    stop_logging()
    assert root.handlers == before
    assert other.is_open
    root.removeHandler(other)
    assert "early in second" in (tmp_path / "second" / "log.txt").read_text(encoding="utf-8")
    assert "second" not in (tmp_path / "first" / "log.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("error", [None, ValueError])
def test_a_run_leaves_no_handler_behind(
    error: type[Exception] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_logging()  # of a run in this process before
    before = list(logging.getLogger().handlers)

    def run(_: StopSignals) -> None:
        start_logging()
        log_to(tmp_path)
        if error:
            raise error

    with pytest.raises(error) if error else nullcontext():
        assert runtime.guarded(run, StopSignals()) == 0
    assert logging.getLogger().handlers == before
