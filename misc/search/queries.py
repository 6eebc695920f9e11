"""What is asked for: sentences, images, both, and what shall not be there."""

from collections.abc import Sequence
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
    """One search: a sentence, an image, or both; and descriptions of what is not wanted.

    Attributes:
        weight: share of the image where there is a sentence too, in [0, 1].
    """

    text: str | None = None
    image: Image.Image | None = None
    without: tuple[str, ...] = ()
    weight: float = 0.5


def query_features(encoder: Encoder, queries: Sequence[Query]) -> np.ndarray:
    """(Q, D) fp32, whose inner product with the feature x of an image is the score of the image.

    With t and v the features of sentence and image, q = t, v, or (1 - weight) t + weight v normalised, and
    n_1 ... n_m those of `without`: score = cos(q, x) - 0.5 mean_i cos(n_i, x). What is not wanted has half
    the weight of what is: it reorders what fits, and seldom brings up what does not.

    Raises:
        UserError: a query of neither words nor image, or `without` no words.
    """
    for number, query in enumerate(queries, start=1):
        given = [text for text in (query.text, *query.without) if text is not None]
        empty = [text for text in given if not encoder.tokenizer.clean(text)]
        if empty or (query.text is None and query.image is None):
            found = f"found {empty[0][:40]!r}" if empty else "found nothing"
            raise UserError(f"query {number}: words that describe somebody are expected, {found}")
    texts = [text for query in queries for text in (query.text, *query.without) if text is not None]
    distinct = list(dict.fromkeys(texts))
    of_text = dict(zip(distinct, encoder.encode_texts(distinct), strict=True))
    pictures = {id(query.image): query.image for query in queries if query.image is not None}
    of_image = dict(zip(pictures, encoder.encode_images(list(pictures.values())), strict=True))
    return np.stack([_combine(query, of_text, of_image).numpy() for query in queries])


def _combine(query: Query, of_text: dict[str, Tensor], of_image: dict[int, Tensor]) -> Tensor:
    if query.image is None:
        feature = of_text[query.text]
    elif query.text is None:
        feature = of_image[id(query.image)]
    else:
        mixed = (1 - query.weight) * of_text[query.text] + query.weight * of_image[id(query.image)]
        feature = F.normalize(mixed, dim=0)
    unwanted = [of_text[text] for text in query.without]
    return feature - WITHOUT_WEIGHT * sum(unwanted) / len(unwanted) if unwanted else feature
