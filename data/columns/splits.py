"""The splits of a data set, in columns."""

from collections.abc import Mapping
from dataclasses import dataclass

from data.columns.records import Records

Columns = Mapping[str, Records]  # by language; the languages are aligned by index


@dataclass(frozen=True)
class Splits:
    """The records of each split by language, the languages aligned by index; {}: no such split."""

    train: Columns
    val: Columns
    test: Columns

    @property
    def num_identities(self) -> int:
        """Number of different persons in the training split."""
        return next((records.num_persons for records in self.train.values()), 0)
