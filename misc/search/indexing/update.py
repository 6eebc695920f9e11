"""Creating and updating an index: only images of unknown content are encoded."""

import json
import logging
import os
import sys
import time
import uuid
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor
from tqdm import tqdm

from data.images.decode import MAX_PIXELS
from misc.checkpoints.lock import LOCK, locked
from misc.process.durable import leftovers, replacing
from misc.search.encoder import Encoder
from misc.search.index import check_identity, read_header
from misc.search.indexing.exclusion import Exclusion
from misc.search.indexing.matching import Matches, missing
from misc.search.indexing.outcome import Update, is_folder, num_files
from misc.search.indexing.walk import Content, Facts, ImageFile, decode, find_images
from misc.search.ranking.engines import build_approximate
from misc.search.storage import legacy
from misc.search.storage.database import (
    APPROXIMATE,
    DATABASE,
    EXACT,
    Entry,
    Header,
    digest_of,
    reporting_writes,
)
from misc.search.storage.store import Store, create, new_features_name
from model.protocol import JsonObject
from options import UserError, to_dict

logger = logging.getLogger(__name__)

MAX_EXACT = 1_000_000  # images
SECONDS_PER_PART = 20.0
MAX_UNUSED = 0.25  # share of the features
SKIPPED = "skipped.txt"


def update_index(
    encoder: Encoder,
    image_root: Path,
    folder: Path,
    approximate: bool | None = None,
    prune: bool = False,
    exclude: Sequence[str] = (),
) -> Update:
    """Make `folder` an index of the images below `image_root`, but for those that `Exclusion` leaves out with
    the patterns `exclude`, encoding only those of unknown content; an approximate index if `approximate`
    (None: above `MAX_EXACT` images). Images whose file is away, or left out now, stay in the index, unranked,
    unless `prune`. What has been encoded can be searched every `SECONDS_PER_PART`;
    interrupted at any moment, the update resumes when called again.

    Raises:
        UserError: there are no images, or none of those of the index; the index is damaged, of another model,
            or being updated by another process; the folder is not writable.
    """
    if not image_root.is_dir():
        raise UserError(f"IMAGE_ROOT: '{image_root}' is not a folder; name the folder of the images")
    exclusion = Exclusion.of(exclude)
    with locked(folder, "INDEX", "--out"):
        return _update(encoder, image_root, folder, approximate, prune, exclusion)


def _update(
    encoder: Encoder,
    image_root: Path,
    folder: Path,
    approximate: bool | None,
    prune: bool,
    exclusion: Exclusion,
) -> Update:
    store = _open_or_create(encoder, folder)
    initial, ranked = store.header, store.slots()
    found, skipped, excluded = _find(image_root, folder, exclusion)
    unread = set(skipped)
    matches = Matches(store.entries.values(), found, image_root)
    _check_root(store, found, matches, image_root)
    store.header = replace(initial, **_origin(encoder, image_root))
    store.put(matches.put)
    store.remove(matches.removed)
    _copy_features(store, matches.copied)
    encoded = _encode(store, encoder, image_root, matches, skipped)
    store.put(missing(entry for path, entry in matches.replaced.items() if path not in encoded))
    _write_skipped(folder, skipped | excluded)
    if not len(store.slots()):
        raise UserError(f"IMAGE_ROOT: none of {len(found)} images can be read; see '{folder / SKIPPED}'")
    dropped = _prune(store, skipped) if prune else 0
    kind = _finish(store, initial, ranked, approximate)
    changed = len(encoded.keys() & matches.replaced.keys())
    away = [entry.path for entry in store.entries.values() if entry.missing_since is not None]
    update = Update(
        found=len(found) + num_files(unread) + num_files(excluded),
        **{name: matches.counts[name] for name in ("kept", "moved", "copied")},
        new=len(encoded) - changed,
        changed=changed,
        total=len(store.slots()),
        missing=len(away),
        hidden=sum(map(exclusion.covers, away)),
        reduced=sum(encoded.values()),
        dropped=dropped,
        kind=kind,
        skipped=skipped,
        excluded=excluded,
    )
    assert update.found - update.num_skipped - update.num_excluded == update.total, update
    return update


def _write_skipped(folder: Path, reasons: Mapping[str, str]) -> None:
    lines = "".join(f"{path}\t{reason}\n" for path, reason in sorted(reasons.items()))
    with reporting_writes(folder), replacing(folder / SKIPPED) as file:
        file.write(lines.encode("utf-8", "surrogateescape"))


def _open_or_create(encoder: Encoder, folder: Path) -> Store:
    """The index in a folder, which is created if the folder is empty; raises UserError if it is damaged."""
    if (folder / DATABASE).exists() or legacy.exists(folder):
        check_identity(folder, read_header(folder), encoder)
        legacy.upgrade(folder)
    else:
        if {file.name for file in folder.iterdir() if file not in leftovers(folder / DATABASE)} - {LOCK}:
            raise UserError(f"INDEX: '{folder}' contains files but no index; name a new or an empty folder")
        names = {"identity": encoder.identity, "features": new_features_name()}
        create(folder, Header(**_origin(encoder, Path()), **names, embed_dim=encoder.embed_dim))
    return Store(folder)


def _origin(encoder: Encoder, image_root: Path) -> dict[str, str | JsonObject]:
    """What the header says of where the features come from."""
    return {
        "image_root": os.path.abspath(image_root),
        "checkpoint": os.path.abspath(encoder.checkpoint),
        "options": json.loads(json.dumps(to_dict(encoder.options))),  # as it is read again
    }


def _find(
    image_root: Path, folder: Path, exclusion: Exclusion
) -> tuple[list[ImageFile], dict[str, str], dict[str, str]]:
    """The images of the root, sorted, and {path: reason} of what is skipped and excluded; raises UserError if
    there is no image.
    """
    problems: dict[str, str] = {}
    walk, hide = find_images(image_root, folder, problems, exclusion), not sys.stderr.isatty()
    found = sorted(tqdm(walk, desc="scanning", unit="image", leave=False, disable=hide))
    if not found:
        reason = f" ({min(problems)} {problems[min(problems)]})" if problems else ""
        raise UserError(f"IMAGE_ROOT: no image below '{image_root}'{reason}; the index is unchanged")
    for pattern in exclusion.without_effect(problems.values()):
        logger.warning(f"--exclude '{pattern}' has no effect: no image or folder matches it")
    excluded = {path: reason for path, reason in problems.items() if exclusion.covers(path)}
    return found, {path: problems[path] for path in problems.keys() - excluded.keys()}, excluded


def _check_root(store: Store, found: Sequence[ImageFile], matches: Matches, image_root: Path) -> None:
    """Raise UserError where all images of the index would be missing, or be replaced by those of another
    root: a drive that is not mounted, or the wrong folder.
    """
    present = [entry.path for entry in store.entries.values() if entry.missing_since is None]
    is_other_root = os.path.abspath(image_root) != store.header.image_root
    if not present or matches.num_known or not (is_other_root or {f.path for f in found}.isdisjoint(present)):
        return
    raise UserError(
        f"IMAGE_ROOT: none of the {len(present)} images of '{store.folder}' is in '{image_root}' (first: "
        f"'{min(present)}'), so that all would be missing; the index is unchanged. Name the right folder, "
        f"mount its drive, or choose another index with --out"
    )


def _copy_features(store: Store, copied: Sequence[tuple[str, Content, Entry]]) -> None:
    """Add images that have the content of others."""
    if copied:
        features = store.features.mapped()
        slots = store.append(features[[entry.slot for _, _, entry in copied]])
        for slot, (path, content, entry) in zip(slots, copied, strict=True):
            place = {"path": path, "size": content.size, "mtime_ns": content.mtime_ns, "missing_since": None}
            store.put([entry._replace(id=store.new_id(), slot=slot, **place)])


def _encode(
    store: Store, encoder: Encoder, root: Path, matches: Matches, skipped: dict[str, str]
) -> dict[str, bool]:
    """Encode images, a generation every `SECONDS_PER_PART`; on an interrupt, what has been encoded becomes
    one, too. Returns {path: whether it was decoded at reduced size} of those that could be read.
    """
    new, encoded = matches.to_encode, {}
    images: list[tuple[ImageFile, Facts]] = []
    blocks: list[np.ndarray] = []

    def end_part() -> None:
        part, features = images.copy(), np.concatenate(blocks)
        images.clear()  # now: an interrupt must not write them twice
        blocks.clear()
        for slot, (file, facts) in zip(store.append(features), part, strict=True):
            replaced = matches.replaced.get(file.path)
            number = store.new_id() if replaced is None else replaced.id
            size, mtime_ns, digest = facts.content
            store.put([Entry(number, slot, file.path, size, mtime_ns, digest, *facts[1:])])
        store.commit()
        encoded.update((file.path, facts.width * facts.height > MAX_PIXELS) for file, facts in part)

    started = time.monotonic()
    with tqdm(total=len(new), desc="encoding", unit="image", disable=not sys.stderr.isatty()) as bar:
        try:
            for batch, features in _encoded(encoder, root, new, skipped):
                images += batch
                blocks.append(features)
                bar.update(len(batch))
                if time.monotonic() - started > SECONDS_PER_PART:
                    end_part()
                    started = time.monotonic()
        finally:
            if images:
                end_part()
    return encoded


def _encoded(
    encoder: Encoder, root: Path, new: Sequence[ImageFile], skipped: dict[str, str]
) -> Iterator[tuple[list[tuple[ImageFile, Facts]], np.ndarray]]:
    """Batches of images with their (n, E) fp16 features; those that cannot be read are added to `skipped`."""
    pending: deque[list[tuple[ImageFile, Facts]]] = deque()

    def pixels() -> Iterator[Tensor]:
        """The pixels of each batch, whose images are appended to `pending`."""
        paths = [image.path for image in new]
        settings = (encoder.batch_size, encoder.on_gpu, encoder.options.data.truncated)
        for batch in decode(root, paths, encoder.processor, *settings):
            skipped.update({new[index].path: reason for index, reason in batch.problems.items()})
            if batch.indices:
                files = (new[index] for index in batch.indices)
                pending.append(list(zip(files, batch.facts, strict=True)))
                yield batch.pixels

    for features in encoder.encode_batches(pixels()):
        yield pending.popleft(), features.half().numpy()


def _prune(store: Store, skipped: Mapping[str, str]) -> int:
    """Remove the missing images, unless their folder could not be listed; returns how many."""
    unlisted = tuple(path for path in skipped if is_folder(path))
    away = [entry for entry in store.entries.values() if entry.missing_since is not None]
    dropped = [entry.id for entry in away if not entry.path.startswith(unlisted)]
    store.remove(dropped)
    return len(dropped)


def _finish(store: Store, initial: Header, ranked: np.ndarray, approximate: bool | None) -> str:
    """Make the last generation of an update, unless nothing changed; returns the kind of search.

    Args:
        initial, ranked: header and `slots` before the update.
    """
    if len(store.entries) < (1 - MAX_UNUSED) * store.header.num_slots:
        store.compact()
    slots, name, digest = store.slots(), "", ""
    kind = APPROXIMATE if (len(slots) > MAX_EXACT if approximate is None else approximate) else EXACT
    if kind == APPROXIMATE:
        is_same = store.header.features == initial.features and np.array_equal(slots, ranked)
        name, digest = (initial.approximate, initial.digest) if is_same else ("", "")
        if not name:
            logger.info("building the approximate index")
            name = f"approximate-{uuid.uuid4().hex[:8]}.faiss"
            with reporting_writes(store.folder), replacing(store.folder / name) as file:
                build_approximate(store.features.mapped(), slots, file)
            digest = digest_of(store.folder / name)
    state = {"kind": kind, "approximate": name, "digest": digest, "complete": True}
    if store.has_changes or replace(store.header, **state) != initial:
        store.commit(**state)
    store.remove_stale()
    return kind
