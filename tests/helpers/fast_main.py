"""The main job without what most of a tiny run's time goes to: drawing pictures, and waiting for the disk."""

import os
import sys

import pytest

from main import main
from misc.report import pictures, reporter

PICTURES = ("draw_rankings", "draw_curves")


def make_runs_fast(patch: pytest.MonkeyPatch) -> None:
    """Let the runs of this process draw nothing and not wait for the disk."""
    for name in PICTURES:
        patch.setattr(reporter, name, lambda *_: None)
    patch.setattr(os, "fsync", lambda _: None)


def draw_pictures(patch: pytest.MonkeyPatch) -> None:
    """Let them draw their pictures again."""
    for name in PICTURES:
        patch.setattr(reporter, name, getattr(pictures, name))


if __name__ == "__main__":
    make_runs_fast(pytest.MonkeyPatch())
    sys.exit(main())
