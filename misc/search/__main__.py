"""Search a folder of images by description: python -m misc.search COMMAND ...

Commands:
    index CHECKPOINT IMAGE_ROOT --out INDEX    encode the images of a folder; again: those of new content
    query INDEX "a woman in a red coat"        rank the images: table, JSON, CSV, figure
    serve INDEX                                a web page on this machine

python -m misc.search COMMAND --help lists the flags of a command.
"""

import argparse
import sys
from collections.abc import Callable, Sequence

from misc.cli import Parser, exit_status
from misc.search.commands import index, query, serve

COMMANDS: dict[str, tuple[Callable[[Parser], None], Callable[[argparse.Namespace], int]]] = {
    "index": (index.add_flags, index.run),
    "query": (query.add_flags, query.run),
    "serve": (serve.add_flags, serve.run),
}


def parse(arguments: Sequence[str]) -> tuple[Callable[[argparse.Namespace], int], argparse.Namespace]:
    """The command to run and its flags; a parser of its own allows flags between positional arguments."""
    parser = Parser(prog="python -m misc.search", description=__doc__)
    parser.add_argument("command", choices=COMMANDS)
    command = parser.parse_args(arguments[:1]).command
    add_flags, run = COMMANDS[command]
    parser = Parser(prog=f"python -m misc.search {command}", description=run.__doc__)
    add_flags(parser)
    return run, parser.parse_intermixed_args(arguments[1:])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 130 after Ctrl-C, or 2 for a user error."""

    def command() -> int:
        run, flags = parse(sys.argv[1:] if arguments is None else arguments)
        return run(flags)

    return exit_status(command)


if __name__ == "__main__":
    sys.exit(main())
