"""Smoke test of AltCLIP: python misc/quick_start_altclip.py [--tiny] [--text ...] [--image ...]

Loads the weights, compares captions with images, and computes every loss once. Exit status 0 and a verdict,
or 2 and an error line for a user error, such as missing weights.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from any folder

from misc.cli import Parser, exit_status, path_text
from misc.quick_start import add_inputs, compare


def build_parser() -> Parser:
    """The command line."""
    parser = Parser(description="Smoke test of AltCLIP.")
    add_inputs(parser)
    weights = parser.add_mutually_exclusive_group()
    source = {"type": path_text, "default": "BAAI/AltCLIP", "metavar": "DIR"}
    weights.add_argument("--altclip_pretrained", **source, help="model folder, cache root or hub id")
    weights.add_argument("--tiny", action="store_true", help="generate a small model with random weights")
    return parser


def start(flags: argparse.Namespace) -> None:
    """Run it on the weights of the flags, or on small random ones, and print the verdict."""
    from misc.tiny_altclip import make_tiny_altclip, synthetic_captions
    from model.altclip_adapter import build_altclip_clip

    with tempfile.TemporaryDirectory() as folder:
        if flags.tiny:
            make_tiny_altclip(Path(folder), synthetic_captions(300))
        compare(build_altclip_clip(folder if flags.tiny else flags.altclip_pretrained), flags)
    kind = "random weights of a small model" if flags.tiny else f"the weights of {flags.altclip_pretrained}"
    print(f"\nverdict: {kind} loaded, all tensors used and none new")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, or 2 and an error line for a user error."""
    return exit_status(lambda: start(build_parser().parse_args(arguments)))


if __name__ == "__main__":
    sys.exit(main())
