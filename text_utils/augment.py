"""Random changes to a caption: back-translation, and the four operations of EDA (Wei & Zou, 2019); to its
tokens, those of RDE.

An operation makes n = max(1, int(alpha * words)) changes, none where alpha is 0; deletion draws for each word
instead. It returns a text that is not empty, or the caption where nothing can be changed.
"""

import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from text_utils.captions import Clean, clean_caption
from text_utils.masking import random_token
from text_utils.synonyms import Synonyms, bare

Operation = Callable[[str, float, Synonyms, random.Random], str]


@dataclass(frozen=True)
class TextAugmentation:
    """Called as (caption, back-translation or None, language, rng) -> the caption augmented, and cleaned."""

    operation: str = "none"  # a name of `OPERATIONS`, applied after back-translation and cleaning
    alpha: float = 0.0  # share of the words that it changes
    back_translation_p: float = 0.0  # probability that the back-translation takes the caption's place
    synonyms: Synonyms = field(default_factory=dict)  # of English; other languages keep their words
    clean: Clean = clean_caption  # one of `text_utils.captions.CLEANINGS`

    def __call__(self, caption: str, back_translation: str | None, language: str, rng: random.Random) -> str:
        if back_translation is not None:
            caption = back_translate(caption, back_translation, self.back_translation_p, rng)
        synonyms = self.synonyms if language == "en" else {}
        return OPERATIONS[self.operation](self.clean(caption), self.alpha, synonyms, rng)


def back_translate(caption: str, back_translation: str | None, p: float, rng: random.Random) -> str:
    """`back_translation` with probability `p`, where there is one that is not blank; else `caption`."""
    chosen = rng.random() < p
    return back_translation if chosen and back_translation and back_translation.strip() else caption


def random_deletion(caption: str, p: float, rng: random.Random) -> str:
    """`caption` with each of its words deleted with probability `p`, but never all of them.

    Where every word would go, one of them, drawn at random, stays; a caption of one word is not changed.
    """
    words = caption.split()
    if len(words) < 2:
        return caption
    kept = [word for word in words if rng.random() >= p]
    return " ".join(kept or [rng.choice(words)])


def synonym_replacement(caption: str, alpha: float, synonyms: Synonyms, rng: random.Random) -> str:
    """`caption` with n of its words, of those that have synonyms, each replaced by one of these."""
    words = caption.split()
    replaceable = _with_synonyms(words, synonyms)
    for place in rng.sample(replaceable, min(_num_changes(words, alpha), len(replaceable))):
        word = bare(words[place])
        words[place] = words[place].replace(word, rng.choice(synonyms[word]), 1)
    return " ".join(words)


def random_insertion(caption: str, alpha: float, synonyms: Synonyms, rng: random.Random) -> str:
    """`caption` with n words inserted anywhere, each a synonym of one of its words."""
    words = caption.split()
    known = [bare(words[place]) for place in _with_synonyms(words, synonyms)]
    for _ in range(_num_changes(words, alpha) if known else 0):
        words.insert(rng.randint(0, len(words)), rng.choice(synonyms[rng.choice(known)]))
    return " ".join(words)


def random_swap(caption: str, alpha: float, rng: random.Random) -> str:
    """`caption` with two of its words, drawn at random, exchanged; n times."""
    words = caption.split()
    for _ in range(_num_changes(words, alpha) if len(words) > 1 else 0):
        a, b = rng.sample(range(len(words)), 2)
        words[a], words[b] = words[b], words[a]
    return " ".join(words)


def eda(caption: str, alpha: float, synonyms: Synonyms, rng: random.Random) -> str:
    """One of the four operations, each as likely as the others."""
    return OPERATIONS[rng.choice(("synonym", "insertion", "swap", "deletion"))](caption, alpha, synonyms, rng)


def augment_tokens(
    ids: Sequence[int],
    rng: random.Random,
    share: float,
    mask_id: int,
    special_ids: Collection[int],
    vocab_size: int,
) -> list[int]:
    """The tokens of one caption, each changed with probability `share` (RDE, Qin et al., 2024).

    Of those changed 60 % become the mask, 20 % a random token, and 20 % are removed, but never the last one
    between start and end.

    Args:
        ids: start token, words, end token, without padding.
        special_ids: start, end, mask and padding: never changed, and never put in a token's place.
    """
    changed, removed = [], None
    for token in ids:
        if token in special_ids or rng.random() >= share:
            changed.append(token)
        elif (draw := rng.random()) < 0.6:
            changed.append(mask_id)
        elif draw < 0.8:
            changed.append(random_token(rng, special_ids, vocab_size))
        else:
            removed = token
    if len(changed) == 2 and removed is not None:
        changed.insert(1, removed)
    return changed


OPERATIONS: dict[str, Operation] = {
    "none": lambda caption, alpha, synonyms, rng: caption,
    "deletion": lambda caption, alpha, synonyms, rng: random_deletion(caption, alpha, rng),
    "swap": lambda caption, alpha, synonyms, rng: random_swap(caption, alpha, rng),
    "synonym": synonym_replacement,
    "insertion": random_insertion,
    "eda": eda,
    "tokens": lambda caption, alpha, synonyms, rng: caption,  # see `augment_tokens`
}
NEED_SYNONYMS = ("synonym", "insertion", "eda")


def _num_changes(words: list[str], alpha: float) -> int:
    return max(1, int(alpha * len(words))) if alpha else 0


def _with_synonyms(words: list[str], synonyms: Synonyms) -> list[int]:
    return [place for place, word in enumerate(words) if bare(word) in synonyms]
