"""What an exception means to the user: which are user errors, and which a failed collective raises."""

import errno
import re
from collections.abc import Iterator

from options import UserError

# Of the host, CUDA, ROCm, MPS, and the libraries of CUDA, in any line of an error's text.
OUT_OF_MEMORY = re.compile(
    r"out of memory|can(?:no|')t allocate memory|not enough memory|bad[_ ]alloc|_alloc(?:ation)?_failed"
    r"|cudaErrorMemoryAllocation|hipErrorOutOfMemory|unhandled cuda error",
    re.IGNORECASE,
)
ANOTHER_CUDA_FAILURE = re.compile(
    r"Cuda failure(?: \d+)? '(?!out of memory)"
)  # NCCL's reason, where it has one
COLLECTIVE = re.compile(
    r"gloo|nccl|connection (?:closed|reset|refused) by (?:remote )?peer|socket timeout|timed out waiting",
    re.IGNORECASE,
)


def chain(error: BaseException) -> Iterator[BaseException]:
    """The exception, the one that caused it or that it was raised in the handling of, and so on."""
    seen: list[int] = []
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        yield following
        seen.append(id(following))
        context = None if following.__suppress_context__ else following.__context__
        following = following.__cause__ or context


def reason_of(error: BaseException) -> str:
    """The text of an exception on one line, or its type where it has none: for a part of a message."""
    return " ".join(str(error).split()) or type(error).__name__


def may_be_of_a_collective(error: BaseException) -> bool:
    """Whether the exception is of the kind that gloo and NCCL raise where another process has ended."""
    return type(error) is RuntimeError and COLLECTIVE.search(str(error)) is not None


def as_user_error(error: BaseException) -> str | None:
    """The line for a user error; None for any other error."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        place = error.filename or "the disk of output.dir"
        return f"{error.strerror}: '{place}'; free space there and continue with --resume"
    if reason := _of_memory(error):
        return (
            f"out of memory ({reason}). In training raise schedule.accumulate, lower data.batch_size or set "
            "model.grad_checkpointing; in an evaluation lower data.test_batch_size"
        )
    reason = str(error).partition("\n")[0] if isinstance(error, RuntimeError) else ""
    if "DataLoader worker (pid" in reason:
        signal = str(error.__cause__ or "").strip(" .")  # the signal that killed it, where torch knows it
        return (
            f"a data loader process was killed ({signal or reason}). Lower data.num_workers, or give it "
            "more memory or more shared memory: /dev/shm, a container's --shm-size"
        )
    return None


def _of_memory(error: BaseException) -> str | None:
    """The line that says that memory is exhausted; None where nothing does.

    Errors of workers and of the pinning thread arrive with a traceback as their text, those of CUDA's
    libraries name the call first.
    """
    for each in chain(error):
        lines = str(each).splitlines()
        if isinstance(each, MemoryError) or (isinstance(each, OSError) and each.errno == errno.ENOMEM):
            return lines[0].strip() if lines else type(each).__name__
        found = [line.strip() for line in lines if OUT_OF_MEMORY.search(line)]
        if isinstance(each, RuntimeError) and found and not ANOTHER_CUDA_FAILURE.search(str(each)):
            return found[-1]
    return None
