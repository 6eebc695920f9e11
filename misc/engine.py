"""The training loop."""

import logging
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from misc import distributed
from misc.checkpoint import BEST, load_model_state, save_checkpoint
from misc.evaluate import Evaluator
from misc.logs import RunLog, metrics_table
from misc.meters import HostCopy, Meter
from misc.optim import build_optimizer, load_optimizer_state, set_learning_rate
from misc.schedule import Schedule
from misc.seed import random_state, restore_random_state
from options import Options, UserError, to_dict

logger = logging.getLogger(__name__)


@dataclass
class Trainer:
    """Everything a run trains with, and where it stands.

    Attributes:
        model: losses of a batch: `model(batch, soft_label) -> LossOutput`; not yet wrapped for several
            processes.
        train_loader: batches of one epoch; its batch sampler has `set_epoch(epoch)`, epochs counted from 0.
        image_names: sample indices -> the files of their images.
        evaluators: of "val" and "test", for the splits there are.
        select_on: split whose mean text-to-image R@1 picks the best epoch; "last": the last epoch is the
            best.
        options: plain dict of all options, kept in the checkpoints.
        epoch, step: finished epochs and steps.
        best: the best epoch so far, {"epoch": ..., "R1": ...}.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    schedule: Schedule
    train_loader: Any
    image_names: Callable[[Sequence[int]], list[str]]
    evaluators: Mapping[str, Evaluator]
    select_on: str
    num_epochs: int
    device: torch.device
    precision: torch.dtype
    print_period: int
    folder: Path
    options: dict[str, Any]
    epoch: int = 0
    step: int = 0
    best: dict[str, Any] = field(default_factory=dict)

    def fit(self) -> None:
        """Train the epochs that are left, evaluating and saving after each."""
        wrapped = distributed.wrap(self.model, self.device)
        run = RunLog(self.folder, self.step)
        try:
            while self.epoch < self.num_epochs:
                self._train_epoch(wrapped, run)
                self.epoch += 1
                self._finish_epoch(run)
        finally:
            run.close()

    def _train_epoch(self, wrapped: nn.Module, run: RunLog) -> None:
        self.model.train()
        self.train_loader.batch_sampler.set_epoch(self.epoch)
        meter = Meter()
        visible = distributed.is_main() and sys.stderr.isatty()
        title = f"epoch {self.epoch + 1}/{self.num_epochs}"
        with (
            logging_redirect_tqdm(),
            tqdm(total=len(self.train_loader), desc=title, disable=not visible) as bar,
        ):
            for batch in self.train_loader:
                self._train_step(wrapped, batch.to(self.device, non_blocking=True), meter)
                bar.update()
                if self.step % self.print_period == 0 or self.step % len(self.train_loader) == 0:
                    record = self._record(meter)
                    bar.set_postfix(loss=f"{record['loss']:.3f}", lr=f"{record['lr']:.1e}")
                    run.write(record)
                    meter = Meter()

    def _train_step(self, wrapped: nn.Module, batch: Any, meter: Meter) -> None:
        set_learning_rate(self.optimizer, self.schedule.learning_rate(self.step))
        with torch.autocast(self.device.type, dtype=self.precision, enabled=self.precision != torch.float32):
            output = wrapped(batch, self.schedule.soft_label_ratio(self.step))
        total = HostCopy(output.total)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(output.total).backward()
        if not math.isfinite(total.read()):
            self._stop_for(output, batch)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        meter.add(output, len(batch.person_ids))

    def _stop_for(self, output: Any, batch: Any) -> None:
        parts = ", ".join(f"{name} {value.item():.4g}" for name, value in output.parts.items())
        names = self.image_names(batch.indices.tolist())
        logger.error("images of the batch: %s", ", ".join(names))
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        raise UserError(
            f"the loss is not finite at epoch {self.epoch + 1}, step {self.step + 1} ({parts}), images "
            f"{', '.join(names[:4])}{more}: this step was not "
            "made, the checkpoints are of the epochs before. Try a lower schedule.lr, or misc.precision=fp32"
        )

    def _record(self, meter: Meter) -> dict[str, Any]:
        """The log record of the steps since the last one, also as a line of the log."""
        values, rate = meter.means()
        loss = values.pop("loss")
        report = {name: values.pop(name) for name in meter.report}
        lr = self.schedule.learning_rate(self.step - 1)
        left = (
            (self.schedule.total_steps - self.step)
            * meter.samples
            * distributed.world_size()
            / meter.steps
            / rate
        )
        parts = "  ".join(f"{name} {value:.4f}" for name, value in values.items())
        left = timedelta(seconds=round(left))
        logger.info(
            f"epoch {self.epoch + 1}/{self.num_epochs}  step {self.step}/{self.schedule.total_steps}  "
            f"loss {loss:.4f}  {parts}  lr {lr:.2e}  {rate:.0f} samples/s  {left} left"
        )
        return {
            "kind": "train",
            "epoch": self.epoch + 1,
            "step": self.step,
            "steps_per_epoch": len(self.train_loader),
            "lr": lr,
            "loss": loss,
            "parts": values,
            **report,
            "samples_per_second": rate,
        }

    def _finish_epoch(self, run: RunLog) -> None:
        """Evaluate, settle whether this epoch is the best so far, and save."""
        results = {split: evaluator() for split, evaluator in self.evaluators.items()}
        selected = results.get(self.select_on, {}).get("average", {}).get("t2i", {}).get("R1")
        is_best = selected is None or not self.best or selected > self.best["R1"]
        if is_best:
            self.best = {"epoch": self.epoch, "R1": selected}
        for split, figures in results.items():
            record = {"kind": "eval", "epoch": self.epoch, "step": self.step, "split": split}
            run.write(record | figures | {"best": is_best})
            logger.info(f"epoch {self.epoch}/{self.num_epochs}  {split}\n{metrics_table(figures)}")
        self._save(is_best)

    def _save(self, is_best: bool) -> None:
        random = distributed.gather_objects(random_state(self.device))
        if distributed.is_main():
            state = {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "epoch": self.epoch,
                "step": self.step,
                "best": self.best,
                "random": random,
                "steps_per_epoch": len(self.train_loader),
                "options": self.options,
            }
            save_checkpoint(state, self.folder, is_best)
        distributed.wait_for_all()  # no rank may go on to read a checkpoint that is still being written

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint exactly; with another number of processes the random states start anew.

        Raises:
            UserError: a checkpoint of another model, other frozen parts, or another length of the epoch.
        """
        load_model_state(self.model, state)
        if state["steps_per_epoch"] != len(self.train_loader):
            raise UserError(
                f"resume: the checkpoint's epochs have {state['steps_per_epoch']} steps, these would have "
                f"{len(self.train_loader)}; keep the training data and data.batch_size x processes"
            )
        load_optimizer_state(self.optimizer, state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.epoch, self.step = state["epoch"], state["step"]
        if (self.folder / BEST).exists():  # else this run, in a folder of its own, has yet to find its best
            self.best = state["best"]
        if len(state["random"]) == distributed.world_size():
            restore_random_state(state["random"][distributed.rank()], self.device)
        else:
            logger.warning(
                f"the checkpoint is of {len(state['random'])} processes, not {distributed.world_size()}: "
                "dropout goes on from other random states, so the result will differ slightly"
            )


def build_trainer(
    options: Options,
    model: nn.Module,
    train_loader: Any,
    image_names: Callable[[Sequence[int]], list[str]],
    evaluators: Mapping[str, Evaluator],
    device: torch.device,
    precision: torch.dtype,
) -> Trainer:
    """The trainer that the options describe, at step 0."""
    schedule, steps_per_epoch = options.schedule, len(train_loader)
    select_on = options.eval.select_on
    return Trainer(
        model=model,
        optimizer=build_optimizer(
            model,
            schedule.weight_decay,
            schedule.betas,
            schedule.eps,
            model.fast_parameters(),
            schedule.ratio_factor,
        ),
        scaler=torch.amp.GradScaler(device.type, enabled=precision == torch.float16),
        schedule=Schedule(
            lr_start=schedule.lr_start,
            lr=schedule.lr,
            lr_end=schedule.lr_end,
            warmup_steps=round(schedule.epoch_warmup * steps_per_epoch),
            total_steps=schedule.epoch * steps_per_epoch,
            soft_label=options.model.softlabel_ratio,
            steps_per_epoch=steps_per_epoch,
        ),
        train_loader=train_loader,
        image_names=image_names,
        evaluators=evaluators,
        select_on=select_on if select_on in evaluators else "last",
        num_epochs=schedule.epoch,
        device=device,
        precision=precision,
        print_period=options.log.print_period,
        folder=Path(options.output.dir),
        options=to_dict(options),
    )
