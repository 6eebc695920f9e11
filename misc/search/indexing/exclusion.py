"""Which files and folders below the image root are left out, and why."""

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from data.images.decode import is_hidden
from options import UserError

# Files of these kinds are named as skipped: somebody who searches for images expects them.
VIDEOS = {".3gp", ".asf", ".avi", ".divx", ".f4v", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg"}
VIDEOS |= {".mpg", ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv"}
OTHERS = "ai cdr djvu emf eps exr hdr jxr psb svg svgz wdp wmf xcf"
REASONS = dict.fromkeys(VIDEOS, "a video; index --people finds the people in it")
REASONS |= {f".{name}": f"an image in a format that is not decoded ({name})" for name in OTHERS.split()}


def is_video(path: str) -> bool:
    """Whether a file is a video, by its name."""
    return os.path.splitext(path)[1].lower() in VIDEOS


@dataclass(frozen=True)
class Exclusion:
    """Hidden files and folders, those of `NO_IMAGES`, and those that match one of these patterns, as in
    shells: one with a "/" is of the path relative to the root, and its "*" matches "/" too; others are of the
    name.
    """

    patterns: tuple[str, ...] = ()

    @staticmethod
    def of(patterns: Sequence[str]) -> "Exclusion":
        """Raises UserError if a pattern is empty, or of an absolute path."""
        for pattern in patterns:
            if not pattern.strip("/") or os.path.isabs(pattern):
                raise UserError(
                    f"--exclude: expected a name, or a path relative to IMAGE_ROOT, found '{pattern}'; for "
                    "example '*.gif' or 'old/thumbnails'"
                )
        return Exclusion(tuple(pattern.removeprefix("./").rstrip("/") for pattern in patterns))

    def reason(self, path: str) -> str | None:
        """Why a file or folder is left out, whose folder is not; None: it is not."""
        name = path.rpartition(os.sep)[2]
        if is_hidden(name):
            return "hidden" if name.startswith(".") else "left out, as all folders of this name"
        path = path.replace(os.sep, "/")
        for pattern in self.patterns:
            if fnmatchcase(path if "/" in pattern else name, pattern):
                return _excluded_by(pattern)
        return None

    def covers(self, path: str) -> bool:
        """Whether a file, or a folder with a separator behind it, or a folder that it is in, is left out."""
        return any(self.reason(part) for part in _with_parents(path.rstrip(os.sep)))

    def without_effect(self, reasons: Collection[str]) -> list[str]:
        """The patterns that are none of these reasons."""
        return [pattern for pattern in self.patterns if _excluded_by(pattern) not in reasons]


def _excluded_by(pattern: str) -> str:
    return f"excluded by '{pattern}'"


def _with_parents(path: str) -> Iterator[str]:
    while path:
        yield path
        path = path.rpartition(os.sep)[0]
