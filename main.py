"""Text-based person search: train a model that finds people by description, or evaluate one.

    torchrun --nproc_per_node=4 main.py [--simplified]    train with config/config.yaml (or the lean recipe)
    python main.py --evaluate FILE                        evaluate a checkpoint

Every option stands in config/config.yaml with its meaning; `section.name=value` on the command line beats it.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from options import Options, UserError, load_options

CONFIG = Path(__file__).parent / "config"


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line, as all others."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see --help)")


def parse_command_line(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, Options]:
    """The flags, and the options that file, flags and overrides make together."""
    parser = Parser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    recipe = parser.add_mutually_exclusive_group()
    recipe.add_argument(
        "--config", metavar="FILE", default=CONFIG / "config.yaml", help="the options: config/config.yaml"
    )
    recipe.add_argument("--simplified", action="store_true", help="the lean recipe: config/s.config.yaml")
    parser.add_argument(
        "--backbone", choices=("clip", "altclip"), help="model.backbone; altclip with config/altclip.yaml"
    )
    parser.add_argument(
        "--resume",
        metavar="FILE",
        nargs="?",
        const="auto",
        help="go on from a checkpoint; auto (or nothing): the newest good one of the output folder, if any",
    )
    parser.add_argument(
        "--evaluate", metavar="FILE", help="evaluate these weights on the test split; no training"
    )
    parser.add_argument(
        "--output-dir", metavar="DIR", help="folder for everything the run writes: output.dir"
    )
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="such as schedule.epoch=3")
    flags = parser.parse_intermixed_args(arguments)
    if flags.resume and "=" in flags.resume:  # `--resume key=value`: the value is an override, not a file
        flags.overrides.insert(0, flags.resume)
        flags.resume = "auto"
    if flags.evaluate and flags.resume:
        raise UserError("--evaluate and --resume exclude each other")
    file = CONFIG / "s.config.yaml" if flags.simplified else flags.config
    if flags.backbone == "clip":
        flags.overrides.insert(0, "model.backbone=clip")
    overlay = CONFIG / "altclip.yaml" if flags.backbone == "altclip" else None
    options = load_options(file, flags.overrides, overlay)
    if flags.output_dir:
        options = replace(options, output=replace(options.output, dir=flags.output_dir))
    return flags, options


def train(options: Options, resume: str | None) -> None:
    """Train, evaluating after every epoch; then report the test figures of the best one."""
    from data.annotations import load_data
    from data.loaders import build_loaders
    from misc import checkpoint, distributed, runtime
    from misc.engine import build_trainer
    from misc.evaluate import build_evaluator
    from misc.report import report, report_curves
    from misc.seed import seed_process
    from model import build_model

    device, precision = runtime.start(options)
    folder = Path(options.output.dir)
    if resume is None or (resume != "auto" and Path(resume).parent != folder):
        runtime.refuse_to_overwrite(folder, options.output.overwrite)
    state = checkpoint.find_checkpoint(resume, folder)
    splits = load_data(options)
    seed_process(options.misc.seed)
    model, tokenizer, processor = build_model(options, splits.num_identities)
    loaders = build_loaders(
        options, splits, tokenizer, processor, distributed.rank(), distributed.world_size()
    )
    seed_process(options.misc.seed + distributed.rank())
    model.to(device)
    parts = {"val": loaders.val, "test": loaders.test}
    evaluators = {
        name: build_evaluator(model.clip, tokenizer, part, loaders.images, options, device, precision)
        for name, part in parts.items()
        if part is not None
    }
    image_names = loaders.training_set.image_names
    trainer = build_trainer(options, model, loaders.train, image_names, evaluators, device, precision)
    if state is not None:
        trainer.resume(state)
    runtime.open_folder(folder, fresh=state is None)
    del state  # as large as model and optimiser
    runtime.write_options(options, folder)
    trainer.fit()
    best = folder / checkpoint.BEST
    checkpoint.load_model_state(model, checkpoint.load_checkpoint(best))
    report(evaluators["test"], folder, best, trainer.select_on)
    report_curves(folder)
    runtime.stop()


def evaluate(options: Options, weights: str) -> None:
    """Evaluate weights of any known format on the test split; nothing of the training split is touched."""
    from data.annotations import load_data
    from data.loaders import build_loaders
    from misc import checkpoint, runtime
    from misc.evaluate import build_evaluator
    from misc.report import report
    from model import build_model

    device, precision = runtime.start(options)
    checkpoint.check_trained_with(options, Path(weights))
    splits = load_data(options, ["test"])
    model, tokenizer, processor = build_model(options, num_identities=0, weights=weights)
    loaders = build_loaders(options, splits, tokenizer, processor)
    clip = model.clip.to(device)
    evaluator = build_evaluator(clip, tokenizer, loaders.test, loaders.images, options, device, precision)
    folder = runtime.evaluation_folder(Path(options.output.dir))
    runtime.open_folder(folder, fresh=False)
    report(evaluator, folder, Path(weights), select_on=None)
    runtime.stop()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, or 2 with one line for what the user can mend."""
    try:
        flags, options = parse_command_line(arguments)
        if flags.evaluate:
            evaluate(options, flags.evaluate)
        else:
            train(options, flags.resume)
    except UserError as error:
        from misc.runtime import report_error

        report_error(error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
