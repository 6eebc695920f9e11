"""Export a checkpoint: python -m misc.export CHECKPOINT DIR --format FORMAT [key.path=value ...]

Formats:
    huggingface  a folder that CLIPModel or AltCLIPModel of transformers loads, with tokenizer and processor
    openai       a state dict under OpenAI's names, and a configuration: open_clip loads the folder
    safetensors  a state dict under the names of this project, with the options of the run, for --evaluate
    onnx         two graphs, image.onnx and text.onnx, for onnxruntime

The files are moved to DIR only after their features were compared with those of the model.
"""

import argparse
import logging
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from misc.cli import Parser, exit_status
from options import UserError

logger = logging.getLogger(__name__)

FORMATS = ("huggingface", "openai", "safetensors", "onnx")
TOWERS_ALONE = ("huggingface", "openai")  # they cannot contain a head that takes part in the features


def build_parser() -> Parser:
    """The command line."""
    parser = Parser(prog="python -m misc.export", description=__doc__)
    add = parser.add_argument
    add("checkpoint", type=Path, metavar="CHECKPOINT", help="checkpoint_best.pth of a run, or other weights")
    add("folder", type=Path, metavar="DIR", help="output folder")
    add("--format", required=True, choices=FORMATS, dest="format_name", help="see above")
    add("--config", type=Path, metavar="FILE", help="options in place of those saved in the checkpoint")
    add("--overwrite", action="store_true", help="allow a folder that contains files")
    add("overrides", nargs="*", metavar="key.path=value", help="for example model.altclip_pretrained=FOLDER")
    return parser


def export(flags: argparse.Namespace) -> None:
    """Write the format into a temporary folder in DIR, and move the files to DIR after the comparison."""
    from misc.export.huggingface import export_huggingface
    from misc.export.onnx_graphs import check_packages, export_onnx
    from misc.export.readme import write_readme
    from misc.export.source import load_source
    from misc.export.states import export_openai, export_safetensors
    from misc.process.durable import make_folder

    writers = (export_huggingface, export_openai, export_safetensors, export_onnx)
    write = dict(zip(FORMATS, writers, strict=True))[flags.format_name]
    make_folder(flags.folder, "DIR")
    if any(flags.folder.iterdir()) and not flags.overwrite:
        raise UserError(f"DIR: '{flags.folder}' contains files; name another folder, or add --overwrite")
    if flags.format_name == "onnx":
        check_packages()
    source = load_source(flags.checkpoint, flags.config, flags.overrides)
    if flags.format_name in TOWERS_ALONE:
        source = source.towers_alone()
    with tempfile.TemporaryDirectory(dir=flags.folder, prefix=".export-") as temporary:
        write(source, Path(temporary))
        write_readme(source, flags.format_name, flags.checkpoint, Path(temporary))
        for file in sorted(Path(temporary).iterdir()):
            size = file.stat().st_size
            shutil.move(file, flags.folder / file.name)
            logger.info("%s: %s bytes", flags.folder / file.name, f"{size:,}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status, 2 for a user error."""

    def work() -> None:
        flags = build_parser().parse_intermixed_args(arguments)
        from misc.process.logs import start_logging

        start_logging()
        export(flags)
        logger.info("done: %s in %s", flags.format_name, flags.folder)

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main())
