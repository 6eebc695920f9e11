"""Real gloo processes for the tests."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp

from misc.process import distributed


def run_in_processes(
    function: Callable[..., Any], world_size: int, folder: Path, *arguments: Any
) -> list[Any]:
    """What `function(*arguments)` returns on each of `world_size` new processes in a gloo group."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    mp.spawn(_enter, (function, world_size, port, str(folder), arguments), nprocs=world_size)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(world_size)]


def _enter(
    rank: int,
    function: Callable[..., Any],
    world_size: int,
    port: int,
    folder: str,
    arguments: tuple[Any, ...],
) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    distributed.start(torch.device("cpu"), "gloo", timeout_minutes=1)
    result = function(*arguments)
    torch.save(result, Path(folder) / f"{rank}.pt")
    distributed.stop()
