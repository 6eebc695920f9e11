"""The processor, and work on many files by all its cores."""

import multiprocessing
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

from misc.process.libraries import quieten

Chunk = TypeVar("Chunk")
Result = TypeVar("Result")


def cpu_name() -> str:
    """The processor's model name, or the architecture where the system does not report it."""
    cpu_info = Path("/proc/cpuinfo")
    lines = cpu_info.read_text(encoding="utf-8").splitlines() if cpu_info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def num_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def total_memory() -> int | None:
    """The machine's memory in bytes; None where the system does not report it, as Windows."""
    try:
        size, number = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # no such call, or no such value
        return None
    return size * number if size > 0 and number > 0 else None


def memory_of_process() -> int:
    """The most bytes of memory that this process has held; 0 where the system does not report it."""
    status = Path("/proc/self/status")  # `getrusage` of a child starts from the parent's peak
    lines = status.read_text(encoding="utf-8").splitlines() if status.exists() else []
    if peaks := [line for line in lines if line.startswith("VmHWM")]:
        return int(peaks[0].split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def in_processes(work: Callable[[Chunk], Result], chunks: Sequence[Chunk], workers: int) -> Iterator[Result]:
    """`work` on each chunk, the results in order; one worker stays in this process."""
    workers = min(workers, len(chunks))
    if workers <= 1:
        yield from map(work, chunks)
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn, initializer=quieten) as pool:
        yield from pool.map(work, chunks)
