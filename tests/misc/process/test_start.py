"""Importing a module changes nothing in the process, and none needs what only POSIX systems have."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from main import main
from misc.benchmark.machine import peak_memory
from misc.process.signals import StopSignals
from misc.process.workers import cpu_name, num_cores, total_memory
from options import UserError
from tests.helpers.whole_runs import results_of, write_program

ROOMS = ("config", "text_utils", "data", "model", "misc")
PATHS = [Path("main.py"), Path("options.py"), *(path for room in ROOMS for path in Path(room).rglob("*.py"))]
MODULES = sorted({".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in PATHS})

# Loads the libraries first: what they do when they are imported is theirs.
LIBRARIES = """
import asyncio, concurrent.futures.process, importlib.resources, logging.handlers, multiprocessing.pool
import importlib, logging, multiprocessing, os, signal, socket, subprocess, sys, threading, time, warnings
import faiss, ftfy, matplotlib, numpy, onnx, onnxruntime, PIL.Image, PIL.ImageFile, regex, safetensors
import fastapi, scipy.io, scipy.optimize, torch, torch.distributed, torch.utils.checkpoint
import torch.utils.data, torchvision
import torch._dynamo.config, torch.utils.flop_counter, torchvision.transforms.v2, tqdm.contrib.logging
import tokenizers, transformers, uvicorn, wn, yaml
"""
STATE = """
def state():
    loggers = {name: logger for name, logger in logging.root.manager.loggerDict.items()
               if isinstance(logger, logging.Logger)}
    levels = {name: logger.level for name, logger in loggers.items() if logger.level}
    handlers = {name: list(logger.handlers) for name, logger in loggers.items() if logger.handlers}
    cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
    return {
        "warnings": list(warnings.filters),
        "environment": dict(os.environ),
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "levels": levels | {"root": logging.root.level, "disabled": logging.root.manager.disable},
        "handlers": handlers | {"root": list(logging.root.handlers)},
        "captured warnings": warnings.showwarning,
        "cudnn": (cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic, cudnn.enabled),
        "cuda": (cuda.matmul.allow_tf32, cuda.flash_sdp_enabled(), cuda.math_sdp_enabled()),
        "torch": (torch.get_float32_matmul_precision(), torch.get_num_threads(), torch.get_default_dtype(),
                  torch.are_deterministic_algorithms_enabled(), torch.is_grad_enabled()),
        "random": (torch.initial_seed(), numpy.random.get_state()[1].tolist()),
        "dynamo": torch._dynamo.config.optimize_ddp,
        "images": (PIL.Image.MAX_IMAGE_PIXELS, PIL.ImageFile.LOAD_TRUNCATED_IMAGES),
        "processes": (multiprocessing.get_start_method(allow_none=True), threading.active_count()),
        "interpreter": (sys.path, sys.excepthook, socket.getdefaulttimeout(), os.getcwd()),
        "plots": dict(matplotlib.rcParams),
    }
"""
IMPORTS = """
before = state()
for name in {modules}:
    importlib.import_module(name)
    after = state()
    changed = [what for what in before if before[what] != after[what]]
    assert not changed, f"importing {{name}} changes {{changed}}"
"""
# But `statvfs`, which the standard library's `shutil.disk_usage` has where there is no other call for it.
CALLS = """
fork forkpty sysconf sysconf_names sched_getaffinity sched_setaffinity getuid geteuid getgid getegid getpgid
getpgrp getsid setsid setpgid killpg getpriority setpriority nice posix_fadvise posix_fallocate getloadavg
register_at_fork mkfifo uname fchmod chown lockf pread pwrite wait3 wait4 waitid EX_TEMPFAIL O_NOFOLLOW
"""
SIGNALS = """
SIGUSR1 SIGUSR2 SIGHUP SIGQUIT SIGKILL SIGALRM SIGCHLD SIGCONT SIGSTOP SIGTSTP SIGPIPE SIGBUS SIGXCPU
SIG_BLOCK SIG_UNBLOCK SIG_SETMASK pthread_sigmask pthread_kill sigwait sigwaitinfo sigtimedwait sigpending
siginterrupt alarm setitimer pause
"""
NOT_ON_WINDOWS = ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog", "crypt", "posix")
ELSEWHERE = """
for module, names in ((os, {calls}), (signal, {signals})):
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
sys.modules.update(dict.fromkeys({modules_of_posix}))
for name in {modules}:
    importlib.import_module(name)
"""


def run_program(program: str) -> None:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_a_module_changes_nothing_else() -> None:
    run_program(LIBRARIES + STATE + IMPORTS.format(modules=MODULES))


def test_every_module_can_be_imported_where_posix_calls_are_not() -> None:
    settings = {"calls": CALLS.split(), "signals": SIGNALS.split(), "modules_of_posix": NOT_ON_WINDOWS}
    run_program(LIBRARIES + ELSEWHERE.format(modules=MODULES, **settings))


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system without the calls and modules of POSIX."""
    for module, names in ((os, CALLS), (signal, SIGNALS)):
        for name in names.split():
            monkeypatch.delattr(module, name, raising=False)
    for name in NOT_ON_WINDOWS:
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.usefixtures("elsewhere")
def test_a_run_needs_no_posix_call(config: Path, tmp_path: Path) -> None:
    assert main(["--config", str(config), "schedule.epoch=1", "data.num_workers=0"]) == 0
    assert results_of(tmp_path / "run")


@pytest.mark.usefixtures("elsewhere")
def test_the_machine_is_described_without_posix_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    assert total_memory() is None
    assert num_cores() == os.cpu_count()
    assert cpu_name()
    with StopSignals() as stop:
        assert stop.requested is None
    monkeypatch.setattr(Path, "exists", lambda _: False)  # no /proc, either
    assert cpu_name()
    with pytest.raises(UserError, match="Linux and macOS"):
        peak_memory()


@pytest.mark.parametrize(("size", "number"), [(4096, -1), (-1, 10)])
def test_memory_that_the_system_does_not_know_is_not_counted(
    size: int, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": size, "SC_PHYS_PAGES": number}.__getitem__)
    assert total_memory() is None


@pytest.mark.slow
def test_loader_workers_can_be_spawned(config: Path, tmp_path: Path) -> None:
    """As on macOS and Windows."""
    spawn = "import multiprocessing\nmultiprocessing.set_start_method('spawn', force=True)"
    program = write_program(tmp_path / "program.py", spawn)
    command = [sys.executable, program, "--config", str(config), "schedule.epoch=1", "data.num_workers=1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
