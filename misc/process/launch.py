"""How this process was started: its place among the processes of the run, by torchrun's environment.

The one file that reads these variables. It imports nothing heavy: a command line checks its launch first.
"""

import os
import re
import sys
import time
from dataclasses import dataclass

from options import UserError

START = "start the processes with torchrun, or see docs/running.md"


class LaunchError(UserError):
    """A user error of this process alone, which no other one may notice: it reports it whatever its rank."""


@dataclass(frozen=True)
class Launch:
    """The place of this process. Without any of the variables it is the only one."""

    rank: int  # RANK, its number in the world
    local_rank: int  # LOCAL_RANK, its number on its machine
    world_size: int  # WORLD_SIZE, the number of processes on all machines
    local_world_size: int | None  # LOCAL_WORLD_SIZE, that on its machine, where the launcher says it
    address: str | None  # MASTER_ADDR, where the processes meet; None where there is only one
    port: int | None  # MASTER_PORT
    is_served: bool  # whether torchrun serves the store that they meet in, else rank 0

    @classmethod
    def read(cls) -> "Launch":
        """The launch that the environment describes.

        Raises:
            LaunchError: a variable is empty, not a whole number or out of range, or one contradicts another.
        """
        world_size = _number("WORLD_SIZE", 1)
        world, size = world_size or 1, f"WORLD_SIZE ({world_size or 'not set: 1'})"
        local_world_size = _number("LOCAL_WORLD_SIZE", 1, world, f"at most {size}")
        rank = _number("RANK", 0, world - 1, f"below {size}")
        if local_world_size is not None:
            world, size = local_world_size, f"LOCAL_WORLD_SIZE ({local_world_size})"
        local_rank = _number("LOCAL_RANK", 0, world - 1, f"below {size}")
        address = port = None
        if world_size and world_size > 1:
            if rank is None:
                raise LaunchError(f"WORLD_SIZE is {world_size}, but RANK is not set: {START}")
            address, port = _meeting_place(world_size)
        return cls(
            rank=rank or 0,
            local_rank=local_rank or 0,
            world_size=world_size or 1,
            local_world_size=local_world_size,
            address=address,
            port=port,
            is_served=os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == str(True),
        )

    def check_flag(self, local_rank: str | None) -> None:
        """Check `--local-rank`, which torch.distributed.launch passes beside the environment.

        Raises:
            UserError: it is not this process's number.
        """
        if local_rank is not None and _whole(local_rank) != self.local_rank:
            found = (
                f"LOCAL_RANK is {self.local_rank}" if "LOCAL_RANK" in os.environ else "LOCAL_RANK is not set"
            )
            raise LaunchError(f"--local-rank is {local_rank!r}, but {found}: leave it out, and {START}")


def _whole(text: str) -> int | None:
    return int(text) if re.fullmatch(r"\s*[+-]?[0-9]{1,18}\s*", text) else None


def _number(name: str, lowest: int, highest: int | None = None, limit: str = "") -> int | None:
    """The value of a variable; None where it is not set."""
    text = os.environ.get(name)
    if text is None:
        return None
    number = _whole(text)
    if number is None or number < lowest or (highest is not None and number > highest):
        expected = f"a whole number from {lowest}" + (f", {limit}" if limit else "")
        raise LaunchError(f"the environment has {name}={text!r:.40}, expected {expected}: {START}")
    return number


def _meeting_place(world_size: int) -> tuple[str, int]:
    """MASTER_ADDR and MASTER_PORT."""
    address, port = os.environ.get("MASTER_ADDR", "").strip(), os.environ.get("MASTER_PORT", "")
    number = _whole(port)
    if not address or number is None or not 1 <= number <= 65535:
        raise LaunchError(
            f"WORLD_SIZE is {world_size}, but MASTER_ADDR={address!r:.80} and MASTER_PORT={port!r:.40} are "
            f"not a host and a port from 1 to 65535: {START}"
        )
    return address, number


def share(num_items: int, number: int, num_parts: int) -> slice:
    """The part of that number, such as a rank, where items are split in order and as evenly as possible.

    Fewer items than parts cannot be split: each part has all of them.
    """
    if num_items < num_parts:
        return slice(0, num_items)
    return slice(num_items * number // num_parts, num_items * (number + 1) // num_parts)


def report_error(error: UserError) -> None:
    """Print a user error in one line on standard error.

    The processes have not joined yet, so their errors are the same: the first process of each machine reports
    them. torchrun ends the others when one exits, so those wait until it has.
    """
    if is_reporter(error):
        print(one_line(error), file=sys.stderr, flush=True)


def one_line(error: UserError | str) -> str:
    """The line of a user error."""
    return f"error: {' '.join(str(error).split())}"


def is_reporter(error: BaseException | None) -> bool:
    """Whether this process, which has not joined others, reports the error."""
    try:
        if isinstance(error, LaunchError) or Launch.read().local_rank == 0:
            return True
    except LaunchError:
        return True
    time.sleep(2.0)
    return False
