"""Write config/config.yaml, the reference of every option, from the dataclasses of `options`.

python -m config            write the file
python -m config --check    exit with status 1 if the file is not what would be written
"""

import dataclasses
import re
import sys
import typing
from collections.abc import Iterator, Sequence
from functools import partial

import yaml

import config
from misc.cli import Parser, exit_status
from options import Options, to_dict

PATH = config.FOLDER / "config.yaml"
HEADER = """\
# The full recipe of TBPS-CLIP (AAAI 2024), and the reference of every option: its default and its meaning.
# A configuration file needs only what differs: `base: config.yaml` and the changed lines.
# `section.name=value` on the command line overrides the file. Numbers may be written as 1e-4.
# Written by `python -m config` from options.py and config/experiment.py: change those, not this file."""
COLUMN = 44  # of the comments


def reference() -> str:
    """The text of config.yaml."""
    return "\n".join([HEADER, *_lines()]) + "\n"


def _lines() -> Iterator[str]:
    defaults = to_dict(Options())
    for section, kind in typing.get_type_hints(Options).items():
        yield f"\n# {kind.__doc__.rstrip('.')}\n{section}:"
        for option in dataclasses.fields(kind):
            check = option.metadata["check"]
            choices = f" ({' | '.join(check.choices)})" if check and check.choices else ""
            setting = f"  {option.name}: {_as_yaml(defaults[section][option.name])} "
            yield f"{setting:{COLUMN}}# {option.metadata['doc']}{choices}"


def _as_yaml(value: object) -> str:
    if isinstance(value, float) and 0 < value < 1e-3:
        return re.sub(r"\.?0*e-0*", "e-", f"{value:e}")  # 1e-4 rather than 0.0001
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n...\n").strip()


def work(arguments: Sequence[str] | None) -> int:
    """Write or check the file; returns the exit status."""
    parser = Parser(prog="python -m config", description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only")
    if not parser.parse_args(arguments).check:
        PATH.write_text(reference(), encoding="utf-8")
        return 0
    if PATH.read_text(encoding="utf-8") == reference():
        return 0
    print(f"{PATH} differs from the defaults of options.py; run python -m config", file=sys.stderr)
    return 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 1 for a file that differs, 2 for a user error."""
    return exit_status(partial(work, arguments))


if __name__ == "__main__":
    sys.exit(main())
