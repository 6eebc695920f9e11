"""Ground truth for an index: the identities of its images, and the persons that test captions describe."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os.path import join, normpath
from pathlib import Path

from data.formats import read_splits
from misc.search.index import Index
from options import UserError
from text_utils.captions import clean_caption

NUM_EXAMPLES = 3  # captions of each language, at most


@dataclass(frozen=True)
class GroundTruth:
    """The annotations of the test split: the person of each row of an index (`NOBODY` is one whom no query
    finds; None if not annotated), {caption as `clean_caption` leaves it: the persons that it describes},
    {language: some captions as annotated}, {absolute path of an image: its person}.
    """

    person_ids: Sequence[int | None]
    described: Mapping[str, set[int]]
    examples: Mapping[str, Sequence[str]]
    person_of: Mapping[str, int]

    def of(self, index: Index) -> "GroundTruth":
        """The same for another generation of the index."""
        root = index.image_root.resolve()
        return replace(self, person_ids=[self.person_of.get(join(root, path)) for path in index.paths])

    def persons(self, text: str) -> set[int]:
        """The persons that an annotated caption of these words describes; empty for other texts."""
        return self.described.get(clean_caption(text), set())


def load_ground_truth(index: Index, annotations: Path, image_root: Path | None = None) -> GroundTruth:
    """Read the test split of annotations in any known format, in all their languages, with images below
    `image_root` (None: that of the index). Raises UserError if the annotations cannot be read, or none of
    their images is in the index.
    """
    test = read_splits(annotations, ["test"], languages=None)["test"]
    root = (image_root or index.image_root).resolve()
    records = [record for by_language in test.values() for record in by_language]
    persons = {normpath(join(root, record.image)): record.person_id for record in records}
    truth = GroundTruth((), {}, {}, persons).of(index)
    if all(person is None for person in truth.person_ids):
        raise UserError(
            f"--annotations: no image of the test split of '{annotations}' is in the index, whose images are "
            f"under '{index.image_root}'; name the image root of the annotations with --images"
        )
    described: dict[str, set[int]] = {}
    for record in records:
        for caption in record.captions:
            described.setdefault(clean_caption(caption), set()).add(record.person_id)
    examples = {}
    for language, by_language in test.items():
        first = [record.captions[0] for record in by_language if record.captions]
        examples[language] = first[:: -(-len(first) // NUM_EXAMPLES)]
    return replace(truth, described=described, examples=examples)
