"""Evaluation: features sharded over the processes, then the metrics of every language in both directions."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from data.types import EvaluationSet
from misc.evaluation.similarity_distribution import mean_similarity_distribution
from misc.metrics import METRICS, Results, score_metrics, summarise
from misc.process import distributed
from misc.process.logs import progress
from model.protocol import Embedder, Tokenizer
from options import Options, UserError

ScoresOf = Callable[[Tensor], Tensor]  # row numbers of queries (B,) -> scores (B, G), higher is nearer
ImageBatches = Callable[[EvaluationSet, Sequence[int]], Iterable[Tensor]]  # pixels of these gallery rows


@dataclass(frozen=True)
class Features:
    """Normalised features of a whole evaluation set, the same on every rank."""

    images: Tensor  # (G, E) of the gallery
    texts: dict[str, Tensor]  # {language: (Q, E)} of the queries

    def to(self, device: torch.device) -> "Features":
        """The features on `device`."""
        return Features(self.images.to(device), {name: rows.to(device) for name, rows in self.texts.items()})


@dataclass(frozen=True)
class Encoded:
    """An evaluation set with its features: all that scoring needs."""

    evaluation_set: EvaluationSet
    features: Features


def shard(total: int) -> range:
    """The rows of a table of `total` that this process encodes, as `gather_interleaved` expects them."""
    return range(distributed.rank(), total, distributed.world_size())


@dataclass(frozen=True)
class Evaluator:
    """Encodes and scores one split with the model's current weights.

    Attributes:
        model: in evaluation mode while it encodes.
        image_batches: (B, 3, H, W) pixels of this process's rows of the gallery, `shard(G)`, in order.
        batch_size: captions encoded at once.
        precision: torch.float32, or what autocast computes in.
    """

    model: Embedder
    tokenizer: Tokenizer
    evaluation_set: EvaluationSet
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
        was_training = self.model.training
        self.model.eval()
        with torch.autocast(self.device.type, dtype=self.precision, enabled=self.precision != torch.float32):
            images = self._encode_images()
            queries = self.evaluation_set.queries
            texts = {name: self._encode_texts(part.captions) for name, part in queries.items()}
        self.model.train(was_training)
        if not all(rows.isfinite().all() for rows in (images, *texts.values())):
            raise UserError(
                f"the model makes features that are not finite in {self.precision}: its weights are damaged, "
                "or overflow (try misc.precision=fp32)"
            )
        return Encoded(self.evaluation_set, Features(images, texts))

    def __call__(self) -> Results:
        """The metrics: `score(encode())`."""
        return score(self.encode())

    def _encode_images(self) -> Tensor:
        rows = [
            self.model.embed(batch.to(self.device, non_blocking=True)).float()
            for batch in progress(self.image_batches, "images")
        ]
        features = torch.cat(rows) if rows else torch.zeros(0, self.model.embed_dim, device=self.device)
        return distributed.gather_interleaved(F.normalize(features, dim=1), len(self.evaluation_set.images))

    def _encode_texts(self, captions: Sequence[str]) -> Tensor:
        """(Q, E) in the order of the captions; batches are sorted by length, which saves padding."""
        mine = [captions[i] for i in shard(len(captions))]
        features = torch.zeros(len(mine), self.model.embed_dim, device=self.device)
        by_length = sorted(range(len(mine)), key=lambda i: len(mine[i]))
        for start in progress(range(0, len(mine), self.batch_size), "captions"):
            rows = by_length[start : start + self.batch_size]
            tokens = self.tokenizer([mine[i] for i in rows])
            tokens = {name: values.to(self.device, non_blocking=True) for name, values in tokens.items()}
            features[rows] = self.model.embed(tokens).float()
        return distributed.gather_interleaved(F.normalize(features, dim=1), len(captions))


def cosine(queries: Tensor, gallery: Tensor) -> ScoresOf:
    """Scores by cosine similarity of normalised features (Q, E) and (G, E)."""
    return lambda rows: queries[rows] @ gallery.T


def score(encoded: Encoded, scorer: Callable[[Tensor, Tensor], ScoresOf] = cosine) -> Results:
    """The metrics of each language both ways, and their mean; `scorer` takes (queries, gallery) features.

    An image without captions in a language is no query there; in the gallery it is always.
    """
    images, gallery_ids, languages = encoded.features.images, encoded.evaluation_set.person_ids, {}
    for language, texts in encoded.features.texts.items():
        queries = encoded.evaluation_set.queries[language]
        described = queries.image_indices.unique()  # sorted: all images in order, where all have captions
        asking, asked = images[described.to(images.device)], gallery_ids[described].to(images.device)
        languages[language] = {
            "t2i": _score_sharded(scorer(texts, images), queries.person_ids.to(images.device), gallery_ids),
            "i2t": _score_sharded(scorer(asking, texts), asked, queries.person_ids),
        }
    average = {
        direction: {m: sum(f[direction][m] for f in languages.values()) / len(languages) for m in METRICS}
        for direction in ("t2i", "i2t")
    }
    return {"languages": languages, "average": average}


def msd_of(encoded: Encoded) -> dict[str, dict[str, float]]:
    """{language: mSD of its captions, as `mean_similarity_distribution` returns it}."""
    images, gallery_ids = encoded.features.images, encoded.evaluation_set.person_ids
    return {
        language: mean_similarity_distribution(
            texts,
            images,
            encoded.evaluation_set.queries[language].person_ids.to(images.device),
            gallery_ids.to(images.device),
        )
        for language, texts in encoded.features.texts.items()
    }


def _score_sharded(scores_of: ScoresOf, query_ids: Tensor, gallery_ids: Tensor) -> dict[str, float]:
    device = query_ids.device
    mine = torch.tensor(shard(len(query_ids)), dtype=torch.int64, device=device)
    rows = score_metrics(lambda part: scores_of(mine[part]), query_ids[mine], gallery_ids.to(device))
    return summarise(distributed.gather_interleaved(rows, len(query_ids)))


def build_evaluators(
    model: Embedder,
    tokenizer: Tokenizer,
    evaluation_sets: Mapping[str, EvaluationSet | None],
    image_batches: ImageBatches,
    options: Options,
    device: torch.device,
    precision: torch.dtype,
) -> dict[str, Evaluator]:
    """The evaluators of the sets that there are, by name."""
    size = options.data.test_batch_size
    return {
        name: Evaluator(
            model, tokenizer, each, image_batches(each, shard(len(each.images))), size, device, precision
        )
        for name, each in evaluation_sets.items()
        if each is not None
    }


def encode_all(evaluators: Mapping[str, Evaluator]) -> dict[str, Encoded]:
    """The sets of several evaluators, by name, encoded one after another."""
    return {name: evaluator.encode() for name, evaluator in evaluators.items()}
