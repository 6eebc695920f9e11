"""What the processes of a run agree on through their store, before they form a group."""

import socket
import time
import uuid
from datetime import timedelta
from typing import Protocol

from misc.process.launch import Launch
from options import UserError


class Store(Protocol):
    """The part of a torch.distributed store that this uses."""

    def get(self, key: str) -> bytes: ...
    def set(self, key: str, value: str) -> None: ...
    def check(self, keys: list[str]) -> bool: ...


def agree_on_attempt(store: Store, launch: Launch, timeout: timedelta) -> str:
    """A name that no earlier attempt of this run had, the same on all ranks: rank 0's.

    torchrun's store survives a restart of the run, with entries of processes that are gone. So a name found
    there counts only once rank 0 has answered this process's own name under it.

    Raises:
        TimeoutError: rank 0 did not answer.
    """
    own, others = uuid.uuid4().hex, range(1, launch.world_size)
    if launch.rank == 0:
        store.set("attempt", own)
        for other in others:
            store.set(f"{own}/{store.get(f'{own}/{other}').decode()}", "")
        return own
    end = time.monotonic() + timeout.total_seconds()
    while time.monotonic() < end:
        attempt = store.get("attempt").decode()
        store.set(f"{attempt}/{launch.rank}", own)
        if store.check([f"{attempt}/{own}"]):
            return attempt
        time.sleep(0.05)
    raise TimeoutError(f"process 0 did not answer within {timeout}")


def check_backends(store: Store, launch: Launch, backend: str) -> None:
    """Raise UserError on all ranks unless all have the same backend: else they would wait for each other."""
    store.set(f"backend/{launch.rank}", f"{backend} {socket.gethostname()}")
    first, *others = (
        store.get(f"backend/{rank}").decode().split(" ", 1) for rank in range(launch.world_size)
    )
    for rank, (name, host) in enumerate(others, start=1):
        if name != first[0]:
            raise UserError(
                f"process 0 (on {first[1]}) uses the backend {first[0]}, process {rank} (on {host}) {name}: "
                "one machine has no GPU that PyTorch can use; repair that, or set misc.device=cpu"
            )
