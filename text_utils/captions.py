"""Cleaning of captions: what happens to a text before it is split into tokens."""

import html
import re
import string
from collections.abc import Callable, Mapping

import ftfy

NO_SPACE = re.compile(r'[^\s.!"()*#:;~]')  # what `clean_caption` leaves something of
SPACES = re.compile(r"[ \t\n\r\f]+")
TO_SPACE = str.maketrans(dict.fromkeys('.!"()*#:;~', " "))
WITHOUT_PUNCTUATION = str.maketrans("_", " ", string.punctuation.replace("_", ""))

Clean = Callable[[str], str]


def clean_caption(text: str) -> str:
    """TBPS-CLIP's cleaning: lower case, each of `. ! " ( ) * # : ; ~` a space, single spaces.

    Idempotent. Punctuation alone gives "". Only the tokenizer limits the length.
    """
    return " ".join(text.lower().translate(TO_SPACE).split())


def has_words(text: str) -> bool:
    """Whether `clean_caption` leaves anything, without the work."""
    return NO_SPACE.search(text) is not None


def keep_caption(text: str) -> str:
    """The caption on one line, with single spaces: IRRA and RDE leave the rest to CLIP's tokenizer.

    Idempotent. Unusual white space is left to that too: it can be part of a letter in a wrong encoding.
    """
    return SPACES.sub(" ", text).strip()


def repaired_caption(text: str) -> str:
    """The text as CLIP's tokenizer first repairs it, with single spaces: Unicode in a wrong encoding, then
    HTML entities, resolved twice. The case is kept.
    """
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split())


def lower_caption(text: str) -> str:
    """The repaired text in lower case, as OpenAI's CLIP and SigLIP 2 were trained with."""
    return repaired_caption(text).lower()


def canonical_caption(text: str) -> str:
    """SigLIP's canonical form: repaired, no ASCII punctuation (an underscore is a space), lower case."""
    return " ".join(repaired_caption(text).translate(WITHOUT_PUNCTUATION).lower().split())


# Weights expect captions cleaned as in their training: `data.cleaning`. The first two are idempotent, the
# others but for entities within entities. Each strips spaces.
CLEANINGS: Mapping[str, Clean] = {
    "tbps-clip": clean_caption,
    "none": keep_caption,
    "whitespace": repaired_caption,  # these three have open_clip's names
    "lower": lower_caption,
    "canonicalize": canonical_caption,
}
