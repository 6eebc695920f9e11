"""Masked language modelling: which tokens of a caption are hidden, and what replaces them."""

import random
from collections.abc import Collection

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
) -> tuple[Tensor, Tensor]:
    """One caption masked as in BERT (Devlin et al., 2019): (L,) ids -> (L,) masked ids, (L,) int64 labels.

    Each token is chosen with probability 0.15. Of those chosen 80 % become the mask, 10 % a random token, and
    10 % stay; their labels are their ids, all other labels -100. The result does not depend on the padding.

    Args:
        attention_mask: (L,), 0 on padding, which is never chosen.
        special_ids: start, end and mask: never chosen, and never put in a token's place (the feature of a
            caption is read at its end token, so a second one would move it).
    """
    masked, labels = input_ids.clone(), torch.full_like(input_ids, IGNORED)
    real = attention_mask.tolist()
    for position, token in enumerate(input_ids.tolist()):
        if not real[position] or token in special_ids or rng.random() >= MASKED_SHARE:
            continue
        labels[position] = token
        draw = rng.random()
        if draw < REPLACED_BY_MASK:
            masked[position] = mask_id
        elif draw < REPLACED_BY_MASK + REPLACED_BY_RANDOM:
            while (other := rng.randrange(vocab_size)) in special_ids:
                pass
            masked[position] = other
    return masked, labels
