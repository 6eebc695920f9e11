"""An index of a folder of images, opened for search."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data.images.regions import Place, place_of
from misc.search.ranking.engines import ApproximateEngine, Engine, ExactEngine, Rows, Selection
from misc.search.ranking.filters import Filters, mask_of
from misc.search.ranking.milvus import MilvusEngine, MilvusFacts
from misc.search.storage import database, legacy, milvus
from misc.search.storage.database import DATABASE, Features, Header
from misc.search.storage.facts import DatabaseFacts, Facts, LegacyFacts
from misc.search.storage.places import MilvusPlace
from options import UserError, load_options

if TYPE_CHECKING:
    from misc.search.encoder import Encoder

MAX_SELECTIONS = 32  # of the latest filters, a megabyte each for a million images


@dataclass(frozen=True)
class Index:
    """One generation of an index: the images of a folder, but missing ones, and their features.

    Attributes:
        header: what the index in `folder` knows about itself.
        paths: N paths relative to `image_root`, sorted.
        ids: N numbers, which name the images in later generations, too.
        num_missing: how many images were not in the folder at the latest update; they are not ranked.
        engine: compares queries with the features.
        facts: what else is known of the images.
    """

    folder: Path | MilvusPlace
    header: Header
    paths: list[str]
    ids: np.ndarray
    num_missing: int
    engine: Engine
    facts: Facts
    _selections: dict[Filters, Selection] = field(default_factory=dict, repr=False, compare=False)

    @property
    def image_root(self) -> Path:
        """The folder of the images, absolute."""
        return Path(self.header.image_root)

    @property
    def truncated(self) -> str:
        """`data.truncated`, as the index was made with."""
        return load_options(self.header.options).data.truncated

    @staticmethod
    def open(folder: Path | MilvusPlace) -> "Index":
        """Open the latest generation; raises UserError if there is none, or it is damaged."""
        if isinstance(folder, MilvusPlace):
            return _open_milvus(folder)
        if not (folder / DATABASE).exists() and legacy.exists(folder):
            try:
                return _open_legacy(folder)
            except UserError:
                if not (folder / DATABASE).exists():  # else an update has just copied and removed it
                    raise
        if not (folder / DATABASE).exists():
            raise UserError(
                f"INDEX: '{folder}' contains no index; create one with python -m misc.search index"
            )
        with database.reporting_damage(folder), database.connected(folder) as connection:
            header = database.header_in(connection)
            ids, slots, missing, paths = database.images_in(connection, header)
            features = Features(folder / header.features, header.num_slots, header.embed_dim)
            features.check()
            by_path = sorted(np.flatnonzero(~missing).tolist(), key=paths.__getitem__)
            _check_images(folder, len(by_path))
            present, order = [paths[row] for row in by_path], np.array(by_path)
            del by_path, paths  # the features need the memory
            rows = Rows(slots[order], header.num_slots)
            # Still in the transaction: an update removes the files of a generation once nobody reads it.
            if header.kind == database.EXACT:
                engine = ExactEngine(features.read_into, rows, header.embed_dim)
            else:
                file = folder / header.approximate
                engine = ApproximateEngine(file, features.mapped(), rows, header.digest)
        facts = DatabaseFacts(folder, ids[order], header.columns)
        return Index(folder, header, present, ids[order], int(missing.sum()), engine, facts)

    def is_latest(self) -> bool:
        """Whether no update has made another generation; raises UserError if that cannot be read."""
        return self.header == read_header(self.folder)

    def row_of(self, number: int) -> int:
        """The row of the image with this id; raises UserError if there is none."""
        rows = np.flatnonzero(self.ids == number)
        if not len(rows):
            raise UserError(f"There is no image {number} in the index; search again")
        return int(rows[0])

    @property
    def has_people(self) -> bool:
        """Whether the entries are people in photos and videos."""
        return bool(self.header.people)

    @property
    def margin(self) -> float:
        """Of an index of people, the share of a box that was added on each side of it."""
        return float(self.header.people.get("margin", 0))

    def files(self, rows: slice = slice(None)) -> list[str]:
        """The file of each of these entries, relative to the image root."""
        paths = self.paths[rows]
        return [place_of(path).file for path in paths] if self.has_people else paths

    def place(self, row: int) -> Place:
        """The file of an entry, and which part of it."""
        return place_of(self.paths[row]) if self.has_people else Place(self.paths[row])

    def paths_of(self, ids: Sequence[int]) -> dict[int, str]:
        """{id: path} of those of these images that are in the index."""
        rows = np.flatnonzero(np.isin(self.ids, ids)).tolist() if len(ids) else []
        return {int(self.ids[row]): self.paths[row] for row in rows}

    def features_of(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """The (n, E) normalised fp16 features of n rows."""
        return self.engine.features_of(rows)

    def load_encoder(self, checkpoint: Path | None = None) -> "Encoder":
        """Load the encoder for queries, from `checkpoint` if the weights file was moved; raises UserError if
        the file does not exist, or contains other weights.
        """
        from misc.search.encoder import build_encoder  # a third of a gigabyte that the features may need

        file = checkpoint or Path(self.header.checkpoint)
        if not file.exists():
            raise UserError(f"CHECKPOINT: '{file}' does not exist; name its new place with --checkpoint FILE")
        encoder = build_encoder(load_options(self.header.options), file)
        check_identity(self.folder, self.header, encoder)
        return encoder

    def select(self, filters: Filters) -> Selection:
        """The images that pass the filters, computed once; raises UserError if they name no folder."""
        selection = self._selections.pop(filters, None)
        if selection is None:
            selection = self.engine.rows.select(mask_of(filters, self.paths, self.files, self.facts))
            while len(self._selections) >= MAX_SELECTIONS:
                self._selections.pop(next(iter(self._selections)), None)
        self._selections[filters] = selection  # the latest one last
        return selection

    def search(
        self, queries: np.ndarray, k: int, selection: Selection | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the k best images of each query by inner product, best first, ties in the order of rows:
        queries (Q, E) fp32 -> (Q, k) fp32 scores and (Q, k) int64 rows, k at least 1 and limited to N, or to
        the number of the selected images.
        """
        assert k > 0, k
        k = min(k, len(self.paths) if selection is None else len(selection))
        if not k:
            return np.zeros((len(queries), 0), np.float32), np.zeros((len(queries), 0), np.int64)
        return self.engine.search(np.ascontiguousarray(queries, np.float32), k, selection)

    def count(self, query: np.ndarray, min_score: float, selection: Selection | None = None) -> int:
        """How many of the images have at least this score for a query (E,) fp32, up to its rounding."""
        return self.engine.count(query, min_score, selection)


def read_header(folder: Path | MilvusPlace) -> Header:
    """The header of an index of any format; raises UserError if it is damaged."""
    if isinstance(folder, MilvusPlace):
        return milvus.read_header(milvus.connect(folder), folder)
    is_legacy = not (folder / DATABASE).exists() and legacy.exists(folder)
    return legacy.read_header(folder) if is_legacy else database.read_header(folder)


def _open_legacy(folder: Path) -> Index:
    header = legacy.read_header(folder)
    _check_images(folder, header.generation)
    entries, features = legacy.read(folder, header)
    with database.reporting_damage(folder):
        engine = ExactEngine(
            features.read_into, Rows(np.arange(len(entries)), len(entries)), header.embed_dim
        )
    paths, ids = [entry.path for entry in entries], np.arange(len(entries))
    return Index(folder, header, paths, ids, 0, engine, LegacyFacts(entries))


def _open_milvus(place: MilvusPlace) -> Index:
    """Of two images of one path, which a kill can leave until the next update, neither is ranked."""
    client = milvus.connect(place)
    header = milvus.read_header(client, place)
    entries = milvus.read_entries(client, place, header)
    places = Counter(entry.path for entry in entries)
    present = [entry for entry in entries if entry.missing_since is None and places[entry.path] == 1]
    present.sort(key=lambda entry: entry.path)
    _check_images(place, len(present))
    paths, ids = [entry.path for entry in present], np.array([entry.id for entry in present])
    engine = MilvusEngine(client, place, ids, header.embed_dim)
    return Index(place, header, paths, ids, len(entries) - len(present), engine, MilvusFacts(present))


def _check_images(folder: Path | MilvusPlace, number: int) -> None:
    if number == 0:
        raise UserError(f"INDEX: '{folder}' has no images yet; run the same index command again")


def check_identity(folder: Path | MilvusPlace, header: Header, encoder: "Encoder") -> None:
    """Raise UserError unless the encoder has the identity of the index in `folder`."""
    if header.identity != encoder.identity:
        raise UserError(
            f"CHECKPOINT: '{folder}' was made by another model than '{encoder.checkpoint}' with these "
            f"options: by '{header.checkpoint}' as it was then; use that one, or index into another folder"
        )
