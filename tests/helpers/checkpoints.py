"""The state that a checkpoint of a run holds, without a run."""

from typing import Any

import torch

from options import Options, to_dict


def state(step: float) -> dict[str, Any]:
    """Of a model of one tensor, in which every number is the step."""
    names = ("optimizer", "scaler", "best", "ranks", "steps_per_epoch", "skipped_steps", "bad_images")
    progress = {"epoch": step, "step": step, "options": to_dict(Options())}
    return {"model": {"w": torch.full((2,), step)}} | progress | {name: {} for name in names}
