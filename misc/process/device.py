"""The device of this process and the precision of its computations."""

import torch

from misc.process import distributed
from options import UserError


def pick_device(name: str) -> torch.device:
    """The device of this process: GPU number `local_rank` of its machine, or the CPU.

    `name` is "cpu", "cuda", or "auto": a GPU where there is one.

    Raises:
        UserError: a GPU is requested and there is none for this process.
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
    """The dtype of autocast. Turns TF32 off in convolutions, which has 10 bits of mantissa instead of 23.

    `name` is "fp32", "bf16", "fp16", or "auto": fp32 on a CPU, bf16 on a GPU from Ampere on, else fp16.

    Raises:
        UserError: fp16 on a CPU.
    """
    if name == "fp16" and device.type == "cpu":
        raise UserError("misc.precision: fp16 needs a GPU; use fp32 (or auto) with misc.device=cpu")
    torch.backends.cudnn.allow_tf32 = False
    if name == "auto":
        if device.type == "cpu":
            return torch.float32
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]
