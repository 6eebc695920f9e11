"""Creating and updating an index: only images of unknown content are encoded."""

import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from data.images.regions import place_of
from misc.checkpoints.lock import LOCK, locked
from misc.process import distributed
from misc.process.durable import leftovers, replacing
from misc.search.encoder import Encoder
from misc.search.index import check_identity, read_header
from misc.search.indexing.encoding import encode_images
from misc.search.indexing.exclusion import Exclusion, is_video
from misc.search.indexing.files import IndexedFiles
from misc.search.indexing.matching import Matches, missing
from misc.search.indexing.outcome import Update, is_folder, merged, num_files
from misc.search.indexing.people import People
from misc.search.indexing.video_entries import encode_videos
from misc.search.indexing.walk import Content, ImageFile, find_images
from misc.search.storage import legacy
from misc.search.storage.database import DATABASE, Entry, Header, reporting_writes
from misc.search.storage.milvus_store import MilvusStore, writing
from misc.search.storage.places import MilvusPlace
from misc.search.storage.store import Store, create, new_features_name
from model.protocol import JsonObject
from options import UserError, to_dict

logger = logging.getLogger(__name__)

T = TypeVar("T")


def update_index(
    encoder: Encoder,
    image_root: Path,
    folder: Path | MilvusPlace,
    approximate: bool | None = None,
    prune: bool = False,
    exclude: Sequence[str] = (),
    people: People | None = None,
) -> Update:
    """Make `folder` an index of the images below `image_root`, but for those that `Exclusion` leaves out with
    the patterns `exclude`, encoding only those of unknown content; an approximate index if `approximate`
    (None: above `MAX_EXACT` images). Images whose file is away, or left out now, stay in the index, unranked,
    unless `prune`. What has been encoded can be searched every `SECONDS_PER_PART`;
    interrupted at any moment, the update resumes when called again.

    Args:
        people: the entries are the people in the photos and videos; None: they are the images.

    Raises:
        UserError: there are no images, or none of those of the index; the index is damaged, of another model
            or of people found in another way, or being updated by another process; the folder is not
            writable.
    """
    if not image_root.is_dir():
        raise UserError(f"IMAGE_ROOT: '{image_root}' is not a folder; name the folder of the images")
    exclusion = Exclusion.of(exclude)
    if people and isinstance(folder, MilvusPlace):
        raise UserError("--people: an index of people cannot be in Milvus; name a folder with --out")
    with _opened(encoder, folder, people) as store:
        return _update(store, encoder, image_root, approximate, prune, exclusion, people)


@contextmanager
def _opened(
    encoder: Encoder, folder: Path | MilvusPlace, people: People | None
) -> Iterator[Store | MilvusStore]:
    """The index, open for writing by this run alone; it is created if there is none."""
    is_file = not isinstance(folder, MilvusPlace) or folder.folder is not None
    if is_file and distributed.world_size() > 1:
        raise UserError(
            f"INDEX: several processes cannot write to '{folder}'; start one, or index into a Milvus server"
        )
    settings = people.settings if people else {}
    header = Header(
        **_origin(encoder, Path()), identity=encoder.identity, embed_dim=encoder.embed_dim, people=settings
    )
    if isinstance(folder, MilvusPlace):
        with writing(folder, header) as store:
            check_identity(folder, store.header, encoder)
            yield store
        return
    with locked(folder, "INDEX", "--out"):
        if (folder / DATABASE).exists() or legacy.exists(folder):
            check_identity(folder, read_header(folder), encoder)
            _check_people(folder, read_header(folder), header.people)
            legacy.upgrade(folder)
        else:
            if {file.name for file in folder.iterdir() if file not in leftovers(folder / DATABASE)} - {LOCK}:
                raise UserError(
                    f"INDEX: '{folder}' contains files but no index; name a new or an empty folder"
                )
            create(folder, replace(header, features=new_features_name()))
        yield Store(folder)


def _check_people(folder: Path, header: Header, people: Mapping[str, object]) -> None:
    """Raise UserError unless the entries of the index were found in this way."""
    if bool(header.people) != bool(people):
        raise UserError(
            f"--people: '{folder}' {'has whole images' if people else 'has people'} as entries; "
            f"{'leave it out' if people else 'add it'}, or name another folder with --out"
        )
    for name, value in people.items():
        before = header.people.get(name)
        if before != value:
            made_with, now = ("--boxes" if each == "" else repr(each) for each in (before, value))
            raise UserError(
                f"--{name.replace('_', '-')}: '{folder}' was made with {made_with}, this run has {now}; "
                "give the same, or name another folder with --out"
            )


def _update(
    store: Store | MilvusStore,
    encoder: Encoder,
    image_root: Path,
    approximate: bool | None,
    prune: bool,
    exclusion: Exclusion,
    people: People | None,
) -> Update:
    """Update the images of this process's share."""
    found, skipped, excluded = _on_all(lambda: _find(image_root, store.folder, exclusion, people is not None))
    unlisted = tuple(path for path in skipped if is_folder(path))
    if not distributed.is_main():  # each process has found the same
        skipped, excluded = {}, {}
    unread, own = set(skipped), [file for file in found if store.is_own(file.path)]
    if people and people.given:
        people.given.assign([file.path for file in found])
    files = IndexedFiles(store.entries.values(), people)
    matches = Matches(files.first, own, image_root, store.others, files.digest)
    num_known = sum(distributed.gather_objects(matches.num_known))
    _on_all(lambda: _check_root(store, found, num_known, image_root))
    store.header = replace(store.header, **_origin(encoder, image_root))
    replaced = {path: files.of(first) for path, first in matches.replaced.items()}
    store.put(files.like(matches.put))
    store.remove([entry.id for number in matches.removed for entry in files.of(store.entries[number])])
    store.reserve(len(matches.copied) + len(matches.to_encode))
    _copy_features(store, matches.copied, files)
    photos = [file for file in matches.to_encode if not (people and is_video(file.path))]
    encoded = encode_images(store, encoder, image_root, photos, replaced, skipped, people)
    if people:
        videos = [file for file in matches.to_encode if is_video(file.path)]
        paths = encode_videos(store, encoder, image_root, videos, replaced, skipped, people)
        encoded |= dict.fromkeys(paths, False)
    unread_now = (path for path in replaced if path not in encoded)
    store.put(missing(entry for path in unread_now for entry in replaced[path]))
    _write_skipped(store.skipped, distributed.gather_objects(skipped | excluded))
    if not sum(distributed.gather_objects(store.num_present())):
        raise UserError(f"IMAGE_ROOT: none of {len(found)} images can be read; see '{store.skipped}'")
    dropped = _prune(store, unlisted) if prune else 0
    kind = store.finish(approximate)
    changed = len(encoded.keys() & replaced.keys())
    away = _files_of(entry for entry in store.entries.values() if entry.missing_since is not None)
    update = Update(
        found=len(own) + num_files(unread) + num_files(excluded),
        **{name: matches.counts[name] for name in ("kept", "moved", "copied")},
        new=len(encoded) - changed,
        changed=changed,
        total=len(_files_of(entry for entry in store.entries.values() if entry.missing_since is None)),
        entries=store.num_present(),
        missing=len(away),
        hidden=sum(map(exclusion.covers, away)),
        reduced=sum(encoded.values()),
        dropped=dropped,
        kind=kind,
        skipped=skipped,
        excluded=excluded,
        listing=store.skipped,
    )
    assert update.found - update.num_skipped - update.num_excluded == update.total, update
    return merged(distributed.gather_objects(update))


def _on_all(work: Callable[[], T]) -> T:
    """Do this in every process; a user error in one of them is raised in all."""
    result, problem = None, None
    try:
        result = work()
    except UserError as error:
        problem = str(error)
    for found in distributed.gather_objects(problem):
        if found is not None:
            raise UserError(found)
    return result


def _write_skipped(file: Path, reasons: Sequence[Mapping[str, str]]) -> None:
    if distributed.is_main():
        items = sorted(item for part in reasons for item in part.items())
        lines = "".join(f"{path}\t{reason}\n" for path, reason in items)
        with reporting_writes(file.parent), replacing(file) as stream:
            stream.write(lines.encode("utf-8", "surrogateescape"))


def _origin(encoder: Encoder, image_root: Path) -> dict[str, str | JsonObject]:
    """What the header says of where the features come from."""
    return {
        "image_root": os.path.abspath(image_root),
        "checkpoint": os.path.abspath(encoder.checkpoint),
        "options": json.loads(json.dumps(to_dict(encoder.options))),  # as it is read again
    }


def _find(
    image_root: Path, folder: Path | MilvusPlace, exclusion: Exclusion, with_videos: bool
) -> tuple[list[ImageFile], dict[str, str], dict[str, str]]:
    """The images of the root, sorted, and {path: reason} of what is skipped and excluded; raises UserError if
    there is no image.
    """
    problems: dict[str, str] = {}
    own = folder.folder if isinstance(folder, MilvusPlace) else folder
    walk, hide = find_images(image_root, own, problems, exclusion, with_videos), not sys.stderr.isatty()
    found = sorted(tqdm(walk, desc="scanning", unit="image", leave=False, disable=hide))
    if not found:
        reason = f" ({min(problems)} {problems[min(problems)]})" if problems else ""
        raise UserError(f"IMAGE_ROOT: no image below '{image_root}'{reason}; the index is unchanged")
    for pattern in exclusion.without_effect(problems.values()):
        logger.warning(f"--exclude '{pattern}' has no effect: no image or folder matches it")
    excluded = {path: reason for path, reason in problems.items() if exclusion.covers(path)}
    return found, {path: problems[path] for path in problems.keys() - excluded.keys()}, excluded


def _check_root(
    store: Store | MilvusStore, found: Sequence[ImageFile], num_known: int, image_root: Path
) -> None:
    """Raise UserError where all images of the index would be missing, or be replaced by those of another
    root: a drive that is not mounted, or the wrong folder.
    """
    entries = (*store.entries.values(), *store.others)
    present = [entry.path for entry in entries if entry.missing_since is None]
    is_other_root = os.path.abspath(image_root) != store.header.image_root
    if not present or num_known or not (is_other_root or {f.path for f in found}.isdisjoint(present)):
        return
    raise UserError(
        f"IMAGE_ROOT: none of the {len(present)} images of '{store.folder}' is in '{image_root}' (first: "
        f"'{min(present)}'), so that all would be missing; the index is unchanged. Name the right folder, "
        f"mount its drive, or choose another index with --out"
    )


def _copy_features(
    store: Store | MilvusStore, copied: Sequence[tuple[str, Content, Entry]], files: IndexedFiles
) -> None:
    """Add files that have the content of others."""
    if not copied:
        return
    slots = store.append(store.features_of([entry for *_, first in copied for entry in files.of(first)]))
    copies = files.like(
        first._replace(path=path, size=content.size, mtime_ns=content.mtime_ns, missing_since=None)
        for path, content, first in copied
    )
    store.put(entry._replace(id=store.new_id(), slot=slot) for entry, slot in zip(copies, slots, strict=True))


def _prune(store: Store | MilvusStore, unlisted: tuple[str, ...]) -> int:
    """Remove the missing images, unless their folder could not be listed; returns of how many files."""
    away = [entry for entry in store.entries.values() if entry.missing_since is not None]
    dropped = [entry for entry in away if not entry.path.startswith(unlisted)]
    store.remove(entry.id for entry in dropped)
    return len(_files_of(dropped))


def _files_of(entries: Iterable[Entry]) -> set[str]:
    """The files of these entries."""
    return {entry.path if entry.sighting is None else place_of(entry.path).file for entry in entries}
