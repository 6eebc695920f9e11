"""An index of a folder of images, opened and searched."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from misc.search import store
from misc.search.encoder import Encoder, build_encoder
from misc.search.engines import ApproximateEngine, ExactEngine
from misc.search.store import Segment
from options import UserError, load_options

EXACT, APPROXIMATE = "exact", "approximate"


@dataclass(frozen=True)
class Index:
    """The images of a folder and their features, to be searched.

    Attributes:
        image_root: the folder of the images, absolute.
        paths: N of them, relative to `image_root`, sorted.
        features: (N, D) fp16, normalised, read from the disk as they are used.
        identity: that of the encoder they were made by.
        checkpoint: its file, absolute; `options` are its options as `to_dict` has them.
        engine: what compares queries with the features.
    """

    folder: Path
    image_root: Path
    paths: list[str]
    features: np.ndarray
    identity: str
    checkpoint: Path
    options: dict[str, Any]
    engine: ExactEngine | ApproximateEngine

    @staticmethod
    def open(folder: Path) -> "Index":
        """Open what `update_index` wrote.

        Raises:
            UserError: there is no index, one without images yet, or one that is damaged.
        """
        head = store.read_head(folder)
        if head is None:
            raise UserError(f"INDEX: '{folder}' holds no index; make one with python -m misc.search index")
        if head["generation"] == 0:
            raise UserError(f"INDEX: '{folder}' was never finished; run the same index command again")
        segment = Segment(folder, str(head["generation"]))
        try:
            paths = [found.path for found in segment.images()]
            features = segment.features(len(paths), head["embed_dim"])
            if head["kind"] == EXACT:
                engine = ExactEngine(features)
            else:
                engine = ApproximateEngine(approximate_file(folder, head["generation"]), features)
        except store.BROKEN as error:
            raise store.damaged(folder, error) from error
        return Index(
            folder=folder,
            image_root=Path(head["image_root"]),
            paths=paths,
            features=features,
            identity=head["identity"],
            checkpoint=Path(head["checkpoint"]),
            options=head["options"],
            engine=engine,
        )

    def check_identity(self, encoder: Encoder) -> None:
        """Raise UserError unless the encoder is the one that the features are of."""
        check_identity(self.folder, self.identity, self.checkpoint, encoder)

    def load_encoder(self, checkpoint: Path | None = None) -> Encoder:
        """The encoder for queries, from another place of its file where one is given.

        Raises:
            UserError: the file is not there, or another.
        """
        file = checkpoint or self.checkpoint
        if not file.exists():
            raise UserError(
                f"CHECKPOINT: '{file}' does not exist; say where it is now with --checkpoint FILE"
            )
        encoder = build_encoder(load_options(self.options), file)
        self.check_identity(encoder)
        return encoder

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k best images of each query by inner product, best first, equal scores in the order of rows.

        Args:
            queries: (Q, D) fp32.
            k: at least 1; more than N is N.

        Returns:
            (Q, k) fp32 scores, (Q, k) int64 rows.
        """
        assert k > 0, k
        return self.engine.search(np.ascontiguousarray(queries, np.float32), min(k, len(self.paths)))


def check_identity(folder: Path, identity: str, checkpoint: str | Path, encoder: Encoder) -> None:
    """Raise UserError unless the encoder has the identity that the index in `folder` is of."""
    if identity != encoder.identity:
        raise UserError(
            f"CHECKPOINT: '{folder}' is of another model than '{encoder.checkpoint}' with these options: of "
            f"'{checkpoint}' as it was; use that, or index into another folder"
        )


def approximate_file(folder: Path, generation: int) -> Path:
    """Where the approximate index of a generation is."""
    return folder / f"approximate-{generation}.faiss"
