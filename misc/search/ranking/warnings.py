"""What the user should know of a text before trusting its ranking."""

import copy
import unicodedata
from collections.abc import Iterable, Sequence

from data.types import language_name
from misc.search.encoder import Encoder
from text_utils.tokenizer import CLIPTokenizer

# Scripts by the first word of the names that Unicode gives their letters.
SCRIPTS = {
    "ch": ("CJK",),
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
OTHERS = ("ARMENIAN", "BENGALI", "ETHIOPIC", "GEORGIAN", "GUJARATI", "GURMUKHI", "KANNADA", "KHMER", "LAO")
OTHERS += ("MALAYALAM", "MONGOLIAN", "MYANMAR", "ORIYA", "SINHALA", "SYRIAC", "TAMIL", "TELUGU", "TIBETAN")
MANY = 1_000_000


def text_warnings(encoder: Encoder, texts: Sequence[str]) -> list[str]:
    """A sentence if texts are in scripts that the model has not learned, and one if texts are cut."""
    distinct = list(dict.fromkeys(texts))
    learned, limit = learned_scripts(encoder), encoder.tokenizer.text_length
    foreign = {text: scripts_of(text) - learned for text in distinct} if learned else {}
    unknown = [text for text, scripts in foreign.items() if scripts]
    warnings = []
    if unknown:
        names = ", ".join(sorted(set().union(*foreign.values()))).title().replace("Cjk", "Chinese")
        languages = ", ".join(encoder.options.data.languages)
        warnings.append(
            f"the model has not learned {names} text, as in {_first_of(unknown)}; its languages: {languages}"
        )
    cut = [text for text, n in zip(distinct, token_counts(encoder, distinct), strict=True) if n > limit]
    if cut:
        warnings.append(f"the model reads {limit} tokens of a text: cut off is the end of {_first_of(cut)}")
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
    """The scripts of a text's letters, but for symbols such as µ."""
    known = {"LATIN", *OTHERS}.union(*SCRIPTS.values())
    names = (unicodedata.name(letter, "") for letter in filter(str.isalpha, text))
    return {name.split(" ")[0] for name in names} & known


def token_counts(encoder: Encoder, texts: Iterable[str]) -> list[int]:
    """The number of tokens of each text, without a limit, start and end included."""
    unlimited = copy.copy(encoder.tokenizer)
    unlimited.text_length = MANY
    return [int(unlimited([text])["attention_mask"].sum()) for text in texts]


def _first_of(texts: Sequence[str]) -> str:
    first = repr(texts[0] if len(texts[0]) <= 40 else f"{texts[0][:39]}…")
    return first if len(texts) == 1 else f"{first} and {len(texts) - 1} more"
