"""Queries: sentences and images with weights, descriptions to avoid, and what to find more or less of."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from misc.search.encoder import Encoder
from misc.search.index import Index
from options import UserError

WITHOUT_WEIGHT = 0.5
MORE_WEIGHT, LESS_WEIGHT = 0.75, 0.15
COMMAS = re.compile("[,;،؛、，；､﹐﹑፣]")

ImageSource = Image.Image | np.ndarray | int


@dataclass(frozen=True)
class Query:
    """What to find; an image may be given by its pixels, by its feature (E,) or, from the index, by its id.

    Attributes:
        texts: sentences, with their weights.
        images: images, with their weights. Those of the index are left out of the ranking.
        without: descriptions to avoid.
        more, less: ids of images of the index, to find more or less of their kind.
    """

    texts: tuple[tuple[str, float], ...] = ()
    images: tuple[tuple[ImageSource, float], ...] = ()
    without: tuple[str, ...] = ()
    more: tuple[int, ...] = ()
    less: tuple[int, ...] = ()

    @property
    def all_texts(self) -> list[str]:
        """All texts to encode."""
        return [*(text for text, _ in self.texts), *self.without]

    @property
    def ids(self) -> set[int]:
        """The images of the index that are part of the query itself."""
        return {source for source, _ in self.images if isinstance(source, int)}


def descriptions(texts: Iterable[str]) -> tuple[str, ...]:
    """The descriptions in texts that may have several each, between commas of any script."""
    parts = ([part.strip() for part in COMMAS.split(text) if part.strip()] or [text] for text in texts)
    return tuple(part for several in parts for part in several)


def query_features(encoder: Encoder, queries: Sequence[Query], index: Index | None = None) -> np.ndarray:
    """Encode Q queries; returns (Q, E) fp32 features, whose inner product with an image's is its score.

    With f_i the features of sentences and images, w_i their weights, M and L those of `more` and `less`, and
    n_1 ... n_m those of `without`, an image x has the score cos(q, x) - 0.5 mean_i cos(n_i, x), where

        p = f_1 if it is alone, otherwise normalise(sum_i w_i f_i)
        q = p without M and L, otherwise normalise(p + 0.75 mean(M) - 0.15 mean(L)).

    That is Rocchio's relevance feedback with the usual weights (Manning, Raghavan, Schütze, "Introduction to
    Information Retrieval", 2008, section 9.1.1). The lower weight of `without` reorders images that match the
    query, and seldom promotes one that does not.

    Args:
        index: has the images that queries name by id.

    Raises:
        UserError: a query has nothing to find, a text without words, or weights that are negative or all 0;
            or there is no image with an id.
    """
    for number, query in enumerate(queries, start=1):
        _check(number, query, encoder)
    distinct = list(dict.fromkeys(text for query in queries for text in query.all_texts))
    texts = dict(zip(distinct, encoder.encode_texts(distinct), strict=True))
    sources = {id(source): source for query in queries for source, _ in query.images}
    pixels = {key: source for key, source in sources.items() if isinstance(source, Image.Image)}
    images = dict(zip(pixels, encoder.encode_images(list(pixels.values())), strict=True))
    for key, source in sources.items():
        if key not in pixels:
            images[key] = _stored(index, [source])[0] if isinstance(source, int) else torch.from_numpy(source)
    return np.stack([_combine(query, texts, images, index).numpy() for query in queries])


def _check(number: int, query: Query, encoder: Encoder) -> None:
    """Raise UserError for a query that cannot be encoded."""
    empty = [text for text in query.all_texts if not encoder.tokenizer.clean(text)]
    if empty or not (query.texts or query.images or query.more):
        found = f"found {empty[0][:40]!r}" if empty else "found nothing"
        raise UserError(f"query {number}: expected words that describe a person, {found}")
    weights = [weight for _, weight in (*query.texts, *query.images)]
    wrong = [weight for weight in weights if not (math.isfinite(weight) and weight >= 0)]
    if wrong or (weights and not any(weights)):
        found = wrong[0] if wrong else "only 0"
        raise UserError(f"query {number}: expected weights of at least 0, one of them above, found {found}")


def _stored(index: Index | None, ids: Sequence[int]) -> Tensor:
    """The features (n, E) fp32 of images of the index."""
    assert index is not None
    rows = [index.row_of(number) for number in ids]
    return torch.from_numpy(index.features_of(rows).astype(np.float32))


def _combine(
    query: Query, texts: Mapping[str, Tensor], images: Mapping[int, Tensor], index: Index | None
) -> Tensor:
    parts = [(texts[text], weight) for text, weight in query.texts]
    parts += [(images[id(source)], weight) for source, weight in query.images]
    feature = parts[0][0] if len(parts) == 1 else sum(weight * part for part, weight in parts)
    if len(parts) > 1:
        feature = F.normalize(feature, dim=0)
    if query.more or query.less:
        if query.more:
            feature = feature + MORE_WEIGHT * _stored(index, query.more).mean(dim=0)
        if query.less:
            feature = feature - LESS_WEIGHT * _stored(index, query.less).mean(dim=0)
        feature = F.normalize(feature, dim=0)
    unwanted = [texts[text] for text in query.without]
    return feature - WITHOUT_WEIGHT * sum(unwanted) / len(unwanted) if unwanted else feature
