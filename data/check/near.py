"""For messages: images that are not under the root, each with the file there that it may mean."""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from data.images.decode import image_suffixes, is_hidden

MAX_FILES = 1_000_000  # below the root that are looked at, for a message


def is_absolute(image: str) -> bool:
    """Whether a path, with "/" alone, begins at the root of a file system or at a drive."""
    return image.startswith("/") or image[1:2] == ":"


def describe_missing(images: Sequence[str], root: Path) -> list[str]:
    """Each of `images`, which are not below `root`, in quotes, with the file that it may mean, if any.

    That file differs in Unicode form, case, spaces or suffix, or in leading folders of one of the two.
    """
    files = _files_by_stem(root)
    return [_describe(image, files.get(_parts(image)[-1:], []), root) for image in images]


def _describe(image: str, candidates: Sequence[str], root: Path) -> str:
    wanted, suffix = _parts(image), PurePosixPath(image).suffix.lower()

    def rank(path: str) -> tuple[bool, int, bool]:
        """Whether all folders are the same, else how many; whether the suffix is."""
        parts = _parts(path)
        return len(parts) == len(wanted), len(parts), PurePosixPath(path).suffix.lower() == suffix

    fitting = []
    for path in candidates:
        common = min(len(_parts(path)), len(wanted))
        if _parts(path)[-common:] == wanted[-common:]:
            fitting.append(path)
    if fitting:
        found = max(fitting, key=rank)
        return f"{_quoted(image, found)}; there is {_quoted(found, image)}{_difference(image, found, root)}"
    for parent in () if is_absolute(image) else list(root.absolute().parents)[:2]:
        if os.path.isfile(parent / image):
            return f"{_quoted(image)}; data.image_root='{parent}' would fit"
    return _quoted(image)


def _quoted(name: str, other: str = "") -> str:
    """A name in quotes; with escapes where it may look as `other` does, or as another name."""
    alike = unicodedata.normalize("NFKC", name) == unicodedata.normalize("NFKC", other)
    is_plain = name.isprintable() and " ".join(name.split()) == name
    is_normal = name.isascii() or (unicodedata.normalize("NFC", name) == name and not alike)
    return f"'{name}'" if is_plain and is_normal else ascii(name)


def _parts(path: str) -> tuple[str, ...]:
    """Folders and stem, without what people and systems change: case, Unicode form, spaces."""
    plain = unicodedata.normalize("NFKC", path).casefold().replace("\\", "/")
    plain = "".join(char for char in plain if char.isascii() or unicodedata.category(char) != "Cf")
    parts = [" ".join(part.split()) for part in plain.split("/")]
    stem, suffix = os.path.splitext(parts[-1])
    parts[-1] = stem.strip() if suffix in image_suffixes() else parts[-1]
    return tuple(part for part in parts if part not in ("", ".") and part[1:] != ":")


def _files_by_stem(root: Path) -> dict[tuple[str, ...], list[str]]:
    """The files below `root`, sorted, by the last of their `_parts`."""
    files: dict[tuple[str, ...], list[str]] = defaultdict(list)
    number = 0
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        place = Path(folder).relative_to(root)
        for name in sorted(name for name in names if not is_hidden(name)):
            files[_parts(name)[-1:]].append((place / name).as_posix())
        number += len(names)
        if number > MAX_FILES:
            break
    return files


def _difference(image: str, found: str, root: Path) -> str:
    """How the file that was found differs, and the way out."""
    wanted, there = _parts(image), _parts(found)
    if len(there) > len(wanted):
        folder = root.joinpath(*PurePosixPath(found).parts[: len(there) - len(wanted)])
        return f": data.image_root='{folder}' would fit"
    if is_absolute(image):
        return ": paths must be relative to the root"
    if len(there) < len(wanted):
        more, parents = wanted[: len(wanted) - len(there)], [root.absolute(), *root.absolute().parents]
        if more == _parts(str(parents[0]))[-len(more) :]:
            return f": data.image_root='{parents[len(more)]}' would fit"
        return f": paths without '{'/'.join(more)}/' would fit"
    if unicodedata.normalize("NFC", image) == unicodedata.normalize("NFC", found):
        return ", the same letters in another Unicode form (NFC or NFD)"
    if image.casefold() == found.casefold():
        return ", which differs in upper and lower case"
    if os.path.splitext(image.strip())[1].lower() != os.path.splitext(found)[1].lower():
        return ", which has another suffix"
    return ", which differs in spaces or characters that look alike"
