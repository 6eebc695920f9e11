"""What annotations say of an index: whom its images show, and whom the test captions describe."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os.path import join, normpath
from pathlib import Path
from typing import TYPE_CHECKING

from data.formats import read_splits
from options import UserError
from text_utils.captions import clean_caption

if TYPE_CHECKING:
    from misc.search.index import Index

NUM_EXAMPLES = 3  # of each language, at most


@dataclass(frozen=True)
class Truth:
    """The test split, laid over the rows of an index.

    Attributes:
        person_ids: of each row; None where the annotations do not have the image.
        described: {cleaned caption: the persons that it was written for}.
        examples: {language: some captions, as they were written}.
    """

    person_ids: Sequence[int | None]
    described: dict[str, set[int]]
    examples: Mapping[str, Sequence[str]]

    def persons(self, text: str) -> set[int]:
        """Whom the sentence was written for; nobody where it is none of the captions."""
        return self.described.get(clean_caption(text), set())


def load_truth(index: "Index", annotations: Path, image_root: Path | None = None) -> Truth:
    """The test split of annotations of any known format, in all its languages.

    Args:
        image_root: where the images of the annotations lie; None: they are those of the index.

    Raises:
        UserError: annotations that cannot be read; none of their images is in the index.
    """
    test = read_splits(annotations, ["test"], languages=None)["test"]
    own, root = index.image_root.resolve(), (image_root or index.image_root).resolve()
    records = [record for by_language in test.values() for record in by_language]
    persons = {normpath(join(root, record.image)): record.person_id for record in records}
    person_ids = [persons.get(join(own, path)) for path in index.paths]
    if all(person is None for person in person_ids):
        raise UserError(
            f"--annotations: no image of the test split of '{annotations}' is in the index, whose images lie "
            f"under '{index.image_root}'; name the annotations' own image root with --images"
        )
    described: dict[str, set[int]] = {}
    for record in records:
        for caption in record.captions:
            described.setdefault(clean_caption(caption), set()).add(record.person_id)
    examples = {
        language: [record.captions[0] for record in by_language[:: -(-len(by_language) // NUM_EXAMPLES)]]
        for language, by_language in test.items()
    }
    return Truth(person_ids, described, examples)
