"""The training loop."""

import contextlib
import logging
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from misc.checkpoints.resume import state_of_rank, state_of_run
from misc.checkpoints.run_folder import BAD_IMAGES
from misc.checkpoints.saver import Saver
from misc.evaluation.evaluator import Evaluator
from misc.evaluation.tables import metrics_table
from misc.process import distributed
from misc.process.durable import write_text
from misc.process.logs import RunLog
from misc.process.signals import Stopped, StopSignals
from misc.training.accumulation import accumulate
from misc.training.guards import BadImages, NumberGuard
from misc.training.meters import Meter
from misc.training.optimizer import build_optimizer, set_learning_rate
from misc.training.schedule import Schedule, build_schedule
from options import Options, to_dict

logger = logging.getLogger(__name__)

NOTHING, SAVE, STOP = 0, 1, 2  # what a rank wants to be done after a step


@dataclass
class Trainer:
    """Everything a run trains with, and where it stands.

    Attributes:
        model: losses of a batch: `model(batch, soft_label) -> LossOutput`; not yet wrapped for several
            processes.
        train_loader: batches of one epoch; its batch sampler has `set_epoch(epoch, first_step)`, both counted
            from 0.
        evaluators: of "val" and "test", for the splits there are.
        select_on: split whose mean text-to-image R@1 picks the best epoch; "last": the last epoch is the
            best.
        numbers, images: watch over non-finite numbers and unreadable images.
        stop: signals that ask for an end.
        saver: writes the checkpoints.
        accumulate: parts of a batch that go through the towers one after another.
        clip_grad_norm: norm that gradients are cut to; infinite: none is.
        patience: epochs without a better R@1 after which the run ends; None: never.
        options: plain dict of all options, kept in the checkpoints.
        epoch, step: finished epochs and steps.
        best: the best epoch so far, {"epoch": ..., "R1": ...}.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    schedule: Schedule
    train_loader: Any
    numbers: NumberGuard
    images: BadImages
    evaluators: Mapping[str, Evaluator]
    select_on: str
    num_epochs: int
    device: torch.device
    precision: torch.dtype
    print_period: int
    saver: Saver
    stop: StopSignals
    accumulate: int
    clip_grad_norm: float
    patience: int | None
    options: dict[str, Any]
    epoch: int = 0
    step: int = 0
    best: dict[str, Any] = field(default_factory=dict)
    meter: Meter = field(default_factory=Meter)

    def fit(self) -> None:
        """Train the epochs that are left, evaluating and saving after each.

        Raises:
            Stopped: a signal asked for it; its text says what is saved.
        """
        # Gradients of parts are averaged here, and the wrapper would hold a second copy of them.
        wrapped = distributed.wrap(self.model, self.device) if self.accumulate == 1 else self.model
        vote, run = distributed.Vote(), RunLog(self.saver.folder, self.step, self.epoch)
        try:
            while self.epoch < self.num_epochs and not self._is_out_of_patience():
                self._train_epoch(wrapped, vote, run)
                self._finish_epoch(run)
            self.saver.finish()
        except Stopped as stopped:
            raise Stopped(self._farewell() if self.step else str(stopped)) from None
        finally:
            run.close()

    def _is_out_of_patience(self) -> bool:
        """Whether no epoch has been better for `patience` of them: as rank 0 sees it, for all."""
        waited = self.epoch - self.best["epoch"] if self.best else 0
        is_over = distributed.broadcast_object(self.patience is not None and waited >= self.patience)
        if is_over:
            logger.info(f"no better epoch for {waited}: training ends (schedule.patience)")
        return is_over

    def _train_epoch(self, wrapped: nn.Module, vote: distributed.Vote, run: RunLog) -> None:
        """Train the steps of the epoch that are left."""
        self.model.train()
        length, done = len(self.train_loader), self.step - self.epoch * len(self.train_loader)
        if done == length:  # a run that went on from a checkpoint before its evaluation
            return
        self.train_loader.batch_sampler.set_epoch(self.epoch, done)
        visible = distributed.is_main() and sys.stderr.isatty()
        title = f"epoch {self.epoch + 1}/{self.num_epochs}"
        with (
            self.stop.deferred(),
            logging_redirect_tqdm(),
            tqdm(total=length, initial=done, desc=title, disable=not visible) as bar,
        ):
            for batch in self.train_loader:
                vote.cast(self._wish())
                self.train_step(wrapped, batch)
                bar.update()
                if self.step % self.print_period == 0 or self.step % length == 0:
                    record = self._record()
                    bar.set_postfix(loss=f"{record['loss']:.3f}", lr=f"{record['lr']:.1e}")
                    run.write(record)
                wish = vote.result()
                if wish != NOTHING or self.step % length == 0:  # a signal cuts an evaluation off
                    self._save(is_best=False)
                if wish == STOP:
                    raise Stopped

    def _wish(self) -> int:
        if self.stop.requested:
            return STOP
        return SAVE if distributed.is_main() and self.saver.period.is_over(self.step + 1) else NOTHING

    def _farewell(self) -> str:
        name = self.stop.requested.name if self.stop.requested else "another process"
        return (
            f"stopped by {name} after step {self.step} of {self.schedule.total_steps}: "
            f"{self.saver.what_is_left(self.step)}; the same command with --resume auto goes on from there"
        )

    def train_step(self, wrapped: nn.Module, batch: Any) -> None:
        """Gradient, optimiser and sums of the log of one step; `distributed.wrap` made `wrapped`."""
        set_learning_rate(self.optimizer, self.schedule.learning_rate(self.step))
        self.images.add(batch.bad_images)
        self.optimizer.zero_grad(set_to_none=self.accumulate == 1)  # parts keep theirs in place
        output = self._losses(wrapped, batch)
        self.numbers.settle()  # the step before this one; by now the GPU has work again
        self.scaler.unscale_(self.optimizer)
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(trained, self.clip_grad_norm)
        # fp16 finds the scale of its losses by overflowing: a gradient is bad when no smaller scale is left.
        was_bad = ~norm.isfinite() & (self.scaler.scale(torch.ones_like(norm)) <= 1)
        if not self.scaler.is_enabled():
            # As a scaler does it: the fused step then changes nothing.
            self.optimizer.found_inf = was_bad.float()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        name = f"epoch {self.epoch + 1}, step {self.step}"
        self.numbers.watch(name, was_bad, output, norm, batch.indices)
        output.report["gradient_norm"] = norm
        self.meter.add(output, len(batch.person_ids), norm.isfinite())

    def _losses(self, wrapped: nn.Module, batch: Any) -> Any:
        """The losses of a batch; leaves their gradient, averaged over the ranks, in the parameters."""
        soft_label, is_half = self.schedule.soft_label_ratio(self.step), self.precision != torch.float32
        with torch.autocast(self.device.type, dtype=self.precision, enabled=is_half):
            if self.accumulate == 1:
                output = wrapped(batch.to(self.device, non_blocking=True), soft_label)
            else:
                output = accumulate(self.model, batch, soft_label, self.accumulate, self._scaled, self.device)
        if self.accumulate == 1:
            self._scaled(output.total).backward()
        else:
            distributed.average_gradients(self.model.parameters())
        return output

    def _scaled(self, total: torch.Tensor) -> torch.Tensor:
        """What the backward pass begins at: the loss, or where it is not finite NaN, for all ranks to see."""
        return self.scaler.scale(total * torch.where(total.detach().isfinite(), 1.0, torch.nan))

    def _record(self) -> dict[str, Any]:
        """The log record of the steps since the last one, also as a line of the log."""
        self._settle()
        meter, self.meter = self.meter, Meter()
        values, (rate, seconds_per_step) = meter.means(), meter.speed()
        loss = values.pop("loss")
        report = {name: values.pop(name) for name in meter.report}
        lr = self.schedule.learning_rate(self.step - 1)
        left = timedelta(seconds=round((self.schedule.total_steps - self.step) * seconds_per_step))
        parts = "  ".join(f"{name} {value:.4f}" for name, value in values.items())
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

    def _settle(self) -> None:
        """Hear of what went wrong so far, on all ranks."""
        self.numbers.settle()
        if new := self.images.settle():
            logger.warning("skipped, cannot be read: %s", ", ".join(new))
            if distributed.is_main():
                with contextlib.suppress(OSError):  # a full disk; the log has them, too
                    text = "".join(name + "\n" for name in self.images.names)
                    write_text(self.saver.folder / BAD_IMAGES, text)

    def _finish_epoch(self, run: RunLog) -> None:
        """Evaluate, settle whether this epoch is the best so far, and save."""
        results = {split: evaluator() for split, evaluator in self.evaluators.items()}
        with self.stop.deferred():
            self.epoch += 1
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
        self._settle()
        ranks = distributed.gather_objects(state_of_rank(self))
        if distributed.is_main():
            self.saver.save(state_of_run(self, ranks), is_best)
        self.saver.share()


def build_trainer(
    options: Options,
    model: nn.Module,
    loaders: Any,
    evaluators: Mapping[str, Evaluator],
    device: torch.device,
    precision: torch.dtype,
    stop: StopSignals,
) -> Trainer:
    """The trainer that the options describe, at step 0.

    Args:
        loaders: `train`, and `training_set` with `image_names` and `check_bad_images`.
    """
    schedule, log, training_set = options.schedule, options.log, loaders.training_set
    saver = Saver(Path(options.output.dir), log.checkpoint_period, log.keep_checkpoints)
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
        schedule=build_schedule(options, len(loaders.train)),
        train_loader=loaders.train,
        numbers=NumberGuard(schedule.skip_nonfinite, training_set.image_names, saver.newest),
        images=BadImages(training_set.check_bad_images),
        evaluators=evaluators,
        select_on=select_on if select_on in evaluators else "last",
        num_epochs=schedule.epoch,
        device=device,
        precision=precision,
        print_period=log.print_period,
        saver=saver,
        stop=stop,
        accumulate=schedule.accumulate,
        clip_grad_norm=schedule.clip_grad_norm or math.inf,
        patience=schedule.patience,
        options=to_dict(options),
    )
