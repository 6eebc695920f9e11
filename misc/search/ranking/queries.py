"""Queries: sentences, images, both, and descriptions to avoid."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from misc.search.encoder import Encoder
from options import UserError

WITHOUT_WEIGHT = 0.5


@dataclass(frozen=True)
class Query:
    """A sentence, an image weighted in [0, 1] if there is a sentence too, or both; descriptions to avoid."""

    text: str | None = None
    image: Image.Image | None = None
    without: tuple[str, ...] = ()
    image_weight: float = 0.5

    @property
    def texts(self) -> list[str]:
        """All texts to encode."""
        return [text for text in (self.text, *self.without) if text is not None]


def query_features(encoder: Encoder, queries: Sequence[Query]) -> np.ndarray:
    """Encode Q queries; returns (Q, E) fp32 features, whose inner product with an image's is its score.

    With t and v the features of sentence and image, q = t, v, or (1 - w) t + w v normalised, and n_1 ... n_m
    those of `without`, an image x has the score cos(q, x) - 0.5 mean_i cos(n_i, x). The lower weight reorders
    images that match the query, and seldom promotes one that does not. Raises UserError if a query has
    neither words nor an image, or an entry of `without` has no words.
    """
    for number, query in enumerate(queries, start=1):
        empty = [text for text in query.texts if not encoder.tokenizer.clean(text)]
        if empty or (query.text is None and query.image is None):
            found = f"found {empty[0][:40]!r}" if empty else "found nothing"
            raise UserError(f"query {number}: expected words that describe a person, {found}")
    distinct = list(dict.fromkeys(text for query in queries for text in query.texts))
    text_features = dict(zip(distinct, encoder.encode_texts(distinct), strict=True))
    images = {id(query.image): query.image for query in queries if query.image is not None}
    image_features = dict(zip(images, encoder.encode_images(list(images.values())), strict=True))
    return np.stack([_combine(query, text_features, image_features).numpy() for query in queries])


def _combine(query: Query, texts: Mapping[str, Tensor], images: Mapping[int, Tensor]) -> Tensor:
    text, image = texts.get(query.text), images.get(id(query.image))
    if text is None or image is None:
        feature = image if text is None else text
    else:
        feature = F.normalize((1 - query.image_weight) * text + query.image_weight * image, dim=0)
    unwanted = [texts[text] for text in query.without]
    return feature - WITHOUT_WEIGHT * sum(unwanted) / len(unwanted) if unwanted else feature
