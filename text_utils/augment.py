"""Random changes to a caption (paper, section "Data augmentation": back-translation, random deletion)."""

import random


def back_translate(caption: str, back_translation: str | None, p: float, rng: random.Random) -> str:
    """`back_translation` with probability `p`, where there is one that is not blank; else `caption`."""
    chosen = rng.random() < p
    return back_translation if chosen and back_translation and back_translation.strip() else caption


def random_deletion(caption: str, p: float, rng: random.Random) -> str:
    """`caption` with each of its words deleted with probability `p`, but never all of them.

    Where every word would go, one of them, drawn at random, stays; a caption of one word is left alone.
    """
    words = caption.split()
    if len(words) < 2:
        return caption
    kept = [word for word in words if rng.random() >= p]
    return " ".join(kept or [rng.choice(words)])
