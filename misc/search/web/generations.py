"""The generations of an index that a server shows."""

import logging
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from data.images.regions import Place, place_of
from misc.search.encoder import Encoder
from misc.search.index import Index, check_identity
from misc.search.storage.database import reporting_damage
from misc.search.storage.facts import Detail
from misc.search.storage.sightings import Sighting
from misc.search.truth import GroundTruth
from misc.search.web.pictures import Source
from misc.search.web.refusals import RefusedError
from misc.search.web.schema import Named
from options import UserError

logger = logging.getLogger(__name__)

MAX_FOLDERS = 100  # offered as a filter


@dataclass(frozen=True)
class Generation:
    """A generation of the index, and what is known of its images.

    Attributes:
        warnings: why it is not the latest one.
    """

    index: Index
    truth: GroundTruth | None
    warnings: tuple[str, ...] = ()

    @cached_property
    def folders(self) -> list[str]:
        """The first folders of the first two levels that hold images."""
        found: dict[str, None] = {}
        for path in self.index.paths:
            parts = self.place(path).file.split("/")[:-1][:2]
            found.update(dict.fromkeys("/".join(parts[: number + 1]) for number in range(len(parts))))
            if len(found) >= MAX_FOLDERS:
                break
        return sorted(found)[:MAX_FOLDERS]

    @cached_property
    def has_videos(self) -> bool:
        """Whether entries are of videos."""
        return self.index.has_people and any(place_of(path).time is not None for path in self.index.paths)

    def place(self, path: str) -> Place:
        """What the path of an entry names."""
        return place_of(path) if self.index.has_people else Place(path)

    def source(self, path: str) -> Source:
        """What a picture of the entry of this path is of."""
        return Source(self.index.image_root, self.place(path), self.index.margin)

    def named(self, ids: Collection[int]) -> dict[int, Named]:
        """Those of these images that are in the index, as answers name them."""
        has_people = self.index.has_people
        return {
            number: Named(id=number, path=path, file=place_of(path).file if has_people else None)
            for number, path in self.paths_of(ids).items()
        }

    def sightings_of(self, ids: Sequence[int]) -> dict[int, Sighting]:
        """How these entries came about; empty if they are whole images."""
        if not self.index.has_people:
            return {}
        details = self.index.facts.of(ids)
        with reporting_damage(self.index.folder):
            return {number: Sighting.of_text(details.get(number, Detail()).sighting) for number in ids}

    def paths_of(self, ids: Collection[int]) -> dict[int, str]:
        """The paths, relative to the image root, of those of these images that are in the index."""
        rows = np.flatnonzero(np.isin(self.index.ids, np.array(list(ids), np.int64))).tolist()
        return {int(self.index.ids[row]): self.index.paths[row] for row in rows}

    def check_ids(self, ids: Collection[int]) -> None:
        """Raise RefusedError if one of these images is not in the index."""
        unknown = set(ids) - self.paths_of(ids).keys() if ids else ()
        if unknown:
            raise RefusedError(404, f"There is no image {min(unknown)} in the index; search again")


class Generations:
    """Opens the latest generation of an index."""

    def __init__(self, index: Index, encoder: Encoder, truth: GroundTruth | None) -> None:
        self.current = Generation(index, truth)
        self._encoder, self._opening = encoder, threading.Lock()

    def latest(self) -> Generation:
        """The latest generation; where it cannot be opened, the previous one with a warning."""
        index, truth = self.current.index, self.current.truth
        with self._opening:
            try:
                if not index.is_latest():
                    index = Index.open(index.folder)
                    check_identity(index.folder, index.header, self._encoder)
                    self.current = Generation(index, truth and truth.of(index))
            except UserError as error:
                logger.warning(f"the page shows the images of the previous update: {error}")
                return Generation(
                    self.current.index,
                    self.current.truth,
                    (f"These are the images of the previous update: {error}",),
                )
            return self.current

    def having(self, number: int) -> Generation:
        """A generation that has the image of this id; raises RefusedError if there is none."""
        if self.current.paths_of([number]):
            return self.current
        latest = self.latest()
        latest.check_ids([number])
        return latest
