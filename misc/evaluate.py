"""Evaluation: features sharded over the processes, then the metrics of every language in both directions."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from misc import distributed
from misc.metrics import METRICS, query_metrics, summarise
from options import Options


@dataclass(frozen=True)
class Features:
    """Normalised features of a whole evaluation set, the same on every rank.

    Attributes:
        images: (G, D) of the gallery.
        texts: {language: (Q, D)} of the queries.
    """

    images: Tensor
    texts: dict[str, Tensor]


def shard(total: int) -> range:
    """The rows of a table of `total` that this process encodes, as `gather_interleaved` expects them."""
    return range(distributed.rank(), total, distributed.world_size())


@dataclass(frozen=True)
class Evaluator:
    """Encodes and scores one split with the model as it is.

    Attributes:
        clip: the towers; put into evaluation mode for the while.
        gallery: `images` (names), `person_ids` (G,), `queries` {language: `captions`, `person_ids`, ...}.
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
    def encode(self) -> Features:
        """The features of the gallery and of the queries of every language."""
        was_training = self.clip.training
        self.clip.eval()
        with torch.autocast(self.device.type, dtype=self.precision, enabled=self.precision != torch.float32):
            images = self._encode_images()
            texts = {
                name: self._encode_texts(queries.captions) for name, queries in self.gallery.queries.items()
            }
        self.clip.train(was_training)
        return Features(images, texts)

    def score(self, features: Features) -> dict[str, Any]:
        """The metrics of every language in both directions, and their average over the languages.

        Returns:
            {"languages": {language: {"t2i": {metric: percent}, "i2t": ...}}, "average": {"t2i": ..., ...}}
        """
        gallery_ids, languages = self.gallery.person_ids, {}
        for language, texts in features.texts.items():
            query_ids = self.gallery.queries[language].person_ids
            languages[language] = {
                "t2i": _score_sharded(texts, features.images, query_ids, gallery_ids),
                "i2t": _score_sharded(features.images, texts, gallery_ids, query_ids),
            }
        average = {
            direction: {m: sum(f[direction][m] for f in languages.values()) / len(languages) for m in METRICS}
            for direction in ("t2i", "i2t")
        }
        return {"languages": languages, "average": average}

    def __call__(self) -> dict[str, Any]:
        """The metrics: `score(encode())`."""
        return self.score(self.encode())

    def _encode_images(self) -> Tensor:
        rows = [
            self.clip.encode_image(b.to(self.device, non_blocking=True)).float() for b in self.image_batches
        ]
        features = torch.cat(rows) if rows else torch.zeros(0, self.clip.embed_dim, device=self.device)
        return distributed.gather_interleaved(F.normalize(features, dim=1), len(self.gallery.images))

    def _encode_texts(self, captions: Sequence[str]) -> Tensor:
        """(Q, D) in order of the captions, encoded by length: short ones are not padded to long ones."""
        mine = [captions[i] for i in shard(len(captions))]
        features = torch.zeros(len(mine), self.clip.embed_dim, device=self.device)
        by_length = sorted(range(len(mine)), key=lambda i: len(mine[i]))
        for start in range(0, len(mine), self.batch_size):
            rows = by_length[start : start + self.batch_size]
            tokens = self.tokenizer([mine[i] for i in rows])
            tokens = {name: values.to(self.device, non_blocking=True) for name, values in tokens.items()}
            features[rows] = self.clip.encode_text(tokens).float()
        return distributed.gather_interleaved(F.normalize(features, dim=1), len(captions))


def _score_sharded(
    queries: Tensor, gallery: Tensor, query_ids: Tensor, gallery_ids: Tensor
) -> dict[str, float]:
    mine = torch.tensor(shard(len(queries)))
    device = queries.device
    rows = query_metrics(queries[mine], gallery, query_ids[mine].to(device), gallery_ids.to(device))
    return summarise(distributed.gather_interleaved(rows, len(queries)))


def top_matches(texts: Tensor, images: Tensor, k: int = 10) -> tuple[Tensor, Tensor]:
    """The k best gallery rows of each query, best first: ((Q, k) rows, (Q, k) cosine similarities)."""
    scores, rows = (texts @ images.T).sort(dim=1, descending=True, stable=True)
    return rows[:, :k].cpu(), scores[:, :k].cpu()


def build_evaluator(
    clip: nn.Module,
    tokenizer: Any,
    gallery: Any,
    image_batches: Callable[[Any, Sequence[int]], Iterable[Tensor]],
    options: Options,
    device: torch.device,
    precision: torch.dtype,
) -> Evaluator:
    """The evaluator of one split; `image_batches(gallery, rows)` yields the pixels of gallery rows."""
    images = image_batches(gallery, shard(len(gallery.images)))
    return Evaluator(clip, tokenizer, gallery, images, options.data.test_batch_size, device, precision)
