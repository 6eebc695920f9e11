"""What a checkpoint holds of a run, and how a run goes on from it."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from misc.checkpoints.checkpoint import BEST, LAST, TRAINING_STATE, load_model_state, older_checkpoints
from misc.process import distributed
from misc.process.seed import random_state, restore_random_state
from misc.training.optimizer import load_optimizer_state, set_learning_rate
from model.weights.pickles import read_pickled
from options import UserError

if TYPE_CHECKING:
    from misc.training.engine import Trainer

logger = logging.getLogger(__name__)

# What the samples of an epoch are, and their order.
DRAWN_BY = ("misc.seed", "data.languages", "data.language_draw", "data.few_shot", "data.few_shot_by")


def state_of_rank(trainer: "Trainer") -> dict[str, Any]:
    """What each rank has of its own."""
    return {"random": random_state(trainer.device), "meter": trainer.meter.state_dict()}


def state_of_run(trainer: "Trainer", ranks: list[dict[str, Any]]) -> dict[str, Any]:
    """The content of a checkpoint: plain tensors, dicts, lists and numbers.

    Where in the epoch the run stands follows from `step`, and what its samples look like from seed, epoch and
    index, so loader and workers have no state to keep.

    Args:
        ranks: `state_of_rank` of all of them.
    """
    return {
        "model": trainer.model.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "scaler": trainer.scaler.state_dict(),
        "epoch": trainer.epoch,
        "step": trainer.step,
        "steps_per_epoch": len(trainer.train_loader),
        "best": trainer.best,
        "ranks": ranks,
        "skipped_steps": trainer.numbers.skipped,
        "bad_images": trainer.images.names,
        "options": trainer.options,
    }


def resume(trainer: "Trainer", state: dict[str, Any] | None, is_own: bool) -> None:
    """Go on from a checkpoint exactly; with another number of processes the random states start anew.

    Args:
        state: None: the run begins.
        is_own: whether the checkpoint is of the run's own folder; later ones there are removed.

    Raises:
        UserError: a checkpoint of another model, other frozen parts, other steps or samples; a damaged one;
            not the same on all ranks.
    """
    if state is not None:
        try:
            _restore(trainer, state, is_own)
        except UserError:
            raise
        except Exception as error:  # whatever optimiser and generators make of a state that no run saved
            reason = f"{type(error).__name__}: {error!s:.150}"
            raise UserError(f"resume: the training state of the checkpoint is damaged ({reason})") from error
    _check_agreement(trainer)
    if state is not None and is_own and distributed.is_main():
        _remove_later(trainer.saver.folder, trainer.step, trainer.epoch)


def _check_agreement(trainer: "Trainer") -> None:
    """Raise UserError on all ranks unless all stand at the same step: else they would wait for each other."""
    places = distributed.gather_objects((trainer.step, trainer.epoch))
    for number, place in enumerate(places):
        if place != places[0]:
            raise UserError(
                f"output.dir: process 0 would go on after step {places[0][0]}, process {number} after step "
                f"{place[0]}: they do not read the same checkpoint. '{trainer.saver.folder}' must be one "
                "folder, shared by all machines"
            )


def _remove_later(folder: Path, step: int, epoch: int) -> None:
    """Remove the checkpoints after this step and epoch: the run has gone back, and leaves their course."""
    for path in (folder / LAST, folder / BEST, *older_checkpoints(folder)):
        try:
            state = read_pickled(path)
            is_later = (state["step"], state["epoch"]) > (step, epoch)
        except Exception:  # there is none, or none that can be read: nothing goes on from it
            continue
        if is_later:
            try:
                path.unlink()
            except OSError as error:
                raise UserError(f"output.dir: '{path}' cannot be removed ({error.strerror})") from error
            logger.warning(f"removed '{path}' of step {state['step']}: the run goes on after step {step}")


def _restore(trainer: "Trainer", state: dict[str, Any], is_own: bool) -> None:
    for name, kind in TRAINING_STATE.items():
        if not isinstance(state[name], kind):
            raise TypeError(f"'{name}' is no {kind.__name__}")
    load_model_state(trainer.model, state)
    _check_steps(state, trainer.options, len(trainer.train_loader))
    _check_samples(state, trainer.options)
    load_optimizer_state(trainer.optimizer, state["optimizer"])
    trainer.scaler.load_state_dict(state["scaler"])
    trainer.epoch, trainer.step = state["epoch"], state["step"]
    set_learning_rate(trainer.optimizer, trainer.schedule.learning_rate(max(0, trainer.step - 1)))
    trainer.numbers.skipped, trainer.images.names = state["skipped_steps"], list(state["bad_images"])
    if is_own:  # else it has yet to find its best
        trainer.best = _best_so_far(trainer)
    if not trainer.best and trainer.epoch >= trainer.num_epochs:
        raise UserError(
            f"resume: the checkpoint is at the end of its {trainer.epoch} epochs, and "
            f"'{trainer.saver.folder / BEST}' is none that was picked on '{trainer.select_on}'; raise "
            "schedule.epoch, or use --evaluate"
        )
    logger.info(f"goes on after step {trainer.step} of {trainer.schedule.total_steps}")
    if len(state["ranks"]) == distributed.world_size():
        own = state["ranks"][distributed.rank()]
        restore_random_state(own["random"], trainer.device)
        trainer.meter.load_state_dict(own["meter"], trainer.device)
    elif distributed.is_main():
        logger.warning(
            f"the checkpoint is of {len(state['ranks'])} processes, not {distributed.world_size()}: "
            "dropout goes on from other random states, so the result will differ slightly"
        )


def _best_so_far(trainer: "Trainer") -> dict[str, Any]:
    """The best epoch, as `checkpoint_best.pth` says; none where that is later, or of another select_on."""
    try:
        state = read_pickled(trainer.saver.folder / BEST)
        epoch, rank1 = int(state["best"]["epoch"]), state["best"]["R1"]
        select_on = "last" if rank1 is None else state["options"]["eval"]["select_on"]
        best = {"epoch": epoch, "R1": rank1 if rank1 is None else float(rank1)}
        is_later = (state["step"], state["epoch"]) > (trainer.step, trainer.epoch)
    except Exception:  # there is none, or none that can be read
        return {}
    if select_on != trainer.select_on:
        logger.info(f"epoch {epoch} was the best on '{select_on}': picked anew, on '{trainer.select_on}'")
    return {} if is_later or select_on != trainer.select_on else best


def _check_samples(state: dict[str, Any], options: dict[str, Any]) -> None:
    """Raise UserError where the rest of an epoch that was begun would be drawn otherwise."""
    if 0 < state["step"] - state["epoch"] * state["steps_per_epoch"] < state["steps_per_epoch"]:
        for section, name in (key.split(".") for key in DRAWN_BY):
            now = options[section][name]
            before = state["options"][section].get(name, now)
            if now != before:
                raise UserError(
                    f"{section}.{name}: the checkpoint is inside an epoch that was drawn with {before}; with "
                    f"{now} some samples would come twice and others not at all. Keep {before} to its end"
                )


def _check_steps(state: dict[str, Any], options: dict[str, Any], steps_per_epoch: int) -> None:
    """Raise UserError unless the steps of a checkpoint take as many samples, of as many, as these do."""
    before, now = len(state["ranks"]), distributed.world_size()
    was, own = (saved["data"]["batch_size"] for saved in (state["options"], options))
    samples = was * before
    if samples != own * now:
        mend = f"set data.batch_size={samples // now}" if samples % now == 0 else "start another number"
        raise UserError(
            f"data.batch_size: the checkpoint's steps take {samples} samples ({was} on each of {before} "
            f"processes), these would take {own * now} ({own} on each of {now}); {mend}"
        )
    if state["steps_per_epoch"] != steps_per_epoch:
        raise UserError(
            f"resume: the checkpoint's epochs have {state['steps_per_epoch']} steps, these would have "
            f"{steps_per_epoch}; keep the training data, and what is drawn of it (data.few_shot, "
            "data.languages, data.language_draw)"
        )
