"""What runs in processes of their own. Heavy imports stay inside: the parent only waits, and stays small."""

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from misc.benchmark.parts import Settings


def prepare(settings: Settings, names: Sequence[str]) -> dict[str, Any]:
    """Make the data that the parts need, check the options, and describe the machine. Runs in a child."""
    from misc.benchmark.machine import describe
    from misc.benchmark.setting import device_of, options_of, small_altclip

    device, _ = device_of(options_of(settings))
    if any("altclip" in name for name in names):
        small_altclip(settings)
    return describe(device)


def measure_part(settings: Settings, name: str) -> dict[str, Any]:
    """The row of one part, or {"why": why there is none}. Runs in a child."""
    import torch

    from misc.benchmark.measure import measure
    from misc.benchmark.works import WORKS

    try:
        return measure(name, lambda: WORKS[name](settings), settings.repeats)
    except torch.cuda.OutOfMemoryError:
        return {"why": "failed: the GPU has too little memory"}


def in_child(work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """`work` in a fresh process, so that nothing of another part counts into its memory."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()
