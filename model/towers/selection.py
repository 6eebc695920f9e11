"""Token selection (RDE, ITSELF): which tokens of an image or a caption, and how many of them."""

import torch
import torch.nn.functional as F
from torch import Tensor


def number_of(share: float, places: int) -> int:
    """K, how many tokens are selected where there is place for that many: a share of them, one at least."""
    return max(1, int(share * places))


def rollout_row(first: Tensor, second: Tensor, position: Tensor, drops: bool) -> Tensor:
    """(B, L) the row at `position` (B, 1) of the attention rollout (arXiv 2005.00928) of two blocks: of the
    product of their (A + I) / 2, the rows of each scaled to a sum of 1.

    Args:
        first, second: (B, L, L) the attention of the earlier block and of the later one.
        drops: whether the smallest quarter of the entries of each counts as 0 (ITSELF).
    """
    if drops:
        first, second = _without_smallest(first), _without_smallest(second)
    at = torch.arange(second.shape[1], device=second.device) == position
    row = (at[..., None] * second).sum(dim=1)
    row = (row + at) / (1 + row.sum(dim=1, keepdim=True)) / (1 + first.sum(dim=2))
    return (row[..., None] * first).sum(dim=1) + row  # a matrix product would follow autocast


def _without_smallest(attention: Tensor) -> Tensor:
    """(B, L, L) with a quarter of all entries, the smallest, at 0; the first entry stays, as released."""
    entries = attention.flatten(1)
    smallest = entries.topk(entries.shape[1] // 4, dim=1, largest=False).indices
    rest = entries.scatter(1, smallest, 0.0)
    return torch.cat([entries[:, :1], rest[:, 1:]], dim=1).view_as(attention)


def words_of(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """(B, L) bool: the tokens between the first and the last of each caption, or its last one where none is.

    Id 0, in CLIP's vocabulary a "!" inside a word, does not count: RDE's release takes it for padding.
    """
    position = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    last = attention_mask.sum(dim=1, keepdim=True) - 1
    words = (position > 0) & (position < last) & (input_ids != 0)
    return words | ((position == last) & ~words.any(dim=1, keepdim=True))


def most_attended_words(
    attention: Tensor, words: Tensor, share: float, text_length: int
) -> tuple[Tensor, Tensor]:
    """(B, K) the positions of the words of the largest attention, and (B, K) bool which of them there are.

    Args:
        attention: (B, L), L at most text_length.
        words: (B, L) bool, the tokens that may be selected.
        text_length: the maximum number of tokens of a caption, start and end included: the others are places
            for words. A caption of fewer than K words has arbitrary positions after them.
    """
    number = number_of(share, text_length - 2)
    present = torch.arange(number, device=words.device) < words.sum(dim=1, keepdim=True)
    return _most_attended(attention, words, number), present


def most_attended_patches(attention: Tensor, share: float) -> Tensor:
    """(B, K) the positions of the patches of the largest attention (B, 1 + P), of which the first is the
    class token's.
    """
    length = attention.shape[1]
    is_patch = torch.arange(length, device=attention.device) > 0
    return _most_attended(attention, is_patch, number_of(share, length - 1))


def _most_attended(attention: Tensor, allowed: Tensor, number: int) -> Tensor:
    """(B, number) the positions of the largest attention (B, L) among the `allowed`, (B, L) or (L,)."""
    scores = F.pad(attention.masked_fill(~allowed, -1.0), (0, number), value=-1.0)  # L may be smaller
    # Of `allowed`, not of `attention`: a trace may take the length of what a model computed for a constant.
    positions = F.pad(torch.arange(allowed.shape[-1], device=allowed.device), (0, number))
    return positions[scores.topk(number, dim=1).indices]
