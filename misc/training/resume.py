"""How a run resumes: exactly where its checkpoint stands, or not at all."""

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from misc.checkpoints.components import Best, State
from misc.checkpoints.read import BEST, LAST, older_checkpoints
from misc.process import distributed
from misc.training.engine import PRECISIONS, Trainer
from misc.training.optimizer import named_groups, set_learning_rate
from misc.training.schedule import build_schedule
from model.protocol import DualEncoder
from model.weights.pickles import read_pickled
from options import Options, UserError, to_dict

logger = logging.getLogger(__name__)

RATES = (  # what decides the rates
    *("lr", "lr_start", "lr_end", "epoch", "epoch_warmup", "rate_per"),
    *("ratio_factor", "bias_factor", "tse_lr", "grab_lr"),
)
UPDATES = ("optimizer", "weight_decay", "decay_on", "betas", "eps")  # what else decides an update
# These decide the samples of an epoch and their order.
SAMPLE_OPTIONS = (
    *("misc.seed", "data.languages", "data.language_draw", "data.few_shot", "data.few_shot_by"),
    *("data.noise", "data.sampler", "data.samples_per_identity", "experiment.rewrites"),
    *("data.shuffle_window", "data.shard_streams"),
)


def resume(trainer: Trainer, state: State | None, is_own: bool) -> None:
    """Resume exactly from a checkpoint; with another number of processes, with other random states.

    Args:
        state: None: the run starts from scratch.
        is_own: whether the checkpoint is from the run's own folder, which has its best epoch.

    Raises:
        UserError: a checkpoint of another model, other frozen parts, other steps or samples; a damaged one;
            or samples that are not the same on all ranks.
    """
    if state is not None:
        try:
            _restore(trainer, state, is_own)
        except UserError:
            raise
        except Exception as error:  # optimizer and generators raise any exception on a damaged state
            reason = f"{type(error).__name__}: {error!s:.150}"
            raise UserError(f"resume: the training state of the checkpoint is damaged ({reason})") from error
    _check_agreement(trainer)


def _check_agreement(trainer: Trainer) -> None:
    """Raise UserError on all ranks unless all have the same samples, which they share."""
    of_ranks = distributed.gather_objects(trainer.samples)
    for number, samples in enumerate(of_ranks):
        if samples != of_ranks[0]:
            raise UserError(
                f"data.annotation_file: process {number} has other training images or captions than process "
                "0; all machines need the same annotations"
            )


def remove_later(folder: Path, step: int, epoch: int) -> None:
    """Remove the checkpoints after this step and epoch, on rank 0: the run has gone back behind them."""
    if not distributed.is_main():
        return
    for path in (folder / LAST, folder / BEST, *older_checkpoints(folder)):
        try:
            state = read_pickled(path)
            is_later = (state["step"], state["epoch"]) > (step, epoch)
        except Exception:  # there is none, or none that can be read: no run resumes from it
            continue
        if is_later:
            try:
                path.unlink()
            except OSError as error:
                raise UserError(f"output.dir: '{path}' cannot be removed ({error.strerror})") from error
            logger.warning(f"removed '{path}' of step {state['step']}: the run resumes after step {step}")


def _restore(trainer: Trainer, state: State, is_own: bool) -> None:
    _check_steps(state, trainer.options, len(trainer.train_loader))
    _check_samples(state, trainer.options, trainer.samples)
    _check_hidden_settings(state, trainer.model.clip)
    trainer.components().load_state_dict(_with_scaler(state, trainer))
    trainer.best = distributed.broadcast_object(_best_so_far(trainer)) if is_own else {}
    if trainer.epoch < trainer.num_epochs:
        logger.info(f"resuming after step {trainer.step} of {trainer.schedule.total_steps}")
    else:
        _check_best(trainer)
    _set_rate(trainer, state)
    if len(state["ranks"]) != distributed.world_size() and distributed.is_main():
        logger.warning(
            f"the checkpoint is of {len(state['ranks'])} processes, not {distributed.world_size()}: "
            "dropout continues from other random states, so the result will differ slightly"
        )


def _with_scaler(state: State, trainer: Trainer) -> State:
    """The state, with the fresh loss scale of this run where it was not trained in fp16, and without a
    division where it has none. Warns of another precision; checkpoints of older versions tell only whether it
    was fp16.
    """
    own, was_fp16 = PRECISIONS[trainer.precision], bool(state["scaler"])
    before = state.get("precision", "fp16" if was_fp16 else "fp32 or bf16")
    if own not in before and distributed.is_main():
        logger.warning(
            f"misc.precision: the checkpoint was trained in {before}, this run computes in {own}: the result "
            f"will differ slightly{', and the search for the loss scale begins again' * (own == 'fp16')}"
        )
    return (
        {"precision": before, "division": {}, "mismatches": {}, "samples": ""}
        | state
        | ({} if was_fp16 else {"scaler": trainer.scaler.state_dict()})
    )


def _check_best(trainer: Trainer) -> None:
    """Say that a run is at its end; raises UserError where it has no best epoch to report either."""
    found = f"the checkpoint has {trainer.epoch} epochs, schedule.epoch is {trainer.num_epochs}"
    if not trainer.best:
        raise UserError(
            f"resume: nothing left to train ({found}), and '{trainer.saver.folder / BEST}' was not selected "
            f"on '{trainer.select_on}'; raise schedule.epoch, or use --evaluate"
        )
    logger.info(f"nothing left to train: {found}; reporting epoch {trainer.best['epoch']}, the best")


def _set_rate(trainer: Trainer, state: State) -> None:
    """Set the rate of the last step; warns of options that make the next one other than the checkpoint's."""
    own, step = trainer.schedule, trainer.step
    set_learning_rate(trainer.optimizer, own.learning_rate(max(0, step - 1)))
    if trainer.epoch >= trainer.num_epochs or not distributed.is_main():
        return
    now, was = trainer.options["schedule"], to_dict(Options())["schedule"] | state["options"]["schedule"]

    def changes(names: Sequence[str]) -> str:
        changed = [name for name in names if was[name] != now[name]]
        return "; ".join(f"schedule.{n} was {_text(was[n])}, is {_text(now[n])}" for n in changed)

    if changed := changes(UPDATES):
        logger.warning(f"the moments of the checkpoint are kept from step {step + 1} on, though {changed}")
    saved, groups = build_schedule(was, own.soft_label, own.steps_per_epoch), trainer.optimizer.param_groups
    old = {name: each for each in named_groups(state["optimizer"], groups) for name in each["names"]}
    for name, factor in ((name, group["lr_factor"]) for group in groups for name in group["names"]):
        before = saved.learning_rate(step) * old[name]["lr_factor"]
        after = own.learning_rate(step) * factor
        if not math.isclose(before, after, rel_tol=1e-6):
            logger.warning(
                f"the learning rate of step {step + 1} is {after:.2e}; by the options of the checkpoint it "
                f"would be {before:.2e}, and step {step} had {old[name]['lr']:.2e} ({changes(RATES)})"
            )
            return


def _best_so_far(trainer: Trainer) -> Best:
    """The best epoch, by `checkpoint_best.pth`; {} where that is later, or of another select_on."""
    try:
        state = read_pickled(trainer.saver.folder / BEST)
        epoch, rank1 = int(state["best"]["epoch"]), state["best"]["R1"]
        select_on = "last" if rank1 is None else state["options"]["eval"]["select_on"]
        best = {"epoch": epoch, "R1": rank1 if rank1 is None else float(rank1)}
        is_later = (state["step"], state["epoch"]) > (trainer.step, trainer.epoch)
    except Exception:  # there is none, or none that can be read
        return {}
    if select_on != trainer.select_on:
        logger.info(f"epoch {epoch} was the best on '{select_on}': selecting again, on '{trainer.select_on}'")
    return {} if is_later or select_on != trainer.select_on else best


def _check_samples(state: State, options: dict[str, Any], samples: str) -> None:
    """Raise UserError where the rest of an epoch would have other samples than its begin."""
    if 0 < state["step"] - state["epoch"] * state["steps_per_epoch"] < state["steps_per_epoch"]:
        defaults = to_dict(Options())  # of options that are newer than the checkpoint
        for section, name in (key.split(".") for key in SAMPLE_OPTIONS):
            now = options[section][name]
            before = (defaults[section] | state["options"][section])[name]
            if now != before:
                raise UserError(
                    f"{section}.{name}: the checkpoint is inside an epoch that was sampled with "
                    f"{_text(before)}; with {_text(now)} the rest of it would have other samples. Keep "
                    f"{_text(before)} until the end of the epoch"
                )
        if state.get("samples", samples) != samples:  # checkpoints of older versions have no digest
            raise UserError(
                "resume: the checkpoint is inside an epoch, and the training images or captions are not "
                "those that it began with; restore the files of data.annotation_file and data.noise, or "
                "resume from the end of an epoch"
            )


def _text(value: object) -> str:
    """The value of an option, as it is set."""
    return "null" if value is None else str(value)


def _check_hidden_settings(state: State, towers: DualEncoder) -> None:
    """Raise UserError where the towers differ from the checkpoint's in what no tensor shows."""
    for name, (value, null) in towers.hidden_settings().items():
        saved = state["options"]["model"].get(name)
        trained = null if saved is None else saved
        if trained not in (None, value):
            raise UserError(
                f"model.{name}: the checkpoint was trained with {trained}, these options and the weights "
                f"that they name give {value}; set model.{name}={trained}"
            )


def _check_steps(state: State, options: dict[str, Any], steps_per_epoch: int) -> None:
    """Raise UserError unless the checkpoint has as many samples a step, and steps an epoch."""
    before, now = len(state["ranks"]), distributed.world_size()
    was, own = (saved["data"]["batch_size"] for saved in (state["options"], options))
    samples = was * before
    if samples != own * now:
        fix = f"set data.batch_size={samples // now}" if samples % now == 0 else "start another number"
        raise UserError(
            f"data.batch_size: the checkpoint's steps take {samples} samples ({was} on each of {before} "
            f"processes), these would take {own * now} ({own} on each of {now}); {fix}"
        )
    if state["steps_per_epoch"] != steps_per_epoch:
        raise UserError(
            f"resume: the checkpoint's epochs have {state['steps_per_epoch']} steps, these would have "
            f"{steps_per_epoch}; keep the training data, the options that sample it (data.few_shot, "
            "data.languages, data.language_draw, data.sampler, data.samples_per_identity, data.drop_last) "
            "and, where that is false, the number of processes"
        )
