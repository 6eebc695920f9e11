"""Two gloo processes of the test session, started when a test first needs them and used again by the next."""

import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp

from misc.process import distributed
from tests.helpers.fast_main import make_runs_fast

_POOL: list[tuple[mp.Process, Connection]] = []


def run_in_processes(
    function: Callable[..., Any], world_size: int, folder: Path, *arguments: Any
) -> list[Any]:
    """What `function(*arguments)` returns on each of `world_size` processes in a gloo group of its own.

    Raises:
        RuntimeError: with the traceback of the process that failed first. The next call has new processes.
    """
    while len(_POOL) < world_size:
        _POOL.append(_started())
    ranks = {connection: rank for rank, (_, connection) in enumerate(_POOL[:world_size])}
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = str(sock.getsockname()[1])
    shared = os.environ | {"WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for connection, rank in ranks.items():
        environment = shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        connection.send((function, arguments, environment, os.getcwd(), folder / f"{rank}.pt"))
    waiting = set(ranks)
    while waiting:
        for connection in wait(waiting):
            error = _answer(connection)
            if error is not None:
                end_processes()
                raise RuntimeError(f"rank {ranks[connection]} failed:\n{error}")
            waiting.remove(connection)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(world_size)]


def end_processes() -> None:
    """End the processes, busy or not."""
    while _POOL:
        process, connection = _POOL.pop()
        process.kill()
        process.join()
        connection.close()


def _started() -> tuple[mp.Process, Connection]:
    context = mp.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,))
    process.start()
    theirs.close()
    return process, ours


def _answer(connection: Connection) -> str | None:
    try:
        return connection.recv()
    except (EOFError, ConnectionResetError):
        return "the process died"


def _serve(connection: Connection) -> None:
    """Run what is sent until the test session ends."""
    torch.set_num_threads(1)
    make_runs_fast(pytest.MonkeyPatch())
    while True:
        try:
            function, arguments, environment, folder, result = connection.recv()
        except EOFError:
            return
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        torch.manual_seed(0)
        try:
            distributed.start(torch.device("cpu"), "gloo", timeout_minutes=10)
            torch.save(function(*arguments), result)
            distributed.stop()
        except BaseException:
            connection.send(traceback.format_exc())
            return
        connection.send(None)
