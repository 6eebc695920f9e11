"""The command line of main.py: which options it makes, and which files it names."""

import json
import re
import shlex
import sys
from argparse import SUPPRESS
from collections.abc import Sequence
from dataclasses import dataclass

import config
from config.data import DataOptions
from misc.cli import Parser, path_text
from misc.process.launch import Launch
from options import Options, UserError, read_options, resolved

OVERRIDE = re.compile(r"\w+(\.\w+)+=")


@dataclass(frozen=True)
class Flags:
    """The flags that are not options."""

    command: str  # the whole command line, for the model card
    resume: str | None  # a checkpoint, or "auto": the newest one of the output folder; None: from scratch
    evaluate: str | None  # weights, or a folder of saved features, to evaluate instead of training
    save_rankings: str | None  # file for the best images of each test query
    save_features: str | None  # folder for the features of the test sets
    overrides: Sequence[str]  # of options, as given
    data: DataOptions  # as given: weights to evaluate decide what is null or auto


def build_parser(description: str) -> Parser:
    """The parser of all flags and overrides."""
    parser = Parser(description=description)
    recipe, add = parser.add_mutually_exclusive_group(), parser.add_argument
    file, folder = ({"type": path_text, "metavar": name} for name in ("FILE", "DIR"))
    recipe.add_argument("--config", **file, help="the options: config/config.yaml")
    simplified = "the simplified recipe: config/s.config.yaml"
    recipe.add_argument("--simplified", action="store_true", help=simplified)
    backbone = "model.backbone: clip, altclip; with config/NAME.yaml, if any"
    add("--backbone", type=path_text, metavar="NAME", help=backbone)
    resume = "resume from a checkpoint; auto (or no value): from the newest of the output folder, if any"
    add("--resume", **file, nargs="?", const="auto", help=resume)
    evaluate = "evaluate these weights, or a folder of --save-features, on the test split, without training"
    add("--evaluate", **file, help=evaluate)
    rankings = "write the ten best images of each test query, .csv or .jsonl"
    add("--save-rankings", **file, help=rankings)
    add("--save-features", **folder, help="write the test sets' features, for --evaluate and eval.fuse")
    add("--output-dir", **folder, help="folder for all files of the run: output.dir")
    add("--local-rank", "--local_rank", help=SUPPRESS)  # passed by torch.distributed.launch
    add("overrides", nargs="*", metavar="key.path=value", help="an option, such as schedule.epoch=3")
    return parser


def parse_command_line(arguments: Sequence[str] | None, description: str = "") -> tuple[Flags, Options]:
    """The flags, and the options of file, flags and overrides; `arguments` None: those of the process.

    Raises:
        UserError: an unknown flag, flags that exclude each other, a value that cannot be a name, options; a
            launch that cannot be.
    """
    given = build_parser(description).parse_intermixed_args(arguments)
    overrides = given.overrides
    if given.resume and OVERRIDE.match(given.resume):  # `--resume key=value`: an override, not a file
        overrides.insert(0, given.resume)
        given.resume = "auto"
    Launch.read().check_flag(given.local_rank)
    if given.evaluate and given.resume:
        raise UserError("--evaluate and --resume exclude each other")
    overlay = given.backbone and config.FOLDER / f"{given.backbone}.yaml"
    if overlay and not overlay.exists():
        overlay, overrides = None, [f"model.backbone={given.backbone}", *overrides]
    if given.output_dir:
        overrides = [*overrides, f"output.dir={json.dumps(given.output_dir)}"]
    recipe = config.FOLDER / ("s.config.yaml" if given.simplified else "config.yaml")
    options = read_options(given.config or recipe, overrides, overlay)
    command = shlex.join(["python", "main.py", *(sys.argv[1:] if arguments is None else arguments)])
    files = (given.resume, given.evaluate, given.save_rankings, given.save_features)
    flags = Flags(command, *files, given.overrides, options.data)
    return flags, resolved(options)
