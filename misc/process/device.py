"""The device of this process and the precision of its computations."""

import logging
import os
import re
import shutil
import subprocess
import warnings
from pathlib import Path

import torch

from misc.process.launch import Launch, LaunchError
from options import UserError

logger = logging.getLogger(__name__)

DRIVER = Path("/proc/driver/nvidia/version")
HIDDEN = ("", "-1", "NoDevFiles")  # CUDA_VISIBLE_DEVICES where GPUs are not to be used; the last is SLURM's


def start_device(device: str, precision: str) -> tuple[torch.device, torch.dtype]:
    """The device of this process and the dtype of autocast, at a program's start.

    Turns TF32 off in convolutions, which has 10 bits of mantissa instead of 23.

    Raises:
        UserError: as of `pick_device` and `pick_precision`.
    """
    torch.backends.cudnn.allow_tf32 = False
    picked = pick_device(device)
    return picked, pick_precision(precision, picked)


def pick_device(name: str) -> torch.device:
    """The device of this process: the only GPU that it sees, else number `local_rank` of them, or the CPU.

    `name` is "cpu", "cuda", or "auto": a GPU where there is one. A GPU that PyTorch cannot use is warned of.

    Raises:
        UserError: a GPU is requested and there is none for this process, or PyTorch has no kernels for it.
    """
    if name == "cpu":
        return torch.device("cpu")
    is_available, reason = _look_for_gpus()
    if not is_available:
        problem = _unused_gpu(reason)
        if name == "cuda":
            raise UserError(
                f"misc.device=cuda: {problem or f'{_build()} finds no GPU'}, or set misc.device=cpu"
            )
        if problem:
            logger.warning(f"the CPU is used: {problem}, or set misc.device=cpu")
        return torch.device("cpu")
    device = torch.device("cuda", _gpu_number(torch.cuda.device_count()))
    _check_kernels(device)
    torch.cuda.set_device(device)
    return device


def _gpu_number(visible: int) -> int:
    """The number of this process's GPU: its local rank, or 0 where each process sees its own alone."""
    launch = Launch.read()
    needed = launch.local_world_size or launch.local_rank + 1
    if visible != 1 and needed > visible:
        problem = f"{needed} processes of this machine need a GPU each, and {visible} are visible"
        error = UserError if launch.local_world_size else LaunchError  # else the others do not know
        raise error(
            f"misc.device: {problem}; start fewer processes, let each see one GPU of its own, or set "
            "misc.device=cpu"
        )
    return launch.local_rank % visible


def _build() -> str:
    """The version of PyTorch, and the CUDA that it is built for."""
    toolkits = {"CUDA": torch.version.cuda, "ROCm": torch.version.hip}
    built = [f"for {name} {version}" for name, version in toolkits.items() if version]
    return f"PyTorch {torch.__version__} (built {built[0] if built else 'for CPUs alone'})"


def _look_for_gpus() -> tuple[bool, str]:
    """Whether PyTorch can use a GPU, and what it says of one that it cannot use."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        is_available = torch.cuda.is_available()
    return is_available, " ".join(str(warning.message) for warning in said)


def _unused_gpu(reason: str) -> str | None:
    """A sentence on a GPU that PyTorch cannot use, with the versions of both; None: there is none to use."""
    driver = _driver_version()
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0") in HIDDEN or not (driver or reason):
        return None
    found = re.search(r"found version (\d+)", reason)  # 12020: CUDA 12.2
    major, minor = divmod(int(found[1]) // 10, 100) if found else (0, 0)
    supports = f", which supports CUDA {major}.{minor}" if found else f" ({reason:.200})" if reason else ""
    return (
        f"{_build()} cannot use this machine's GPU with the NVIDIA driver {driver or 'of unknown version'}"
        f"{supports}; update the driver, install a build of PyTorch for it (pytorch.org/get-started)"
    )


def _driver_version() -> str | None:
    """The version of the NVIDIA driver; None where there is no driver, or no GPU that it drives."""
    if DRIVER.exists():
        found = re.search(r"\b\d{3}\.\d+(\.\d+)?\b", DRIVER.read_text(encoding="utf-8"))
        return found[0] if found else None
    program = shutil.which("nvidia-smi")
    query = [str(program), "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        asked = (
            subprocess.run(query, capture_output=True, text=True, timeout=30, check=True) if program else None
        )
    except (OSError, subprocess.SubprocessError):  # it fails where there is no GPU
        return None
    return asked.stdout.partition("\n")[0].strip() or None if asked else None


def _check_kernels(device: torch.device) -> None:
    """Raise UserError where PyTorch has no kernels for the GPU: its first operation would fail."""
    major, minor = torch.cuda.get_device_capability(device)
    own, is_built = 10 * major + minor, []
    for kind, number in re.findall(r"\b(sm|compute)_(\d+)", " ".join(torch.cuda.get_arch_list())):
        built = int(number)  # binaries run on later ones of the same major version, PTX on all later ones
        is_built.append(built <= own and (kind == "compute" or built // 10 == major))
    if is_built and not any(is_built):
        raise UserError(
            f"misc.device: GPU {device.index} has compute capability {major}.{minor}, and {_build()} has "
            f"kernels for {', '.join(torch.cuda.get_arch_list())} alone; install a build for this GPU "
            "(docs/performance.md says which), or set misc.device=cpu"
        )


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """The dtype of autocast.

    `name` is "fp32", "bf16", "fp16", or "auto": fp32 on a CPU, bf16 on a GPU from Ampere on, else fp16.

    Raises:
        UserError: fp16 on a CPU.
    """
    if name == "fp16" and device.type == "cpu":
        raise UserError("misc.precision: fp16 needs a GPU; use fp32 (or auto) with misc.device=cpu")
    if name == "auto":
        if device.type == "cpu":
            return torch.float32
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]
