"""How a run starts and ends, on all of its processes together."""

import logging
import sys
from collections.abc import Callable, Sequence

import torch

from misc.process import distributed
from misc.process.device import start_device
from misc.process.failures import as_user_error
from misc.process.launch import one_line
from misc.process.logs import start_logging, stop_logging
from misc.process.signals import RESUME_ME, Stopped, StopSignals
from options import Options, ineffective_settings

logger = logging.getLogger(__name__)


def start(options: Options, warnings: Sequence[str] = ()) -> tuple[torch.device, torch.dtype]:
    """Start the log on rank 0, choose device and precision, and join the process group.

    Args:
        warnings: to be logged beside those of settings without effect.
    """
    start_logging()
    device, precision = start_device(options.misc.device, options.misc.precision)
    distributed.start(device, options.distributed.backend, options.distributed.timeout)
    sentences = [*ineffective_settings(options, distributed.world_size()), *warnings]
    for sentence in sentences if distributed.is_main() else ():
        logger.warning(sentence)
    return device, precision


def stop() -> None:
    """Leave the process group once all have come this far: rank 0 may still be writing."""
    distributed.wait_for_all()
    distributed.stop()


def guarded(run: Callable[[StopSignals], None], stop: StopSignals) -> int:
    """Run to the end, or to an end that all processes come to together; returns the exit status.

    0; 2 for a user error, in one line; `RESUME_ME` where a signal ended it; 1 where another process failed or
    is gone, in one line that names it. Any other exception is a bug, and keeps its traceback.
    """
    try:
        stop.begin()
        run(stop)
    except (Exception, Stopped) as error:
        stop.ignore()
        return _end(error)
    finally:
        stop_logging()
    return 0


def _end(error: BaseException) -> int:
    """Tell user and other processes why the run ends; returns the exit status. Raises what is a bug."""
    user_error = as_user_error(error)
    is_known = user_error is not None or isinstance(error, Stopped)
    cause = None if is_known else distributed.cause_of(error)
    distributed.announce_end()
    if user_error is not None:
        line, status = one_line(user_error), 2
    elif isinstance(error, Stopped):
        gone = distributed.missing_process()  # torchrun also sends SIGTERM when another process is gone
        line, status = one_line(gone) if gone else str(error), RESUME_ME
    elif cause is not None:
        line, status = one_line(cause), 1
    else:
        raise error
    if distributed.first_to_report(error):
        print(line, file=sys.stderr, flush=True)
    return status
