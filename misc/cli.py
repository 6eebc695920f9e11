"""What the command lines share: parser, exit status and error line. Imports nothing heavy."""

import argparse
import logging
import os
import re
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import NoReturn

from config.paths import expand_home, is_name
from misc.process.launch import report_error
from misc.process.libraries import quieten
from options import KEYS, UserError

DASHED = re.compile(r"--?([A-Za-z_][\w.-]*)(?:=(.*))?", re.DOTALL)


def path_text(text: str) -> str:
    """The type of a flag that is a path or another name: `~` and `~user` are expanded.

    A flag of the type `Path` is read in the same way.

    Raises:
        ArgumentTypeError: it is empty, cannot be the name of a file, or names a user that does not exist.
    """
    if text == "":
        raise argparse.ArgumentTypeError("its value is empty; fill it in or leave the flag out")
    if not is_name(text):
        problem = "is not UTF-8, or too long for the name of a file or folder"
        raise argparse.ArgumentTypeError(f"{text[:40]!r} {problem}")
    try:
        return expand_home(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


class Parser(argparse.ArgumentParser):
    """A parser that prints its description as written, takes no abbreviations, expands `~` in paths, and
    raises `UserError`.
    """

    def __init__(self, **settings: str) -> None:
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(formatter_class=formatter, allow_abbrev=False, **settings)
        self.register("type", Path, lambda text: Path(path_text(text)))

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see --help)")

    def parse_known_args(
        self, args: Sequence[str] | None = None, namespace: Namespace | None = None
    ) -> tuple[Namespace, list[str]]:
        """As argparse has it.

        Raises:
            UserError: an argument holds a NUL or an unpaired surrogate, which no shell can pass on, or is an
                option that is written as a flag.
        """
        words = list(sys.argv[1:] if args is None else args)
        for word, following in zip_longest(words, words[1:], fillvalue="VALUE"):
            try:
                is_valid = b"\0" not in os.fsencode(word)
            except UnicodeEncodeError:
                is_valid = False
            if not is_valid:
                self.error(f"{word!r:.60} contains a NUL or an unpaired surrogate")
            self._refuse_dashed_option(word, following)
        return super().parse_known_args(args, namespace)

    def _refuse_dashed_option(self, word: str, following: str) -> None:
        """Raise UserError for an option that is written as a flag, such as --data.batch_size=4."""
        match = DASHED.fullmatch(word)
        takes_options = any(action.dest == "overrides" for action in self._actions)
        if not match or not takes_options or word.partition("=")[0] in self._option_string_actions:
            return
        name, value = match[1].replace("-", "_"), match[2] or following
        keys = [name] if "." in name else [key for key in KEYS if key.endswith(f".{name}")]
        if keys:
            settings = " or ".join(f"{key}={value}" for key in keys)
            self.error(f"{word}: an option is written without dashes; use {settings}")


def exit_status(work: Callable[[], int | None]) -> int:
    """The exit status of a program: what `work` returns (None: 0), or 2 with one line for a `UserError`.

    Every program starts here, and silences its libraries before they are used. What it warns of, where it
    keeps no log, is a line `warning: ...` on stderr.
    """
    quieten()
    logging.lastResort.setFormatter(logging.Formatter("warning: %(message)s"))
    try:
        return work() or 0
    except UserError as error:
        report_error(error)
        return 2
