"""Text-based person search: train a model that finds people by description, or evaluate one.

    torchrun --nproc_per_node=4 main.py [--simplified]    train the full recipe, or the simplified one
    python main.py --evaluate FILE                        evaluate a checkpoint, or saved features

config/config.yaml lists every option with its meaning; `section.name=value` on the command line overrides it.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from config.command_line import Flags, parse_command_line
from misc.cli import exit_status
from misc.process.signals import StopSignals
from options import Options, UserError, unused_at_test

if TYPE_CHECKING:
    import torch

    Setting = tuple[torch.device, torch.dtype]  # what a run computes on, and in


def train(options: Options, flags: Flags, folder: Path, setting: "Setting", stop: StopSignals) -> None:
    """Train, evaluate after every epoch, and report the test results of the best one."""
    from data.annotations import load_data
    from data.loaders import build_loaders, load_test_sets
    from misc.checkpoints import run_folder
    from misc.checkpoints.components import load_model_state
    from misc.checkpoints.read import BEST, find_checkpoint, is_of_folder, load_checkpoint
    from misc.checkpoints.run_options import check_start
    from misc.checkpoints.write import check_space
    from misc.evaluation.evaluator import build_evaluators, encode_all
    from misc.process import distributed
    from misc.process.seed import seed_process
    from misc.report.model_card import Outcome, write_model_card
    from misc.report.reporter import build_reporter, report_curves
    from misc.training.build import build_trainer
    from misc.training.resume import remove_later, resume
    from model import build_model, with_hidden_settings

    is_own = is_of_folder(flags.resume, folder)
    if not is_own:
        run_folder.refuse_to_overwrite(folder, options.output.overwrite)
    state = find_checkpoint(flags.resume, folder)
    splits = load_data(options)
    tests = load_test_sets(options, splits)
    reporter = build_reporter(options, folder, tests, flags.save_rankings, flags.save_features)
    check_start(options)
    seed_process(options.misc.seed)
    model, tokenizer, processor = build_model(options, splits.num_identities)
    options = with_hidden_settings(options, model.clip)
    loaders = build_loaders(
        options, splits, tokenizer, processor, model.inputs, distributed.rank(), distributed.world_size()
    )
    seed_process(options.misc.seed + distributed.rank())
    model.to(setting[0])
    images = (loaders.images, options, *setting)
    evaluators = build_evaluators(model, tokenizer, {"val": loaders.val, "test": loaders.test}, *images)
    trainer = build_trainer(options, model, loaders, evaluators, *setting, stop)
    resume(trainer, state, is_own)
    check_space(model, folder, options.log.keep_checkpoints)  # the last check: now an earlier run may go
    run_folder.open_folder(folder, fresh=state is None or not is_own)
    if is_own:
        remove_later(folder, trainer.step, trainer.epoch)
    del state  # as large as model and optimiser
    run_folder.write_options(options, folder)
    trainer.fit()
    best = folder / BEST
    if distributed.is_main():
        load_model_state(model, load_checkpoint(best)["model"])
    distributed.broadcast_model(model)
    results = reporter(
        encode_all(build_evaluators(model, tokenizer, tests, *images)), best, trainer.select_on
    )
    outcome = Outcome(trainer.best, trainer.select_on, max(trainer.epoch, trainer.num_epochs), results)
    write_model_card(folder, options, splits, (model, tokenizer, processor), outcome, flags.command)
    report_curves(folder)


def evaluate(options: Options, flags: Flags, folder: Path, setting: "Setting") -> None:
    """Evaluate weights of any known format on the test split, without reading the training split."""
    from data.annotations import load_data
    from data.loaders import build_loaders, load_test_sets
    from misc.checkpoints import run_folder
    from misc.checkpoints.run_options import check_trained_with, prepared_for
    from misc.evaluation.evaluator import build_evaluators, encode_all
    from misc.process import distributed
    from misc.report.reporter import build_reporter
    from model import build_model

    weights = Path(flags.evaluate)
    trained_on = check_trained_with(options, weights)
    options = prepared_for(replace(options, data=flags.data), weights)
    splits = load_data(options, ["test"])
    tests = load_test_sets(options, splits, trained_on)
    reporter = build_reporter(options, folder, tests, flags.save_rankings, flags.save_features)
    model, tokenizer, processor = build_model(options, num_identities=0, weights=flags.evaluate)
    loaders = build_loaders(options, splits, tokenizer, processor, model.inputs)
    model.to(setting[0])
    distributed.broadcast_model(model)
    evaluators = build_evaluators(model, tokenizer, tests, loaders.images, options, *setting)
    run_folder.open_folder(folder, fresh=False)
    reporter(encode_all(evaluators), weights, None)


def score(options: Options, flags: Flags, folder: Path, setting: "Setting") -> None:
    """Evaluate the folder of an earlier --save-features, without model or images."""
    from misc.checkpoints import run_folder
    from misc.evaluation.features import load_features
    from misc.report.reporter import build_reporter

    if flags.save_features:
        raise UserError(f"--save-features: '{flags.evaluate}' holds saved features already; leave it out")
    saved = load_features(Path(flags.evaluate), "--evaluate")
    for name in options.eval.test_sets.keys() - saved.sets.keys():
        raise UserError(f"eval.test_sets: '{flags.evaluate}' has no features of '{name}'; save them again")
    reporter = build_reporter(options, folder, saved.evaluation_sets, flags.save_rankings, None)
    run_folder.open_folder(folder, fresh=False)
    reporter(saved.on_device(setting[0]), saved.weights, None)


def run(options: Options, flags: Flags, stop: StopSignals) -> None:
    """Train, evaluate or score, as the flags say, in an output folder that no other run uses meanwhile."""
    from misc.checkpoints.lock import locked
    from misc.checkpoints.run_folder import evaluation_folder
    from misc.process import runtime

    is_scored = bool(flags.evaluate) and any(Path(flags.evaluate).glob("features.*"))
    setting = runtime.start(options, unused_at_test(flags.overrides, is_scored) if flags.evaluate else ())
    folder = Path(options.output.dir)
    if flags.evaluate:
        folder = evaluation_folder(folder)
    with locked(folder):
        if not flags.evaluate:
            train(options, flags, folder, setting, stop)
        elif is_scored:
            score(options, flags, folder, setting)
        else:
            evaluate(options, flags, folder, setting)
    runtime.stop()


def start(arguments: Sequence[str] | None) -> int:
    """Parse the command line and run it; returns the exit status as `main` does."""
    flags, options = parse_command_line(arguments, __doc__)
    with StopSignals() as stop:  # before torch is imported, which takes seconds
        from misc.process.runtime import guarded

        return guarded(partial(run, options, flags), stop)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status.

    0; 2 for a user error, in one line; 75 if a signal stopped the run, which --resume continues; 1 if another
    process ended it.
    """
    return exit_status(partial(start, arguments))


if __name__ == "__main__":
    sys.exit(main())
