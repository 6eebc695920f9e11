"""A checkpoint for other programs: python -m misc.export CHECKPOINT DIR --format FORMAT [key.path=value ...]

Formats:
    huggingface  a folder that CLIPModel or AltCLIPModel of transformers loads, with tokenizer and processor
    openai       a state dict under OpenAI's names, and a configuration: open_clip loads the folder
    safetensors  a state dict under the names of this code, with the run's options: --evaluate reads it
    onnx         two graphs, image.onnx and text.onnx, for onnxruntime

Each is loaded again and its features compared with ours before anything stands in DIR.
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

LOGGER = logging.getLogger(__name__)
FORMATS = ("huggingface", "openai", "safetensors", "onnx")


def build_parser() -> Parser:
    """The command line."""
    parser = Parser(prog="python -m misc.export", description=__doc__)
    parser.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT", help="checkpoint_best.pth of a run, or other weights"
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="where to write")
    parser.add_argument("--format", required=True, choices=FORMATS, dest="format_name", help="see above")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="options in place of those that the checkpoint holds"
    )
    parser.add_argument("--overwrite", action="store_true", help="write into a folder that holds files")
    parser.add_argument(
        "overrides", nargs="*", metavar="key.path=value", help="such as model.altclip_pretrained=FOLDER"
    )
    return parser


def open_folder(folder: Path, overwrite: bool) -> None:
    """Make DIR; raises UserError where it cannot be used, or holds files and may not be overwritten."""
    from misc.process.durable import make_folder

    make_folder(folder, "DIR")
    if any(folder.iterdir()) and not overwrite:
        raise UserError(f"DIR: '{folder}' holds files; name another folder, or add --overwrite")


def export(flags: argparse.Namespace) -> None:
    """Write the format into a folder in DIR, and move it there once it has passed its check."""
    from misc.export.huggingface import export_huggingface
    from misc.export.onnx_graphs import check_packages, export_onnx
    from misc.export.readme import write_readme
    from misc.export.source import load_source
    from misc.export.states import export_openai, export_safetensors

    write = {
        "huggingface": export_huggingface,
        "openai": export_openai,
        "safetensors": export_safetensors,
        "onnx": export_onnx,
    }
    open_folder(flags.folder, flags.overwrite)
    if flags.format_name == "onnx":
        check_packages()
    source = load_source(flags.checkpoint, flags.config, flags.overrides)
    with tempfile.TemporaryDirectory(dir=flags.folder, prefix=".export-") as unfinished:
        write[flags.format_name](source, Path(unfinished))
        write_readme(source, flags.format_name, flags.checkpoint, Path(unfinished))
        for file in sorted(Path(unfinished).iterdir()):
            size = file.stat().st_size
            shutil.move(file, flags.folder / file.name)
            LOGGER.info("%s: %s bytes", flags.folder / file.name, f"{size:,}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, or 2 with one line for what the user can mend."""

    def work() -> None:
        """Export as the flags say."""
        flags = build_parser().parse_intermixed_args(arguments)
        from misc.process.logs import start_logging

        start_logging()
        export(flags)
        LOGGER.info("done: %s in %s", flags.format_name, flags.folder)

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main())
