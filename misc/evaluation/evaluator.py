"""Evaluation: features sharded over the processes, then the metrics of every language in both directions."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from misc.metrics import METRICS, score_metrics, summarise
from misc.process import distributed
from misc.process.logs import progress
from options import Options, UserError

ScoresOf = Callable[[Tensor], Tensor]  # numbers of queries (B,) -> scores (B, G), higher is nearer


@dataclass(frozen=True)
class Features:
    """Normalised features of a whole evaluation set, the same on every rank.

    Attributes:
        images: (G, D) of the gallery.
        texts: {language: (Q, D)} of the queries.
    """

    images: Tensor
    texts: dict[str, Tensor]

    def to(self, device: torch.device) -> "Features":
        """The features on `device`."""
        return Features(self.images.to(device), {name: rows.to(device) for name, rows in self.texts.items()})


@dataclass(frozen=True)
class Encoded:
    """An evaluation set with its features: all that scoring needs.

    Attributes:
        gallery: `image_root`, `images` (names), `person_ids` (G,), `queries` {language: `captions`,
            `person_ids` (Q,), `image_indices` (Q,)}.
    """

    gallery: Any
    features: Features


def shard(total: int) -> range:
    """The rows of a table of `total` that this process encodes, as `gather_interleaved` expects them."""
    return range(distributed.rank(), total, distributed.world_size())


@dataclass(frozen=True)
class Evaluator:
    """Encodes and scores one split with the model as it is.

    Attributes:
        clip: the towers; put into evaluation mode for the while.
        gallery: as in `Encoded`.
        image_batches: (B, 3, H, W) pixels of this process's rows of the gallery, `shard(G)`, in order.
        batch_size: captions encoded at once.
        precision: torch.float32, or what autocast computes in.
    """

    clip: nn.Module
    tokenizer: Any
    gallery: Any
    image_batches: Iterable[Tensor]
    batch_size: int
    device: torch.device
    precision: torch.dtype

    @torch.no_grad()  # not inference_mode: older gloo may not write into the tensors it makes
    def encode(self) -> Encoded:
        """The split with the features of its gallery and of its queries in every language.

        Raises:
            UserError: the model makes features that are not finite.
        """
        was_training = self.clip.training
        self.clip.eval()
        with torch.autocast(self.device.type, dtype=self.precision, enabled=self.precision != torch.float32):
            images = self._encode_images()
            texts = {
                name: self._encode_texts(queries.captions) for name, queries in self.gallery.queries.items()
            }
        self.clip.train(was_training)
        if not all(rows.isfinite().all() for rows in (images, *texts.values())):
            raise UserError(
                f"the model makes features that are not finite in {self.precision}: its weights are damaged, "
                "or overflow (try misc.precision=fp32)"
            )
        return Encoded(self.gallery, Features(images, texts))

    def __call__(self) -> dict[str, Any]:
        """The metrics: `score(encode())`."""
        return score(self.encode())

    def _encode_images(self) -> Tensor:
        rows = [
            self.clip.encode_image(batch.to(self.device, non_blocking=True)).float()
            for batch in progress(self.image_batches, "images")
        ]
        features = torch.cat(rows) if rows else torch.zeros(0, self.clip.embed_dim, device=self.device)
        return distributed.gather_interleaved(F.normalize(features, dim=1), len(self.gallery.images))

    def _encode_texts(self, captions: Sequence[str]) -> Tensor:
        """(Q, D) in order of the captions, encoded by length: short ones are not padded to long ones."""
        mine = [captions[i] for i in shard(len(captions))]
        features = torch.zeros(len(mine), self.clip.embed_dim, device=self.device)
        by_length = sorted(range(len(mine)), key=lambda i: len(mine[i]))
        for start in progress(range(0, len(mine), self.batch_size), "captions"):
            rows = by_length[start : start + self.batch_size]
            tokens = self.tokenizer([mine[i] for i in rows])
            tokens = {name: values.to(self.device, non_blocking=True) for name, values in tokens.items()}
            features[rows] = self.clip.encode_text(tokens).float()
        return distributed.gather_interleaved(F.normalize(features, dim=1), len(captions))


def cosine(queries: Tensor, gallery: Tensor) -> ScoresOf:
    """Scores by cosine similarity of normalised features (Q, D) and (G, D)."""
    return lambda rows: queries[rows] @ gallery.T


def score(encoded: Encoded, scorer: Callable[[Tensor, Tensor], ScoresOf] = cosine) -> dict[str, Any]:
    """The metrics of every language in both directions, and their average over the languages.

    Args:
        scorer: (queries, gallery) features -> what scores queries.

    Returns:
        {"languages": {language: {"t2i": {metric: percent}, "i2t": ...}}, "average": {"t2i": ..., ...}}
    """
    images, gallery_ids, languages = encoded.features.images, encoded.gallery.person_ids, {}
    for language, texts in encoded.features.texts.items():
        query_ids = encoded.gallery.queries[language].person_ids
        languages[language] = {
            "t2i": _score_sharded(scorer(texts, images), query_ids.to(images.device), gallery_ids),
            "i2t": _score_sharded(scorer(images, texts), gallery_ids.to(images.device), query_ids),
        }
    average = {
        direction: {m: sum(f[direction][m] for f in languages.values()) / len(languages) for m in METRICS}
        for direction in ("t2i", "i2t")
    }
    return {"languages": languages, "average": average}


def _score_sharded(scores_of: ScoresOf, query_ids: Tensor, gallery_ids: Tensor) -> dict[str, float]:
    device = query_ids.device
    mine = torch.tensor(shard(len(query_ids)), dtype=torch.int64, device=device)
    rows = score_metrics(lambda part: scores_of(mine[part]), query_ids[mine], gallery_ids.to(device))
    return summarise(distributed.gather_interleaved(rows, len(query_ids)))


def build_evaluators(
    clip: nn.Module,
    tokenizer: Any,
    galleries: Mapping[str, Any],
    image_batches: Callable[[Any, Sequence[int]], Iterable[Tensor]],
    options: Options,
    device: torch.device,
    precision: torch.dtype,
) -> dict[str, Evaluator]:
    """The evaluators of the splits `galleries`, by name, None left out.

    `image_batches(gallery, rows)` yields the pixels of gallery rows.
    """
    return {
        name: Evaluator(
            clip,
            tokenizer,
            gallery,
            image_batches(gallery, shard(len(gallery.images))),
            options.data.test_batch_size,
            device,
            precision,
        )
        for name, gallery in galleries.items()
        if gallery is not None
    }


def encode_all(evaluators: Mapping[str, Evaluator]) -> dict[str, Encoded]:
    """The sets of several evaluators, by name, encoded one after another."""
    return {name: evaluator.encode() for name, evaluator in evaluators.items()}
