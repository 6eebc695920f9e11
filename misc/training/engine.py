"""The training loop."""

import logging
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from data.sampler import TrainLoader
from data.types import Batch
from misc.checkpoints.components import Best, Components, RandomState, State
from misc.checkpoints.saver import Saver
from misc.evaluation.evaluator import Evaluator
from misc.evaluation.tables import metrics_table
from misc.process import distributed
from misc.process.logs import RunLog
from misc.process.signals import Stopped, StopSignals
from misc.training.accumulation import SharedGradients, accumulate
from misc.training.division import Division
from misc.training.guards import BadImages, NonFiniteGuard, is_over
from misc.training.meters import Meter
from misc.training.noise_aware import MismatchRecorder
from misc.training.optimizer import Adam, AdamW, set_learning_rate
from misc.training.schedule import Schedule, rewritten_weight
from model.tbps import TBPS, LossOutput

logger = logging.getLogger(__name__)

PRECISIONS = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
# What a rank asks for after a step; the largest number wins. A signal to stop is STOP and its own number.
CONTINUE, SAVE, STOP = 0, 1, 2
OF_SOME_RUNS = ("division", "mismatches")  # components of a trainer


@dataclass
class Trainer:
    """Everything a run trains with, and how far it is.

    Attributes:
        model: not wrapped for several processes.
        train_loader: its batch sampler has `set_epoch(epoch, first_step)`, both counted from 0.
        evaluators: of "val" and "test", for the splits there are.
        select_on: split whose mean text-to-image R@1 selects the best epoch; "last": the last is.
        eval_period: epochs between two evaluations; the last epoch is always evaluated.
        precision: torch.float32, or what autocast computes in.
        accumulate: parts of a batch that go through the towers one after another.
        clip_grad_norm: maximum norm of the gradients; infinity: they are not clipped.
        patience: epochs without a better R@1 after which the run ends; None: never.
        options: all options as plain values, kept in the checkpoints.
        samples: the digest of the training samples.
        division: weights the samples of each epoch in some losses; None: all of them count.
        mismatches: keeps the mismatch of the tokens for the masks of the next epoch; None: none is needed.
        epoch, step: finished epochs and steps.
    """

    model: TBPS
    optimizer: AdamW | Adam
    scaler: torch.amp.GradScaler
    schedule: Schedule
    train_loader: TrainLoader
    non_finite: NonFiniteGuard
    bad_images: BadImages
    evaluators: Mapping[str, Evaluator]
    select_on: str
    eval_period: int
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
    samples: str
    meter: Meter
    division: Division | None = None
    mismatches: MismatchRecorder | None = None
    epoch: int = 0
    step: int = 0
    best: Best = field(default_factory=Best)

    def fit(self) -> None:
        """Train the remaining epochs, with an evaluation and a checkpoint after each.

        Raises:
            Stopped: a signal asked for it; its text says what is saved.
        """
        distributed.broadcast_model(self.model)
        # The wrapper exchanges gradients in every backward pass; of accumulated ones, the last one alone may.
        wrapped = distributed.wrap(self.model, self.device) if self.accumulate == 1 else self.model
        vote, run = distributed.Vote(), RunLog(self.saver.folder, self.step, self.epoch)
        try:
            while self.epoch < self.num_epochs and not is_over(self.patience, self.epoch, self.best):
                self._train_epoch(wrapped, vote, run)
                self._finish_epoch(run)
            self.saver.finish()
        except Stopped as stopped:
            raise Stopped(self._stop_message() if self.step else str(stopped)) from None
        finally:
            run.close()

    def _train_epoch(self, wrapped: nn.Module, vote: distributed.Vote, run: RunLog) -> None:
        """Train the remaining steps of the epoch."""
        self.model.train()
        length, done = len(self.train_loader), self.step - self.epoch * len(self.train_loader)
        if done == length:  # resumed from the checkpoint before the epoch's evaluation
            return
        visible = distributed.is_main() and sys.stderr.isatty()
        title = f"epoch {self.epoch + 1}/{self.num_epochs}"
        with (
            self.stop.deferred(),
            logging_redirect_tqdm(),
            tqdm(total=length, initial=done, desc=title, disable=not visible) as bar,
        ):
            if self.mismatches:
                self.mismatches.begin(self.epoch, done)
            self._divide(vote, run)
            bar.unpause()  # its clock is that of the steps
            self.train_loader.batch_sampler.set_epoch(self.epoch, done)
            batches = iter(self.train_loader)  # starts the workers
            with self.meter.running():
                for batch in batches:
                    vote.cast(self._request())
                    self.train_step(wrapped, batch)
                    bar.update()
                    if self.step % self.print_period == 0 or self.step % length == 0:
                        record = self._log_record()
                        with self.meter.paused():
                            bar.set_postfix(loss=f"{record['loss']:.3f}", lr=f"{record['lr']:.1e}")
                            run.write(record)
                    request = vote.result()
                    if request != CONTINUE or self.step % length == 0:  # a signal may cut the evaluation off
                        with self.meter.paused():
                            self._save(is_best=False)
                    self._stop_if(request)

    def _divide(self, vote: distributed.Vote, run: RunLog) -> None:
        """Divide the samples before their epoch; a run that resumes inside it has the division already."""
        if self.division and self.division.is_due(self.epoch):
            record = self.division.divide(self.epoch, partial(self._until_stopped, vote))
            run.write(record | {"step": self.step + 1})

    def _until_stopped(self, vote: distributed.Vote, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches, up to one during which a signal asks a process to stop."""
        for batch in batches:
            vote.cast(self._request())
            yield batch
            self._stop_if(vote.result())

    def _stop_if(self, request: int) -> None:
        if request >= STOP:
            self.stop.requested = signal.Signals(request - STOP)
            raise Stopped

    def train_step(self, wrapped: nn.Module, batch: Batch) -> None:
        """One step: forward, backward, update; `wrapped` is the model through `distributed.wrap`."""
        set_learning_rate(self.optimizer, self.schedule.learning_rate(self.step))
        self.model.step = self.step
        batch.weights = self.division.weights(self.epoch, batch.indices) if self.division else None
        batch.rewritten_weight = rewritten_weight(self.epoch)
        self.optimizer.zero_grad(set_to_none=self.accumulate == 1)  # accumulation adds to gradients in place
        output = self._backward(wrapped, batch)
        self.non_finite.check()  # the previous step; the GPU is at work on this one meanwhile
        if self.mismatches:
            self.mismatches.add(batch, output.mismatch)
        norm, is_bad = self._update()
        self.step += 1
        self.bad_images.add(batch.bad_images)
        self.non_finite.watch(
            f"epoch {self.epoch + 1}, step {self.step}", is_bad, output, norm, batch.indices
        )
        output.report["gradient_norm"] = norm
        num_samples = batch.num_samples or len(batch.person_ids) * distributed.world_size()
        self.meter.add(output, num_samples / distributed.world_size(), norm.isfinite())

    def _backward(self, wrapped: nn.Module, batch: Batch) -> LossOutput:
        """The losses of a batch; their gradients, averaged over the ranks, are left in the parameters."""
        soft_label, is_half = self.schedule.soft_label_ratio(self.step), self.precision != torch.float32
        num_samples = batch.num_samples or len(batch.person_ids) * distributed.world_size()
        num_parts = min(self.accumulate, num_samples // distributed.world_size())  # alike on all ranks
        with torch.autocast(self.device.type, dtype=self.precision, enabled=is_half):
            if self.accumulate > 1:
                where = (self.device, self._shared_gradients)
                return accumulate(self.model, batch, soft_label, num_parts, self._scaled, *where)
            output = wrapped(batch.to(self.device, non_blocking=True), soft_label)
        self._scaled(output.total).backward()
        return output

    @cached_property
    def _shared_gradients(self) -> SharedGradients | None:
        """Of accumulated gradients; None where there is one process."""
        return SharedGradients(self.model) if distributed.world_size() > 1 else None

    def _scaled(self, total: Tensor) -> Tensor:
        """What the backward pass starts from; NaN for a loss that is not finite, for all ranks to see."""
        return self.scaler.scale(total * torch.where(total.detach().isfinite(), 1.0, torch.nan))

    def _update(self) -> tuple[Tensor, Tensor]:
        """Clip the gradients and update the parameters, where the gradients are finite.

        Returns two scalars, alike on all ranks: the norm before clipping, and whether it is not finite though
        fp16's loss scale cannot get smaller (it is found by overflows).
        """
        self.scaler.unscale_(self.optimizer)
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(trained, self.clip_grad_norm)
        is_bad = ~norm.isfinite() & (self.scaler.scale(torch.ones_like(norm)) <= 1)
        if not self.scaler.is_enabled():
            self.optimizer.found_inf = is_bad.float()  # as GradScaler does: the fused step changes nothing
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return norm, is_bad

    def _finish_epoch(self, run: RunLog) -> None:
        """Evaluate, decide whether this epoch is the best so far, and save."""
        is_due = (self.epoch + 1) % self.eval_period == 0 or self.epoch + 1 == self.num_epochs
        results = {split: evaluator() for split, evaluator in self.evaluators.items() if is_due}
        with self.stop.deferred():
            self.epoch += 1
            selected = results.get(self.select_on, {}).get("average", {}).get("t2i", {}).get("R1")
            is_best = is_due and (selected is None or not self.best or selected > self.best["R1"])
            if is_best:
                self.best = {"epoch": self.epoch, "R1": selected}
            for split, figures in results.items():
                record = {"kind": "eval", "epoch": self.epoch, "step": self.step, "split": split}
                run.write(record | figures | {"best": is_best})
                logger.info(f"epoch {self.epoch}/{self.num_epochs}  {split}\n{metrics_table(figures)}")
            self._save(is_best)

    def _request(self) -> int:
        if self.stop.requested:
            return STOP + self.stop.requested
        return SAVE if distributed.is_main() and self.saver.period.is_over(self.step + 1) else CONTINUE

    def _stop_message(self) -> str:
        name = self.stop.requested.name if self.stop.requested else "another process"
        return (
            f"stopped by {name} after step {self.step} of {self.schedule.total_steps}: "
            f"{self.saver.status(self.step)}; resume with the same command and --resume auto"
        )

    def _log_record(self) -> dict[str, Any]:
        """The record of the steps since the last one, also logged as a line."""
        self._check_guards()
        values, cost, num_steps = self.meter.means(), self.meter.cost(), self.meter.steps
        report = {name: values.pop(name) for name in self.meter.report}
        self.meter.reset()
        loss, lr = values.pop("loss"), self.schedule.learning_rate(self.step - 1)
        num_left = self.schedule.total_steps - self.step
        remaining = timedelta(seconds=round(num_left * cost["seconds"] / num_steps))
        rate = cost["samples_per_second"]
        parts = "  ".join(f"{name} {value:.4f}" for name, value in values.items())
        logger.info(
            f"epoch {self.epoch + 1}/{self.num_epochs}  step {self.step}/{self.schedule.total_steps}  "
            f"loss {loss:.4f}  {parts}  lr {lr:.2e}  {rate:.0f} samples/s  {remaining} left"
        )
        place = {"epoch": self.epoch + 1, "step": self.step, "steps_per_epoch": len(self.train_loader)}
        return {"kind": "train", **place, "lr": lr, "loss": loss, "parts": values, **report, **cost}

    def _check_guards(self) -> None:
        self.non_finite.check()
        self.bad_images.share(self.saver.folder)

    def _save(self, is_best: bool) -> None:
        self._check_guards()
        if self.mismatches:
            self.mismatches.flush()
        state = self.components().state_dict()
        if distributed.is_main():
            self.saver.save(state, is_best)
        self.saver.share()

    def components(self) -> Components:
        """What a checkpoint holds. Loader and workers have no state: it follows from seed, epoch and step."""
        return Components(
            named={"model": self.model, "optimizer": self.optimizer, "scaler": self.scaler}
            | {name: part for name in OF_SOME_RUNS if (part := getattr(self, name))},
            plain=[self, self.non_finite, self.bad_images],
            per_rank={"random": RandomState(self.device), "meter": self.meter},
            options=self.options,
        )

    def state_dict(self) -> State:
        """How far the run is, and what it computes in."""
        place = {"epoch": self.epoch, "step": self.step, "steps_per_epoch": len(self.train_loader)}
        return place | {"best": self.best, "precision": PRECISIONS[self.precision], "samples": self.samples}

    def load_state_dict(self, state: State) -> None:
        """Continue from there; `misc.training.resume` checks that the epochs have as many steps."""
        self.epoch, self.step, self.best = state["epoch"], state["step"], state["best"]
