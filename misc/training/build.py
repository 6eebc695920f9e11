"""Where the options become a trainer."""

import math
from collections.abc import Mapping
from pathlib import Path

import torch

from data.loaders import Loaders
from misc.checkpoints.saver import Saver
from misc.evaluation.evaluator import Evaluator
from misc.process.signals import StopSignals
from misc.training.division import Division
from misc.training.engine import Trainer
from misc.training.guards import BadImages, NonFiniteGuard
from misc.training.meters import Meter
from misc.training.noise_aware import MismatchRecorder
from misc.training.optimizer import build_optimizer
from misc.training.schedule import build_schedule
from model.objective import SumObjective
from model.tbps import TBPS
from options import Options, to_dict


def build_trainer(
    options: Options,
    model: TBPS,
    loaders: Loaders,
    evaluators: Mapping[str, Evaluator],
    device: torch.device,
    precision: torch.dtype,
    stop: StopSignals,
) -> Trainer:
    """The trainer that the options describe, at step 0."""
    schedule, log, training_set = options.schedule, options.log, loaders.training_set
    values = to_dict(options)
    saver = Saver(Path(options.output.dir), log.checkpoint_period, log.keep_checkpoints)
    select_on = options.eval.select_on
    return Trainer(
        model=model,
        optimizer=build_optimizer(model, schedule, model.objectives.values()),
        scaler=torch.amp.GradScaler(device.type, enabled=precision == torch.float16),
        schedule=build_schedule(values["schedule"], options.model.softlabel_ratio, len(loaders.train)),
        train_loader=loaders.train,
        non_finite=NonFiniteGuard(schedule.skip_nonfinite, training_set.image_names, saver.newest),
        bad_images=BadImages(training_set.check_bad_images),
        evaluators=evaluators,
        select_on=select_on if select_on in evaluators else "last",
        eval_period=options.eval.period,
        num_epochs=schedule.epoch,
        device=device,
        precision=precision,
        print_period=log.print_period,
        saver=saver,
        stop=stop,
        accumulate=schedule.accumulate,
        clip_grad_norm=schedule.clip_grad_norm or math.inf,
        patience=schedule.patience,
        options=values,
        samples=training_set.choices.digest(),
        meter=Meter(device),
        division=_division(options, model, loaders, device, precision),
        mismatches=MismatchRecorder(loaders.mismatches) if loaders.mismatches else None,
    )


def _division(
    options: Options, model: TBPS, loaders: Loaders, device: torch.device, precision: torch.dtype
) -> Division | None:
    experiment, parts, seed = options.experiment, options.schedule.accumulate, options.misc.seed
    if not experiment.ccd or not any(isinstance(each, SumObjective) for each in model.objectives.values()):
        return None
    first_epoch = experiment.ccd_first_epoch - 1
    mixture = {name: getattr(experiment, f"ccd_{name}") for name in ("max_iter", "tol", "reg_covar")}
    train, samples = loaders.train, loaders.training_set
    return Division(model, train, samples, device, precision, parts, mixture, seed, first_epoch)
