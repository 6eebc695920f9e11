"""An index of a folder of images, opened for search."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from misc.search import store
from misc.search.encoder import Encoder, build_encoder
from misc.search.engines import ApproximateEngine, ExactEngine
from misc.search.store import Header, Segment
from options import UserError, load_options


@dataclass(frozen=True)
class Index:
    """The images of a folder and their features.

    Attributes:
        header: the content of `index.json` in `folder`.
        paths: N paths relative to `image_root`, sorted.
        features: (N, E) fp16, normalised, memory-mapped; `engine` compares queries with them.
    """

    folder: Path
    header: Header
    paths: list[str]
    features: np.ndarray
    engine: ExactEngine | ApproximateEngine

    @property
    def image_root(self) -> Path:
        """The folder of the images, absolute."""
        return Path(self.header.image_root)

    @property
    def truncated(self) -> str:
        """`data.truncated`, as the index was made with."""
        return load_options(self.header.options).data.truncated

    @staticmethod
    def open(folder: Path) -> "Index":
        """Open an index; raises UserError if there is none, or it was never finished, or it is damaged."""
        header = store.read_header(folder)
        if header is None:
            raise UserError(
                f"INDEX: '{folder}' contains no index; create one with python -m misc.search index"
            )
        if header.generation == 0:
            raise UserError(f"INDEX: '{folder}' was never finished; run the same index command again")
        segment = Segment(folder, header.generation)
        with store.reporting_damage(folder):
            paths = [image.path for image in segment.images()]
            features = segment.features(len(paths), header.embed_dim)
            if header.kind == store.EXACT:
                engine = ExactEngine(features)
            else:
                engine = ApproximateEngine(segment.approximate_file, features)
        return Index(folder, header, paths, features, engine)

    def load_encoder(self, checkpoint: Path | None = None) -> Encoder:
        """Load the encoder for queries, from `checkpoint` if the weights file was moved; raises UserError if
        the file does not exist, or contains other weights.
        """
        file = checkpoint or Path(self.header.checkpoint)
        if not file.exists():
            raise UserError(f"CHECKPOINT: '{file}' does not exist; name its new place with --checkpoint FILE")
        encoder = build_encoder(load_options(self.header.options), file)
        check_identity(self.folder, self.header, encoder)
        return encoder

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Find the k best images of each query by inner product, best first, ties in the order of rows:
        queries (Q, E) fp32 -> (Q, k) fp32 scores and (Q, k) int64 rows, k at least 1 and limited to N.
        """
        assert k > 0, k
        return self.engine.search(np.ascontiguousarray(queries, np.float32), min(k, len(self.paths)))


def check_identity(folder: Path, header: Header, encoder: Encoder) -> None:
    """Raise UserError unless the encoder has the identity of the index in `folder`."""
    if header.identity != encoder.identity:
        raise UserError(
            f"CHECKPOINT: '{folder}' was made by another model than '{encoder.checkpoint}' with these "
            f"options: by '{header.checkpoint}' as it was then; use that one, or index into another folder"
        )
