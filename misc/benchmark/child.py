"""What runs in child processes. Heavy imports stay inside the functions: the parent stays small."""

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import ParamSpec

from misc.benchmark.parts import Settings
from misc.benchmark.report import Row
from misc.process.libraries import quieten

Arguments = ParamSpec("Arguments")


def prepare(settings: Settings, names: Sequence[str]) -> Row:
    """Make the data that the parts need, check the options, and describe the machine."""
    from misc.benchmark.machine import describe
    from misc.benchmark.setting import device_of, make_options, small_altclip

    device, _ = device_of(make_options(settings))
    if any("altclip" in name for name in names):
        small_altclip(settings)
    return describe(device)


def measure_part(settings: Settings, name: str) -> Row:
    """The row of one part, or {"why": why there is none}."""
    import torch

    from misc.benchmark.measure import measure
    from misc.benchmark.workloads import WORKLOADS

    try:
        return measure(name, lambda: WORKLOADS[name](settings), settings.repeats)
    except torch.cuda.OutOfMemoryError:
        return {"why": "failed: out of GPU memory"}


def run_in_child(work: Callable[Arguments, Row], *args: Arguments.args, **kwargs: Arguments.kwargs) -> Row:
    """`work` in a new process, so that its memory does not include that of other parts."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, initializer=quieten) as pool:
        return pool.submit(work, *args, **kwargs).result()
