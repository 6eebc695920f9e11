"""How the learning rate and the soft label change from step to step."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, then cosine; steps and epochs count from 0 over the whole run.

    By step, exactly as in TBPS-CLIP's release: of n steps of the warm-up, step i has
    lr_start + (lr - lr_start) * i / (n - 1); of the m steps after them, step j has
    lr_end + (lr - lr_end) * (1 + cos(pi * j / m)) / 2.

    By epoch, as in IRRA's and RDE's, with one rate for all steps of an epoch: of n epochs of the warm-up,
    which need not be a whole number, epoch t has lr_start + (lr - lr_start) * t / n; of E epochs, a later one
    has lr_end + (lr - lr_end) * (1 + cos(pi * (t - n) / (E - n))) / 2.

    Attributes:
        lr_start: the rate at the first step of the warm-up.
        lr: the rate at its last step, and at the first one after it. A warm-up of one step has lr_start.
        lr_end: the rate that the cosine falls to, one step, or epoch, after the last.
        warmup_steps, total_steps: lengths in steps.
        soft_label: the final share a of the model's own prediction in the targets of N-ITC.
        steps_per_epoch: a rises linearly from 0 over that many steps, whatever the warm-up.
        warmup_epochs: n of a rate that moves by epoch; None: it moves by step.
    """

    lr_start: float
    lr: float
    lr_end: float
    warmup_steps: int
    total_steps: int
    soft_label: float
    steps_per_epoch: int
    warmup_epochs: float | None = None

    def learning_rate(self, step: int) -> float:
        """The learning rate of a step."""
        at, warmup, total, climb = step, self.warmup_steps, self.total_steps, max(1, self.warmup_steps - 1)
        if self.warmup_epochs is not None:
            at, total = step // self.steps_per_epoch, self.total_steps // self.steps_per_epoch
            warmup = climb = self.warmup_epochs
        if at < warmup:
            return self.lr_start + (self.lr - self.lr_start) * at / climb
        progress = (at - warmup) / max(1, total - warmup)
        return self.lr_end + (self.lr - self.lr_end) * (1 + math.cos(math.pi * progress)) / 2

    def soft_label_ratio(self, step: int) -> float:
        """The share a of the soft label at a step."""
        return self.soft_label * min(1.0, step / self.steps_per_epoch)


def rewritten_weight(epoch: int) -> float:
    """The weight of the losses on rewritten captions in an epoch, from 0 (ICL, CVPR 2025)."""
    return max(0.1, 1 - 0.03 * (epoch + 1))


def build_schedule(values: Mapping[str, Any], soft_label: float, steps_per_epoch: int) -> Schedule:
    """The schedule of epochs of that many steps.

    Args:
        values: the section `schedule` of the options, as plain values: of a run, or in its checkpoint.
        soft_label: as `Schedule` has it.
    """
    epochs, warmup = values["epoch"], values["epoch_warmup"]
    return Schedule(
        lr_start=values["lr_start"],
        lr=values["lr"],
        lr_end=values["lr_end"],
        warmup_steps=round(warmup * steps_per_epoch),
        total_steps=epochs * steps_per_epoch,
        soft_label=soft_label,
        steps_per_epoch=steps_per_epoch,
        warmup_epochs=warmup if values["rate_per"] == "epoch" else None,
    )
