"""What the user should know of a text before trusting its ranking."""

import copy
import unicodedata
from collections.abc import Iterable, Sequence

from data.types import language_name
from misc.search.encoder import Encoder
from text_utils.tokenizer import CLIPTokenizer

HAN = ("CJK",)
# Scripts by the first word of the names that Unicode gives their letters.
SCRIPTS = {
    "ch": HAN,
    "ja": ("CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"),
    "ko": ("HANGUL", "CJK"),
    **dict.fromkeys(("ru", "uk", "bg"), ("CYRILLIC",)),
    **dict.fromkeys(("ar", "fa", "ur"), ("ARABIC",)),
    "el": ("GREEK",),
    "he": ("HEBREW",),
    "hi": ("DEVANAGARI",),
    "th": ("THAI",),
}
LATIN = ("en", "fr", "de", "es", "it", "pt", "nl", "pl", "tr", "vi", "id", "sv", "cs", "ro")
MANY = 1_000_000


def text_warnings(encoder: Encoder, texts: Sequence[str]) -> list[str]:
    """A sentence for each text in a script that the model has not learned, and for each that is cut."""
    distinct = list(dict.fromkeys(texts))
    learned = learned_scripts(encoder)
    warnings = []
    for text in distinct:
        foreign = sorted(scripts_of(text) - learned) if learned else []
        if foreign:
            languages = ", ".join(encoder.options.data.languages)
            warnings.append(
                f"the model has not learned {', '.join(name.capitalize() for name in foreign)} text, as in "
                f"{shortened(text)}; it was trained on: {languages}"
            )
    limit = encoder.tokenizer.text_length
    for text, number in zip(distinct, token_counts(encoder, distinct), strict=True):
        if number > limit:
            warnings.append(
                f"{shortened(text)} has {number} tokens, but the model reads {limit}: its end is cut off"
            )
    return warnings


def learned_scripts(encoder: Encoder) -> set[str]:
    """The scripts that the model was trained on; empty: not known, or many. Only CLIP's own vocabulary, which
    is of English words, is known here.
    """
    languages = {language_name(language) for language in encoder.options.data.languages}
    is_english = isinstance(encoder.tokenizer, CLIPTokenizer) and not encoder.model.clip.is_multilingual
    if not is_english or not languages <= {*SCRIPTS, *LATIN}:
        return set()
    return {"LATIN"}.union(*(SCRIPTS.get(language, ()) for language in languages))


def scripts_of(text: str) -> set[str]:
    """The scripts of a text's letters, of those in `SCRIPTS`, and "LATIN"."""
    known = {"LATIN"}.union(*SCRIPTS.values())
    letters = filter(str.isalpha, unicodedata.normalize("NFKC", text))
    return {unicodedata.name(letter, "").split(" ")[0] for letter in letters} & known


def token_counts(encoder: Encoder, texts: Iterable[str]) -> list[int]:
    """The number of tokens of each text, without a limit, start and end included."""
    unlimited = copy.copy(encoder.tokenizer)
    unlimited.text_length = MANY
    return [int(unlimited([text])["attention_mask"].sum()) for text in texts]


def shortened(text: str) -> str:
    """The text in quotes, at most 40 characters of it."""
    return repr(text if len(text) <= 40 else f"{text[:39]}…")
