"""From the number of a training sample to its captions."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data.columns.records import Records
from data.images.contained import IN_TAR
from data.types import Record

Choice = tuple[Record, int]  # a record and the number of a caption in it


class Choices(Sequence[tuple[Choice, ...]]):
    """The captions that each training sample may have, all of one image, as (record, number of the caption
    in it). There are as many samples of an image as captions, one after another.

    Args:
        languages: the records in each language.
        draws: whether a sample has a caption in each language of which one is drawn, and an image as many
            samples as captions in the language with most; otherwise every caption of every language is a
            sample, one language after another.
    """

    def __init__(self, languages: Sequence[Records], draws: bool) -> None:
        self.languages, self.draws = languages, draws
        numbers = [records.num_captions for records in languages]
        self.numbers = np.max(numbers, axis=0) if draws else np.concatenate(numbers)  # of each image
        self.ends = np.cumsum(self.numbers)

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getitem__(self, index: int) -> tuple[Choice, ...]:
        place = range(len(self))[index]
        row = int(np.searchsorted(self.ends, place, side="right"))
        number = place - int(self.ends[row]) + int(self.numbers[row])
        if not self.draws:
            return ((self._record(row), number),)
        of_image = (records[row] for records in self.languages)
        return tuple((record, number % len(record.captions)) for record in of_image if record.captions)

    def _record(self, row: int) -> Record:
        """Of the languages, one after another."""
        for records in self.languages:
            if row < len(records):
                return records[row]
            row -= len(records)
        raise IndexError(row)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def digest(self) -> str:
        """What tells whether the samples are those of an earlier run."""
        return " ".join(records.digest() for records in self.languages)

    def images(self) -> list[str]:
        """The different images."""
        names = [name for records in self._each_image() for name in records.images()]
        return list(dict.fromkeys(names[row] for row in np.flatnonzero(self.numbers).tolist()))

    def files(self) -> tuple[list[str], npt.NDArray[np.int64]]:
        """The tar files that the images are in, and the number of the file of each sample.

        Raises:
            ValueError: an image that is in none; its path.
        """
        parts = [chunk for records in self._each_image() for chunk in records.column("image").chunks]
        images = pa.chunked_array(parts, pa.large_string())
        is_inside = pc.match_substring_regex(images, f"^{IN_TAR.pattern}$", ignore_case=True)
        if (row := pc.index(is_inside, False).as_py()) >= 0:
            raise ValueError(images[row].as_py())
        files = pc.replace_substring_regex(images, f"(?i)^{IN_TAR.pattern}$", r"\1")
        encoded = files.combine_chunks().dictionary_encode()
        numbers = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        return encoded.dictionary.to_pylist(), np.repeat(numbers, self.numbers)

    def persons(self) -> npt.NDArray[np.int64]:
        """The person of each sample, numbered from 0 in the order of their ids."""
        persons = np.concatenate([records.person_ids for records in self._each_image()])
        described = np.flatnonzero(self.numbers)
        _, labels = np.unique(persons[described], return_inverse=True)
        return np.repeat(labels, self.numbers[described])

    def noisy(self) -> npt.NDArray[np.bool_]:
        """Whether `data.noise` took the sample's caption from another pair."""
        marks = np.concatenate([records.noisy for records in self._each_image()])
        return marks if len(marks) else np.zeros(len(self), bool)

    def _each_image(self) -> Sequence[Records]:
        """Records that belong to `numbers`: those of the first language stand for all where one is drawn."""
        return self.languages[:1] if self.draws else self.languages
