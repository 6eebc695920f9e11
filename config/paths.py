"""Paths in options and flags: what can be the name of a file, and what `~` and variables stand for."""

import os
import re
from typing import NewType

FilePath = NewType("FilePath", str)  # the type of an option that is the path of a file or folder

MAX_NAME_BYTES, MAX_PATH_LENGTH = 255, 1000  # the path stays below the system's limit with our file names
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\})")


def is_name(text: str) -> bool:
    """Whether a text can be the path of a file: UTF-8, not empty, no NUL, not too long."""
    try:
        parts = text.encode().split(b"/")
    except UnicodeEncodeError:  # an unpaired surrogate, or a byte that is not UTF-8
        return False
    is_short = len(text) <= MAX_PATH_LENGTH and max(map(len, parts)) <= MAX_NAME_BYTES
    return text != "" and "\0" not in text and is_short


def expand_home(text: str) -> str:
    """The path with the home folder in place of `~` or `~user`; raises ValueError if there is none."""
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        raise ValueError(
            f"'{text}': user '{text.split('/')[0]}' does not exist; './{text}' is a file of that name"
        )
    return expanded


def expand(text: str) -> str:
    """The path of an option: as `expand_home`, and with the values of environment variables.

    No shell reads a YAML file, so that `$SCRATCH/cache` would be a folder called `$SCRATCH`. A file whose
    name has a `$` is left as it is, and so is a model id.

    Raises:
        ValueError: there is no such user or variable, or a control character, as of "C:\\temp" in YAML.
    """
    if CONTROL.search(text):
        raise ValueError(f"{text!r} contains a control character; in YAML, write a \\ between single quotes")
    if not os.path.lexists(text):
        text = VARIABLE.sub(lambda match: _value(text, match[1] or match[2]), text)
        if "$(" in text or "${" in text:
            raise ValueError(f"'{text}': only $NAME and ${{NAME}} are expanded; write the path in full")
    return expand_home(text)


def _value(text: str, name: str) -> str:
    if not os.environ.get(name):
        raise ValueError(f"'{text}': the environment variable {name} is not set; write the path in full")
    return os.environ[name]
