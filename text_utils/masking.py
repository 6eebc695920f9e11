"""Masked language modelling: which tokens of a caption are hidden, and what replaces them."""

import random
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

MASKED_SHARE = 0.15  # of the tokens; as in BERT, like the parts of it below
REPLACED_BY_MASK = 0.8
REPLACED_BY_RANDOM = 0.1
IGNORED = -100


def mask_tokens(
    input_ids: Tensor,
    attention_mask: Tensor,
    rng: random.Random,
    mask_id: int,
    special_ids: Collection[int],
    vocab_size: int,
    at_least_one: bool = False,
    mismatch: Sequence[float] | None = None,
) -> tuple[Tensor, Tensor]:
    """One caption masked as in BERT (Devlin et al., 2019): (L,) ids -> (L,) masked ids, (L,) int64 labels.

    Each token is chosen with probability 0.15. Of those chosen 80 % become the mask, 10 % a random token, and
    10 % stay; their labels are their ids, all other labels -100. The result does not depend on the padding.

    Args:
        attention_mask: (L,), 0 on padding, which is never chosen.
        special_ids: start, end and mask: never chosen, and never put in a token's place (the feature of a
            caption is read at its end token, so a second one would move it). With the padding id, as IRRA
            has it, neither is that, which is also the id of "!".
        at_least_one: where none is chosen, the first token that could have been becomes the mask. A caption
            without such a token is not changed.
        mismatch: (L,) of the tokens, which are then chosen with the probabilities of `masked_shares`.
    """
    masked, labels = input_ids.clone(), torch.full_like(input_ids, IGNORED)
    real = attention_mask.tolist()
    ordinary = [
        (position, token)
        for position, token in enumerate(input_ids.tolist())
        if real[position] and token not in special_ids
    ]
    shares = masked_shares([0.0 if mismatch is None else mismatch[position] for position, _ in ordinary])
    for (position, token), share in zip(ordinary, shares, strict=True):
        if rng.random() >= share:
            continue
        labels[position] = token
        draw = rng.random()
        if draw < REPLACED_BY_MASK:
            masked[position] = mask_id
        elif draw < REPLACED_BY_MASK + REPLACED_BY_RANDOM:
            masked[position] = random_token(rng, special_ids, vocab_size)
    if at_least_one and ordinary and (labels == IGNORED).all():
        position, token = ordinary[0]
        masked[position], labels[position] = mask_id, token
    return masked, labels


def masked_shares(mismatch: Sequence[float]) -> list[float]:
    """The probability that each token of a caption is masked, of those that may be, by its mismatch r:
    clip(r - mean r + 0.15, 0, 1) (NAM, arXiv 2405.04940).
    """
    mean = sum(mismatch) / max(1, len(mismatch))
    return [min(max(value - mean + MASKED_SHARE, 0.0), 1.0) for value in mismatch]


def random_token(rng: random.Random, special_ids: Collection[int], vocab_size: int) -> int:
    """An id below `vocab_size`, drawn uniformly from those that are not special."""
    while (token := rng.randrange(vocab_size)) in special_ids:
        pass
    return token
