"""How the learning rate and the soft label change from step to step."""

import math
from dataclasses import dataclass

from options import Options


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, then cosine, exactly as in TBPS-CLIP's release; steps count from 0 over the whole run.

    Of n steps of the warm-up, step i has lr_start + (lr - lr_start) * i / (n - 1); of the m steps after them,
    step j has lr_end + (lr - lr_end) * (1 + cos(pi * j / m)) / 2.

    Attributes:
        lr_start, lr: the rate at the first and the last step of the warm-up; a single step has lr_start.
        lr_end: the rate that the cosine falls to, one step after the last.
        warmup_steps, total_steps: lengths in steps.
        soft_label: the final share a of the model's own prediction in the targets of N-ITC.
        steps_per_epoch: a rises linearly from 0 over that many steps, whatever the warm-up.
    """

    lr_start: float
    lr: float
    lr_end: float
    warmup_steps: int
    total_steps: int
    soft_label: float
    steps_per_epoch: int

    def learning_rate(self, step: int) -> float:
        """The learning rate of a step."""
        if step < self.warmup_steps:
            return self.lr_start + (self.lr - self.lr_start) * step / max(1, self.warmup_steps - 1)
        progress = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        return self.lr_end + (self.lr - self.lr_end) * (1 + math.cos(math.pi * progress)) / 2

    def soft_label_ratio(self, step: int) -> float:
        """The share a of the soft label at a step."""
        return self.soft_label * min(1.0, step / self.steps_per_epoch)


def build_schedule(options: Options, steps_per_epoch: int) -> Schedule:
    """The schedule that the options describe, for epochs of that many steps."""
    schedule = options.schedule
    return Schedule(
        lr_start=schedule.lr_start,
        lr=schedule.lr,
        lr_end=schedule.lr_end,
        warmup_steps=round(schedule.epoch_warmup * steps_per_epoch),
        total_steps=schedule.epoch * steps_per_epoch,
        soft_label=options.model.softlabel_ratio,
        steps_per_epoch=steps_per_epoch,
    )
