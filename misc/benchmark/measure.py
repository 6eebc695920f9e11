"""Measure one part, in the process that this runs in: nothing else should have run there before."""

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from misc.benchmark.flops import Tower
from misc.benchmark.machine import MatmulPeak, Product, peak_memory, synchronize
from misc.process.logs import progress

VIT_B = ((1576, 768, 3072), (1576, 768, 2304))  # a block's widest layers, for 8 images of 224 x 224
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Work:
    """Something to measure, ready to run.

    Attributes:
        run: does it once.
        items: how many `unit` one run gets through.
        flops: what one run needs (`misc.benchmark.flops`); None where products of matrices are not the point.
        whole_flops: the same with the last blocks of all tokens, for figures that are counted so.
        products: linear layers of the sizes that it uses, to measure the machine's peak with; asked once it
            has run.
        held: bytes of model and optimiser, counted once it has run; None where there is no training.
        memory: the peak memory of a run in bytes, where the work is a program of its own.
        note: what the row should say besides.
    """

    run: Callable[[], object]
    items: int
    unit: str
    device: torch.device = CPU
    precision: torch.dtype = torch.float32
    flops: float | None = None
    whole_flops: float | None = None
    products: Callable[[], Sequence[Product]] = lambda: VIT_B
    held: Callable[[], int] | None = None
    memory: Callable[[], int | None] | None = None
    note: str = ""


def layers(rows: int, tower: Tower) -> list[Product]:
    """The widest linear layers of a tower's blocks, for so many rows."""
    return [(rows, tower.width, tower.mlp), (rows, tower.width, 3 * tower.width)]


def measure(name: str, build: Callable[[], Work], repeats: int) -> dict[str, Any]:
    """The row of a part: run once to warm up, then `repeats` times, the machine's peak measured in between.

    Returns:
        items, unit, times, seconds (their median), throughput (items a second), matmul_peak (FLOP/s, median),
        precision, note; in bytes peak_memory (above what the process held before: its imports), held_memory
        and beyond_memory (their difference); flops_per_item, and mfu, the median over the repeats of the
        FLOP/s reached as a share of the mean of the peaks before and after; whole_flops_per_item and
        whole_mfu likewise. None where a part has none.
    """
    before = peak_memory()
    work = build()
    work.run()
    memory = _memory(work, before)  # before the machine's peak is measured: that takes some, too
    peak = MatmulPeak(work.products(), work.device, work.precision)
    times, peaks = [], [peak()]
    for _ in progress(range(repeats), name):
        synchronize(work.device)
        began = time.perf_counter()
        work.run()
        synchronize(work.device)
        times.append(time.perf_counter() - began)
        peaks.append(peak())
    held = work.held and work.held()
    memory = _memory(work, before) if held else memory  # an optimiser makes its moments in the first step
    seconds = statistics.median(times)
    return {
        "items": work.items,
        "unit": work.unit,
        "seconds": seconds,
        "throughput": work.items / seconds,
        "times": times,
        "peak_memory": memory,
        "held_memory": held,
        "beyond_memory": memory - held if memory and held else None,
        "flops_per_item": work.flops and work.flops / work.items,
        "matmul_peak": statistics.median(peaks),
        "mfu": work.flops and statistics.median(_shares(work.flops, times, peaks)),
        "whole_flops_per_item": work.whole_flops and work.whole_flops / work.items,
        "whole_mfu": work.whole_flops and statistics.median(_shares(work.whole_flops, times, peaks)),
        "precision": str(work.precision).removeprefix("torch."),
        "note": work.note,
    }


def _memory(work: Work, before: int) -> int | None:
    if work.memory is not None:
        return work.memory()
    if work.device.type == "cuda":
        return torch.cuda.max_memory_allocated(work.device)
    return peak_memory() - before


def _shares(flops: float, times: Sequence[float], peaks: Sequence[float]) -> list[float]:
    around = [(before + after) / 2 for before, after in itertools.pairwise(peaks)]
    return [flops / seconds / peak for seconds, peak in zip(times, around, strict=True)]
