"""Which files of a folder an index knows: by path, size and time, or else by their content."""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from misc.process.logs import progress
from misc.process.workers import num_cores
from misc.search.indexing.walk import Content, ImageFile, content_of
from misc.search.storage.database import Entry


class Matches:
    """The files of a folder and the images of an index, matched.

    Files are read only if their path is new to the index, or has another size or time, and only if an image
    of the index has their size.

    Args:
        others: images of the index that another process updates; files may only have their content.
        digest: computes the digest of a file, as entries have it, from its path and that of its content.

    Attributes:
        counts: numbers of files: "kept" at their path, "moved" from another, "copied" from another.
        put: images with other metadata: moved, touched, found again, or missing from now on.
        removed: ids of images at whose path there is another known content now.
        copied: (path, content, an image of this content) of files that are additional ones of their content.
        to_encode: the files of unknown content.
        replaced: {path: the image of this path} for those of `to_encode`.
        num_known: the images of the index that were found.
    """

    def __init__(
        self,
        entries: Collection[Entry],
        found: Sequence[ImageFile],
        root: Path,
        others: Sequence[Entry] = (),
        digest: Callable[[str, bytes], bytes] = lambda _, content: content,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.put: list[Entry] = []
        self.copied: list[tuple[str, Content, Entry]] = []
        self.to_encode: list[ImageFile] = []
        self._known: set[int] = set()
        by_path = {entry.path: entry for entry in entries}
        pending = []
        for file in found:
            entry = by_path.get(file.path)
            if entry and file == entry[2:5]:
                self._take("kept", entry, entry)
            else:
                pending.append(file)
        sizes = {entry.size for entry in (*entries, *others) if entry.digest}
        contents = {
            path: content._replace(digest=digest(path, content.digest))
            for path, content in _read(root, pending, sizes).items()
        }
        # Touched files first: a copy of one is no new place of it.
        pending = [
            file for file in pending if not self._touched(by_path.get(file.path), contents.get(file.path))
        ]
        self._match_contents(entries, others, pending, contents)
        self.num_known = len(self._known)
        self._sort_out_others(entries, found)

    def _take(self, kind: str, entry: Entry, now: Entry) -> None:
        self.counts[kind] += 1
        self._known.add(entry.id)
        if (now := now._replace(missing_since=None)) != entry:
            self.put.append(now)

    def _touched(self, entry: Entry | None, content: Content | None) -> bool:
        is_touched = entry is not None and content is not None and entry.digest == content.digest
        if is_touched:
            self._take("kept", entry, entry._replace(size=content.size, mtime_ns=content.mtime_ns))
        return is_touched

    def _match_contents(
        self,
        entries: Collection[Entry],
        others: Sequence[Entry],
        pending: Sequence[ImageFile],
        contents: dict[str, Content],
    ) -> None:
        wanted = {content.digest for content in contents.values()}
        same: dict[bytes, list[Entry]] = {}
        for entry in (*entries, *others):
            if entry.digest in wanted:
                same.setdefault(entry.digest, []).append(entry)
        taken = self._known | {entry.id for entry in others}
        free = {digest: [e for e in same[digest] if e.id not in taken] for digest in same}
        for file in pending:
            content = contents.get(file.path)
            if content is None or content.digest not in same:
                self.to_encode.append(file)
            elif free[content.digest]:
                entry = free[content.digest].pop()
                place = {"path": file.path, "size": content.size, "mtime_ns": content.mtime_ns}
                self._take("moved", entry, entry._replace(**place))
            else:
                self.counts["copied"] += 1
                self.copied.append((file.path, content, same[content.digest][0]))

    def _sort_out_others(self, entries: Collection[Entry], found: Sequence[ImageFile]) -> None:
        others = [entry for entry in entries if entry.id not in self._known]
        paths, new = {file.path for file in found}, {file.path for file in self.to_encode}
        self.replaced = {entry.path: entry for entry in others if entry.path in new}
        self.removed = [entry.id for entry in others if entry.path in paths - new]
        self.put += missing(entry for entry in others if entry.path not in paths)


def missing(entries: Iterable[Entry]) -> list[Entry]:
    """Those of these images that are missing from now on."""
    now = int(time.time())
    return [entry._replace(missing_since=now) for entry in entries if entry.missing_since is None]


def _read(root: Path, files: Sequence[ImageFile], sizes: set[int]) -> dict[str, Content]:
    """{path: content} of those files of these sizes that can be read."""

    def read(file: ImageFile) -> tuple[str, Content] | None:
        try:
            return file.path, content_of(root / file.path)
        except OSError:
            return None  # decoding it will tell why

    candidates = [file for file in files if file.size in sizes]
    with ThreadPoolExecutor(num_cores()) as pool:
        return dict(filter(None, progress(pool.map(read, candidates), "comparing")))
