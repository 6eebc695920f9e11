"""What a checkpoint holds of a run, and how a run goes on from it."""

import logging
from typing import TYPE_CHECKING, Any

from misc import distributed
from misc.checkpoint import BEST, TRAINING_STATE, load_model_state
from misc.optim import load_optimizer_state, set_learning_rate
from misc.seed import random_state, restore_random_state
from options import UserError

if TYPE_CHECKING:
    from misc.engine import Trainer

logger = logging.getLogger(__name__)


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


def resume(trainer: "Trainer", state: dict[str, Any]) -> None:
    """Go on from a checkpoint exactly; with another number of processes the random states start anew.

    Raises:
        UserError: a checkpoint of another model, other frozen parts, or other steps; a damaged one.
    """
    try:
        _restore(trainer, state)
    except UserError:
        raise
    except Exception as error:  # whatever optimiser and generators make of a state that no run saved
        reason = f"{type(error).__name__}: {error!s:.150}"
        raise UserError(f"resume: the training state of the checkpoint is damaged ({reason})") from error


def _restore(trainer: "Trainer", state: dict[str, Any]) -> None:
    for name, kind in TRAINING_STATE.items():
        if not isinstance(state[name], kind):
            raise TypeError(f"'{name}' is no {kind.__name__}")
    load_model_state(trainer.model, state)
    _check_steps(state, trainer.options, len(trainer.train_loader))
    load_optimizer_state(trainer.optimizer, state["optimizer"])
    trainer.scaler.load_state_dict(state["scaler"])
    trainer.epoch, trainer.step = state["epoch"], state["step"]
    set_learning_rate(trainer.optimizer, trainer.schedule.learning_rate(max(0, trainer.step - 1)))
    trainer.numbers.skipped, trainer.images.names = state["skipped_steps"], list(state["bad_images"])
    if (trainer.saver.folder / BEST).exists():  # else, in a folder of its own, it has yet to find its best
        trainer.best = state["best"]
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
