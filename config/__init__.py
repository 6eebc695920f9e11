"""The options' dataclasses and the configuration files."""

from pathlib import Path

FOLDER = Path(__file__).parent  # of the .yaml files
