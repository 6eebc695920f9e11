"""Measure one part in the current process; nothing else should have run in it before."""

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from misc.benchmark.flops import Tower
from misc.benchmark.machine import Product, matmul_peak, peak_memory, synchronize
from misc.benchmark.report import Row
from misc.process.logs import progress

VIT_B = ((1576, 768, 3072), (1576, 768, 2304))  # a block's widest layers, for 8 images of 224 x 224
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Workload:
    """Something to measure, ready to run; `products` is called after the first run, `held` after the last."""

    run: Callable[[], object]  # does it once
    items: int  # how many `unit` one run processes
    unit: str
    device: torch.device = CPU
    precision: torch.dtype = torch.float32
    flops: float | None = None  # required by one run; None where matrix products do not dominate
    nominal_flops: float | None = None  # the last blocks computed for all tokens, as is conventional
    products: Callable[[], Sequence[Product]] = lambda: VIT_B  # layers of its sizes, for the machine's peak
    held: Callable[[], int] | None = None  # bytes of model and optimiser; None where nothing is trained
    memory: Callable[[], int | None] | None = None  # peak of a run in bytes, if it is in another process
    note: str = ""  # a remark for the row


def layers(rows: int, tower: Tower) -> list[Product]:
    """The widest linear layers of a tower's blocks, applied to `rows` tokens."""
    return [(rows, tower.width, tower.mlp), (rows, tower.width, 3 * tower.width)]


def measure(name: str, build: Callable[[], Workload], repeats: int) -> Row:
    """The row of a part: one warm-up run, then `repeats` runs, the machine's peak measured between them.

    Returns:
        items, unit, times, seconds (their median), throughput (items per second), matmul_peak (FLOP/s,
        median), precision, note; in bytes peak_memory (above what the process held before: its imports),
        held_memory and beyond_memory (their difference); flops_per_item, and peak_share: the median over the
        repeats of the FLOP/s reached, divided by the mean of the peaks before and after;
        nominal_flops_per_item and nominal_peak_share likewise. None where not applicable.
    """
    before = peak_memory()
    workload = build()
    workload.run()
    memory = _memory(workload, before)  # before the machine's peak is measured, which allocates as well
    products = workload.products()

    def peak() -> float:
        return matmul_peak(products, workload.device, workload.precision)

    times, peaks = [], [peak()]
    for _ in progress(range(repeats), name):
        synchronize(workload.device)
        began = time.perf_counter()
        workload.run()
        synchronize(workload.device)
        times.append(time.perf_counter() - began)
        peaks.append(peak())
    held = workload.held and workload.held()
    memory = _memory(workload, before) if held else memory  # an optimiser allocates in its first step
    seconds, flops, nominal = statistics.median(times), workload.flops, workload.nominal_flops
    return {
        "items": workload.items,
        "unit": workload.unit,
        "seconds": seconds,
        "throughput": workload.items / seconds,
        "times": times,
        "peak_memory": memory,
        "held_memory": held,
        "beyond_memory": memory - held if memory and held else None,
        "flops_per_item": flops and flops / workload.items,
        "matmul_peak": statistics.median(peaks),
        "peak_share": flops and _share(flops, times, peaks),
        "nominal_flops_per_item": nominal and nominal / workload.items,
        "nominal_peak_share": nominal and _share(nominal, times, peaks),
        "precision": str(workload.precision).removeprefix("torch."),
        "note": workload.note,
    }


def _memory(workload: Workload, before: int) -> int | None:
    if workload.memory is not None:
        return workload.memory()
    if workload.device.type == "cuda":
        return torch.cuda.max_memory_allocated(workload.device)
    return peak_memory() - before


def _share(flops: float, times: Sequence[float], peaks: Sequence[float]) -> float:
    around = [(before + after) / 2 for before, after in itertools.pairwise(peaks)]
    return statistics.median(flops / seconds / peak for seconds, peak in zip(times, around, strict=True))
