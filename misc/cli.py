"""What the command lines share: parser, exit status and error line. Imports nothing heavy."""

import argparse
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import NoReturn

from misc.process.launch import report_error
from options import UserError


class Parser(argparse.ArgumentParser):
    """A parser that prints its description as written, takes no abbreviations, and raises `UserError`."""

    def __init__(self, **settings: str) -> None:
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(formatter_class=formatter, allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see --help)")

    def parse_known_args(
        self, args: Sequence[str] | None = None, namespace: Namespace | None = None
    ) -> tuple[Namespace, list[str]]:
        """As argparse has it.

        Raises:
            UserError: an argument holds a NUL or an unpaired surrogate, which no shell can pass on.
        """
        for word in sys.argv[1:] if args is None else args:
            try:
                is_valid = b"\0" not in os.fsencode(word)
            except UnicodeEncodeError:
                is_valid = False
            if not is_valid:
                self.error(f"{word!r:.60} contains a NUL or an unpaired surrogate")
        return super().parse_known_args(args, namespace)


def exit_status(work: Callable[[], int | None]) -> int:
    """The exit status of a program: what `work` returns (None: 0), or 2 with one line for a `UserError`."""
    try:
        return work() or 0
    except UserError as error:
        report_error(error)
        return 2
