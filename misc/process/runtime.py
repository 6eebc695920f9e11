"""What a run stands on: device, precision, and the output folder."""

import errno
import logging
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import yaml

from misc.checkpoints.checkpoint import BEST, LAST, older_checkpoints
from misc.process import distributed
from misc.process.durable import write_text
from misc.process.logs import RUN_FILES, log_to, start_logging
from misc.process.signals import RESUME_ME, Stopped, StopSignals
from options import Options, UserError, moot_settings, to_dict

logger = logging.getLogger(__name__)

# Torch's words for what the user can mend.
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
LOADER_DIED = "DataLoader worker (pid"
HOLDS_RUN = ("options.yaml", "metrics.jsonl", LAST, BEST)


def pick_device(name: str) -> torch.device:
    """The device of this process: its machine's GPU number `local_rank`, or the CPU.

    Raises:
        UserError: a GPU is asked for and there is none for this process.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if distributed.local_rank() >= torch.cuda.device_count():
        raise UserError(
            f"misc.device: process {distributed.local_rank()} of this machine has no GPU of its own "
            f"({torch.cuda.device_count()} found); start fewer processes, or set misc.device=cpu"
        )
    device = torch.device("cuda", distributed.local_rank())
    torch.cuda.set_device(device)
    return device


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """What autocast computes in; "auto" is fp32 on a CPU (whose bf16 is slow), and on a GPU bf16 from Ampere
    on: older ones only imitate it, and take fp16.
    """
    if name == "fp16" and device.type == "cpu":
        raise UserError("misc.precision: fp16 is for GPUs; use fp32 (or auto) with misc.device=cpu")
    torch.backends.cudnn.allow_tf32 = False  # of itself a convolution reads 10 bits of an fp32 mantissa
    if name == "auto":
        if device.type == "cpu":
            return torch.float32
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]


def start(options: Options) -> tuple[torch.device, torch.dtype]:
    """Join the other processes, let rank 0 speak, and settle device and precision."""
    device = pick_device(options.misc.device)
    precision = pick_precision(options.misc.precision, device)
    try:
        distributed.start(device, options.distributed.backend, options.distributed.timeout)
    except distributed.JoinError as error:
        raise UserError(str(error)) from error
    start_logging()
    for sentence in moot_settings(options) if distributed.is_main() else ():
        logger.warning(sentence)
    return device, precision


def stop() -> None:
    """Leave the other processes once all have come this far: rank 0 may still be writing."""
    distributed.wait_for_all()
    distributed.stop()


def refuse_to_overwrite(folder: Path, overwrite: bool) -> None:
    """Stop a run from going into a folder that holds another one.

    Raises:
        UserError: unless `overwrite`.
    """
    held = [name for name in HOLDS_RUN if (folder / name).exists()]
    if distributed.broadcast_object(held) and not overwrite:
        raise UserError(
            f"output.dir: '{folder}' holds a run ({', '.join(held)}); continue it with --resume, choose "
            "another folder with --output-dir, or set output.overwrite=true"
        )


def make_folder(folder: Path, named_by: str) -> None:
    """Make a folder to write to, unless it is there.

    Raises:
        UserError: it cannot be made or written to; names `named_by`, the flag or option it was given in.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError as error:
        raise UserError(
            f"{named_by}: the folder '{folder}' cannot be made ({error.strerror}); choose another"
        ) from error
    if not writable:
        raise UserError(f"{named_by}: the folder '{folder}' cannot be written to; choose another")


def open_folder(folder: Path, fresh: bool) -> None:
    """Make the output folder and begin its log; a fresh run removes what an earlier one left, no more."""
    make_folder(folder, "output.dir")
    if fresh and distributed.is_main():
        for path in (*(folder / name for name in (*RUN_FILES, LAST, BEST)), *older_checkpoints(folder)):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:  # a folder of that name, or one that is not ours to write to
                reason = f"'{path}' cannot be replaced ({error.strerror}); choose another folder"
                raise UserError(f"output.dir: {reason}") from error
        shutil.rmtree(folder / "tensorboard", ignore_errors=True)
    log_to(folder)


def evaluation_folder(folder: Path) -> Path:
    """Where an evaluation writes: the output folder, or `evaluation` in it where it holds a training run."""
    held = any((folder / name).exists() for name in HOLDS_RUN)
    return folder / "evaluation" if distributed.broadcast_object(held) else folder


def write_options(options: Options, folder: Path) -> None:
    """Write the resolved options as `options.yaml`: itself a valid --config."""
    if distributed.is_main():
        text = yaml.safe_dump(to_dict(options), sort_keys=False, allow_unicode=True)
        write_text(folder / "options.yaml", text)


def report_error(error: UserError | str) -> None:
    """Say what the user can mend in one line on standard error, from one process."""
    _say(f"error: {' '.join(str(error).split())}")


def _say(line: str) -> None:
    if distributed.first_to_report():
        print(line, file=sys.stderr, flush=True)


def guarded(run: Callable[[StopSignals], None], stop: StopSignals) -> int:
    """Run to the end, or to an end that all processes come to together; returns the exit status.

    0; 2 for what the user can mend, in one line; `RESUME_ME` where a signal ended it; 1 where another process
    failed or is gone, in one line that names it. Any other exception is a bug, and keeps its traceback.
    """
    try:
        stop.begin()
        run(stop)
    except (Exception, Stopped) as error:
        stop.ignore()
        return _end(error)
    return 0


def _end(error: BaseException) -> int:
    """Tell user and other processes why the run ends; returns the exit status. Raises what is a bug."""
    mistake = _mistake(error)
    is_known = mistake is not None or isinstance(error, Stopped)
    cause = None if is_known else distributed.cause_of(error)
    distributed.announce_end()
    if mistake is not None:
        report_error(mistake)
        return 2
    if isinstance(error, Stopped):
        gone = distributed.missing_process()  # torchrun passes a signal on when a process is gone, too
        _say(f"error: {gone}" if gone else str(error))
        return RESUME_ME
    if cause is None:
        raise error
    report_error(cause)
    return 1


def _mistake(error: BaseException) -> str | None:
    """What the user can do about an error, in a line; None: it is not the user's to mend."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{error.strerror}: '{error.filename or 'the disk of output.dir'}'; make room and go on"
    reason = str(error).partition("\n")[0] if isinstance(error, RuntimeError) else ""
    if isinstance(error, MemoryError) or any(words in reason for words in OUT_OF_MEMORY):
        return (
            f"the memory is full ({reason or 'MemoryError'}). In training raise schedule.accumulate, lower "
            "data.batch_size or set model.grad_checkpointing; in an evaluation lower data.test_batch_size"
        )
    if LOADER_DIED in reason:
        signal = str(error.__cause__ or "").strip(" .")  # which one it was, where torch heard of it
        return (
            f"a process that loads images is gone ({signal or reason}). Lower data.num_workers, or give it "
            "more memory or more shared memory: /dev/shm, a container's --shm-size"
        )
    return None
